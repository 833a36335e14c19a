"""Writes how far every single attacked item gets in a test: its mean rank, and the share of the lists that shows it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from callbacks.both_stages import MeasuringCallback
from callbacks.observed_attack import FollowedItems
from callbacks.ranked_lists import purchases_of, require_lists
from callbacks.table_files import table_file, write_table
from catwalk.metrics.groups import POPULARITY_GROUPS, popularity_groups
from catwalk.metrics.item_reach import ItemRanks
from lightning_modules.data_protocols import RecommenderData, recommender_data_of
from lightning_modules.measured_module import Stage
from lightning_modules.recommender import Ranking, Recommender, checked_lengths, ranks_of


class WriteAttackedItems(MeasuringCallback):
    """During ``catwalk test`` with a recommender, writes a row per attacked item, in the order of the catalogue.

    The same items before and after an attack can so be compared one by one. The columns:

    - ``item_id``;
    - ``popularity``: ``cold``, ``tail`` or ``head`` (:func:`catwalk.metrics.groups.popularity_groups`);
    - ``purchases``: how many users bought the item in training;
    - ``mean_rank``: its mean rank among the candidates of a user, over the users of whom it is a candidate; 1 is the
      best, and equal scores rank by item number. Empty for an item that is nobody's candidate;
    - ``candidates``: the share of users of whom it is a candidate; the others have bought it;
    - ``hr@K``, for every K: the share of users in whose list of K the item is.

    Args:
        output: CSV file to write, or Parquet if its name ends in ``.parquet``.
        attack: Folder of an earlier attack; null for the attack of the run.
        top_k: List lengths K.
        items: Ids of the items to write about, in the place of an attack's.

    Raises:
        CatwalkError: If the file's name ends in something else, there is no K, a K is less than 1, both ``attack`` and
            ``items`` are given, or an item twice.
    """

    def __init__(
        self,
        output: Path,
        attack: Path | None = None,
        top_k: Sequence[int] = (20,),
        items: Sequence[str] | None = None,
    ) -> None:
        self.output = table_file("WriteAttackedItems.output", output)
        self.top_k = checked_lengths(top_k)
        self.followed = FollowedItems(self, attack, items)
        self._items: Tensor
        self._ranks: ItemRanks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out whose items they are, and have lists made that are long enough."""
        require_lists(self, pl_module, max(self.top_k))
        self.followed.find(trainer)

    def begin_measuring(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Have the items ranked."""
        if stage == "test":
            assert isinstance(pl_module, Recommender)
            data = recommender_data_of(trainer, type(self).__name__)
            items = self.followed.read(data.catalogue)
            assert items is not None  # required
            self._items = items.sort().values
            self._ranks = ItemRanks(self.top_k, self._items, data.num_items).to(pl_module.device)
            pl_module.require_ranks(self._items)

    def on_validation_batch_end(self, *arguments: Any, **settings: Any) -> None:
        """Look at the test alone."""

    def measure(self, trainer: Trainer, pl_module: LightningModule, outputs: Ranking, batch: Any) -> None:
        """Count the lists of a block of users."""
        self._ranks.update(outputs["recommended"], ranks_of(outputs, self._items))

    def end_measuring(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Write what all processes have counted."""
        if stage == "test":
            found = self._ranks.compute()
            if trainer.is_global_zero:
                table = self._table(recommender_data_of(trainer, type(self).__name__), found)
                write_table(table, self.output)
                rank_zero_info(f"Wrote how far {len(table)} items get to {self.output}")

    def _table(self, data: RecommenderData, found: dict[str, Tensor]) -> pa.Table:
        purchases = purchases_of(data)
        groups = popularity_groups(purchases)[self._items]
        # torchmetrics makes scalars of single values.
        mean_rank, candidates = (found[name].reshape(-1).cpu() for name in ("mean_rank", "candidates"))
        columns = {
            "item_id": pa.array([data.catalogue.item_ids[item] for item in self._items.tolist()], pa.string()),
            "popularity": pa.array([POPULARITY_GROUPS[group] for group in groups.tolist()], pa.string()),
            "purchases": pa.array(purchases[self._items].numpy()),
            "mean_rank": pa.array(mean_rank.numpy(), mask=mean_rank.isnan().numpy()),
            "candidates": pa.array(candidates.numpy()),
        }
        for k, hit_rate in zip(self.top_k, found["hit_rate"].reshape(len(self.top_k), -1).cpu(), strict=True):
            columns[f"hr@{k}"] = pa.array(hit_rate.numpy())
        return pa.table(columns)
