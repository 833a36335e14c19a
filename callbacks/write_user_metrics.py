"""Writes what a test found of every single user, for statistics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from callbacks.processes import gather
from callbacks.ranked_lists import CategoriesBy, item_categories, require_lists
from callbacks.table_files import table_file, write_table
from catwalk.metrics.category_hit_ratio import category_hits_per_user
from catwalk.metrics.held_out import target_ranks
from lightning_modules.data_protocols import RecommenderData, recommender_data_of
from lightning_modules.recommender import checked_lengths


class Users(NamedTuple):
    """Some users, with their held-out items ``(B, T)``, those items' ranks, AUC, and hits ``(number of K, B, C)``."""

    users: Tensor
    targets: Tensor
    ranks: Tensor
    auc: Tensor
    hits: Tensor


class WriteUserMetrics(Callback):
    """During ``catwalk test`` with a recommender, writes a row per user, in the order of the users' numbers.

    The same users under another attack can so be compared in pairs. The columns:

    - ``user_id``;
    - ``held_out_item_id``: empty without one;
    - ``rank``: the held-out item's in the list of the longest K, from 1; 0 if it is not in it, empty without one. HR,
      nDCG, MRR, recall and precision of the user follow from it. Where a user has several held-out items, these two
      columns are ``held_out_item_ids`` and ``ranks``: lists of equal length, in the order of the catalogue (JSON in a
      CSV file);
    - ``auc``: empty without a held-out item, or without other candidates;
    - ``chr@K/CATEGORY``, for every K and category: the number of the category's items in the list; the mean over users
      is CHR@K.

    Args:
        output: CSV file to write, or Parquet if its name ends in ``.parquet``.
        top_k: List lengths K.
        categories: Names of the categories to count; all by default.
        categories_by: ``network`` takes for an item's category what the network that made the features sees in its
            clean image, ``dataset`` what the dataset says.

    Raises:
        CatwalkError: If the file's name ends in something else, there is no K, or a K is less than 1.
    """

    def __init__(
        self,
        output: Path,
        top_k: Sequence[int] = (20,),
        categories: Sequence[str] | None = None,
        categories_by: CategoriesBy = "network",
    ) -> None:
        self.output = table_file("WriteUserMetrics.output", output)
        self.top_k = checked_lengths(top_k)
        self.categories = list(categories) if categories is not None else None
        self.categories_by = categories_by
        self._names: list[str] = []
        self._item_categories = torch.zeros(0, dtype=torch.int64)
        self._parts: list[Users] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the categories."""
        require_lists(self, pl_module, max(self.top_k))
        data = recommender_data_of(trainer, type(self).__name__)
        categories, names = item_categories(self, data, self.categories_by, self.categories)
        self._names = list(dict.fromkeys(names if self.categories is None else self.categories))
        columns = [self._names.index(name) if name in self._names else -1 for name in names]
        # The last one is for items without a category, which have the number -1.
        self._item_categories = torch.tensor([*columns, -1])[categories]

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with nothing collected."""
        self._parts = []
        self._item_categories = self._item_categories.to(pl_module.device)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the metrics of a block of users."""
        users, recommended, targets = outputs["users"], outputs["recommended"], outputs["targets"]
        asked = targets[:, 0] >= 0
        ranks = torch.zeros_like(targets)
        ranks[asked] = target_ranks(recommended[asked], targets[asked], max(self.top_k))
        hits = category_hits_per_user(recommended, self._item_categories, len(self._names), self.top_k).to(torch.int16)
        columns = (users, targets, ranks, outputs["auc"], hits)
        self._parts.append(Users(*(column.cpu() for column in columns)))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the rows of all processes and write them, by user."""
        parts = gather(self._parts, trainer.world_size)
        self._parts = []
        if not trainer.is_global_zero:
            return
        table = self._table(recommender_data_of(trainer, type(self).__name__), parts)
        write_table(table, self.output)
        rank_zero_info(f"Wrote the metrics of {len(table)} users to {self.output}")

    def _table(self, data: RecommenderData, parts: list[Users]) -> pa.Table:
        users, targets, ranks, auc = (torch.cat(column) for column in list(zip(*parts, strict=True))[:4])
        order = users.argsort()
        targets, ranks, auc = targets[order], ranks[order], auc[order]
        hits = torch.cat([part.hits for part in parts], dim=1)[:, order]
        columns = {
            "user_id": pa.array([data.split.user_ids[user] for user in users[order].tolist()], pa.string()),
            **_held_out_columns(targets, ranks, data.catalogue.item_ids),
            "auc": pa.array(auc.numpy(), mask=auc.isnan().numpy()),
        }
        for row, k in enumerate(self.top_k):
            for column, name in enumerate(self._names):
                columns[f"chr@{k}/{name}"] = pa.array(hits[row, :, column].contiguous().numpy())
        return pa.table(columns)


def _held_out_columns(targets: Tensor, ranks: Tensor, item_ids: Sequence[str]) -> dict[str, pa.Array]:
    """Return the held-out items and their ranks, as lists where a user may have several."""
    is_item = targets >= 0
    ids = pa.array([item_ids[item] for item in targets[is_item].tolist()], pa.string())
    places = pa.array(ranks[is_item].numpy())
    counts = is_item.sum(dim=1)
    if targets.shape[1] == 1:
        # Nobody's entry is taken from nowhere: null.
        rows = pa.array((counts.cumsum(0) - 1).numpy(), mask=(counts == 0).numpy())
        return {"held_out_item_id": ids.take(rows), "rank": places.take(rows)}
    ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    offsets = pa.array(ends.int().numpy(), mask=torch.cat([counts == 0, counts.new_zeros(1).bool()]).numpy())
    return {
        "held_out_item_ids": pa.ListArray.from_arrays(offsets, ids),
        "ranks": pa.ListArray.from_arrays(offsets, places),
    }
