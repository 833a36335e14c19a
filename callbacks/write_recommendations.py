"""Writes the items that a recommender puts on top for every user."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info

from callbacks.processes import gather
from callbacks.table_files import table_file, write_table
from catwalk.errors import CatwalkError
from catwalk.shop.user_items import NO_ITEM
from lightning_modules.data_protocols import recommender_data_of
from lightning_modules.recommender import Recommender

Lists = dict[int, list[int]]
"""Items by user, best first."""


class WriteRecommendations(Callback):
    """During ``catwalk predict`` with a recommender, writes ``user_id,rank,item_id`` for every user, best first.

    Args:
        output: CSV file to write, or Parquet if its name ends in ``.parquet``.
        top_k: Length of the lists; the longest of the recommender's own ``top_k`` by default.

    Raises:
        CatwalkError: If the file's name ends in something else, it is a folder, or ``top_k`` is less than 1.
    """

    def __init__(self, output: Path, top_k: int | None = None) -> None:
        if top_k is not None and top_k < 1:
            raise CatwalkError(f"top_k must be at least 1, got {top_k}")
        self.output = table_file("WriteRecommendations.output", output)
        self.top_k = top_k
        self._lists: Lists = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is a recommender."""
        if not isinstance(pl_module, Recommender):
            raise CatwalkError(f"WriteRecommendations works with a recommender, not with a {type(pl_module).__name__}")
        recommender_data_of(trainer, type(self).__name__)
        if self.top_k is not None:
            pl_module.require_list_length(self.top_k)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with nothing collected."""
        self._lists = {}

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the lists of a block of users."""
        assert isinstance(pl_module, Recommender)
        # The lists are longer where another callback looks further down.
        length = max(pl_module.top_k) if self.top_k is None else self.top_k
        lists = outputs["recommended"][:, :length].tolist()
        self._lists.update(zip(outputs["users"].tolist(), lists, strict=True))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the lists of all processes and write them, by user."""
        shares = gather([self._lists], trainer.world_size)
        self._lists = {}
        if not trainer.is_global_zero:
            return
        data = recommender_data_of(trainer, type(self).__name__)
        lists = {user: items for share in shares for user, items in share.items()}
        places = [
            (data.split.user_ids[user], rank, data.catalogue.item_ids[item])
            for user in sorted(lists)
            for rank, item in enumerate((item for item in lists[user] if item != NO_ITEM), start=1)
        ]
        users, ranks, items = zip(*places, strict=True) if places else ((), (), ())
        columns = {
            "user_id": pa.array(users, pa.string()),
            "rank": pa.array(ranks, pa.int64()),
            "item_id": pa.array(items, pa.string()),
        }
        write_table(pa.table(columns), self.output)
        rank_zero_info(f"Wrote the recommendations of {len(lists)} users to {self.output}")
