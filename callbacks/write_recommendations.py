"""Writes the items that a recommender puts on top for every user."""

import csv
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info

from callbacks.processes import gather
from catwalk.errors import CatwalkError
from catwalk.ranking import NO_ITEM
from datamodules.interaction_triplets import InteractionTriplets
from lightning_modules.recommender import Recommender

Lists = dict[int, list[int]]
"""Items by user, best first."""


class WriteRecommendations(Callback):
    """During ``catwalk predict`` with a recommender, writes ``user_id,rank,item_id`` for every user, best first.

    Args:
        output: CSV file to write.
        top_k: Length of the lists; the longest of the recommender's own ``top_k`` by default.
    """

    def __init__(self, output: Path, top_k: int | None = None) -> None:
        if top_k is not None and top_k < 1:
            raise CatwalkError(f"top_k must be at least 1, got {top_k}")
        self.output = Path(output)
        self.top_k = top_k
        self._lists: Lists = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is a recommender."""
        is_recommender = isinstance(pl_module, Recommender) and isinstance(trainer.datamodule, InteractionTriplets)  # type: ignore[attr-defined]
        if not is_recommender:
            raise CatwalkError("WriteRecommendations works with a recommender on InteractionTriplets")
        if self.top_k is not None:
            pl_module.require_list_length(self.top_k)  # type: ignore[operator]

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
        data = trainer.datamodule  # type: ignore[attr-defined]
        lists = {user: items for share in shares for user, items in share.items()}
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with self.output.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["user_id", "rank", "item_id"])
            for user in sorted(lists):
                items = [data.catalogue.item_ids[item] for item in lists[user] if item != NO_ITEM]
                writer.writerows([data.split.user_ids[user], rank, item] for rank, item in enumerate(items, start=1))
        rank_zero_info(f"Wrote the recommendations of {len(lists)} users to {self.output}")
