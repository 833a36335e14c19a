"""Writes what a test found of every single user, for statistics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from callbacks.observed_attack import FollowedItems
from callbacks.processes import gather
from callbacks.ranked_lists import CategoriesBy, item_categories, purchases_of, require_lists
from callbacks.table_files import table_file, write_table
from catwalk.errors import CatwalkError
from catwalk.metrics.category_hit_ratio import category_hits_per_user
from catwalk.metrics.groups import POPULARITY_GROUPS, USER_GROUPS, joint_groups, popularity_groups, user_groups
from catwalk.metrics.held_out import target_ranks
from catwalk.shop.catalogue import number_of
from lightning_modules.data_protocols import RecommenderData, recommender_data_of
from lightning_modules.recommender import Recommender, checked_lengths, ranks_of


class Users(NamedTuple):
    """Some users.

    Attributes:
        users: Their numbers, int64 ``(B,)``.
        targets: Their held-out items, int64 ``(B, T)``.
        ranks: Those items' ranks, int64 ``(B, T)``.
        auc: float64 ``(B,)``.
        best: Rank of the first attacked item among all candidates, int64 ``(B,)``; 0 where there is none.
        hits: Places that the items of each category take in their lists, int16 ``(number of K, B, C)``; where items are
            attacked ``2 * C``, first of those that are not.
        places: The same of each popularity group.
    """

    users: Tensor
    targets: Tensor
    ranks: Tensor
    auc: Tensor
    best: Tensor
    hits: Tensor
    places: Tensor


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
    - ``group``, where ``source`` is given: whether the user bought items of the category ``source`` in training, of
      ``target``, of ``both`` or of ``neither``;
    - ``chr@K/CATEGORY``, for every K and category: the number of the category's items in the list; the mean over users
      is CHR@K;
    - ``cold@K``, ``tail@K``, ``head@K``: the number of items in the list that nobody bought in training (cold), of the
      fifth of the catalogue that was bought most often (head), and of those in between (tail;
      :func:`catwalk.metrics.groups.popularity_groups`);
    - ``attacked@K``, ``attacked@K/CATEGORY``, ``attacked_cold@K``, ``attacked_tail@K``, ``attacked_head@K``, where
      items are attacked: the number of attacked items in the list, of all, of each category and of each popularity;
    - ``attacked_rank``, where items are attacked: the best rank of an attacked item among all candidates of the user,
      from 1; empty where none of them is a candidate.

    Args:
        output: CSV file to write, or Parquet if its name ends in ``.parquet``.
        top_k: List lengths K.
        categories: Names of the categories to count; all by default.
        categories_by: ``network`` takes for an item's category what the network that made the features sees in its
            clean image, ``dataset`` what the dataset says.
        source: Category by which users are put in groups; null for no groups.
        target: The other one, if there is one.
        attack: Folder of an earlier attack, whose items are counted; null for that of the run, where there is one.
        items: Ids of the items to count as attacked, in the place of an attack's.

    Raises:
        CatwalkError: If the file's name ends in something else, there is no K, a K is less than 1, there is a target
            and no source, both ``attack`` and ``items`` are given, or an item twice.
    """

    def __init__(
        self,
        output: Path,
        top_k: Sequence[int] = (20,),
        categories: Sequence[str] | None = None,
        categories_by: CategoriesBy = "network",
        source: str | None = None,
        target: str | None = None,
        attack: Path | None = None,
        items: Sequence[str] | None = None,
    ) -> None:
        self.output = table_file("WriteUserMetrics.output", output)
        self.top_k = checked_lengths(top_k)
        self.categories = list(categories) if categories is not None else None
        self.categories_by = categories_by
        if target is not None and source is None:
            raise CatwalkError("WriteUserMetrics.target: is nothing without source; give that as well")
        self.source = source
        self.target = target
        self.followed = FollowedItems(self, attack, items, required=False)
        self._names: list[str] = []
        self._item_categories = torch.zeros(0, dtype=torch.int64)
        self._groups: tuple[Tensor, Tensor]
        self._user_groups: Tensor | None = None
        self._attacked: Tensor | None = None
        self._parts: list[Users] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the categories."""
        require_lists(self, pl_module, max(self.top_k))
        data = recommender_data_of(trainer, type(self).__name__)
        self.followed.find(trainer)
        categories, names = item_categories(self, data, self.categories_by, self.categories)
        self._user_groups = None
        if self.source is not None:
            source = number_of(self.source, names, "WriteUserMetrics.source")
            target = None if self.target is None else number_of(self.target, names, "WriteUserMetrics.target")
            # What may not be recommended in validation is what was bought in training; in the test it would be more.
            self._user_groups = user_groups(data.seen_items("val"), categories, source, target)
        self._names = list(dict.fromkeys(names if self.categories is None else self.categories))
        columns = [self._names.index(name) if name in self._names else -1 for name in names]
        # The last one is for items without a category, which have the number -1.
        self._item_categories = torch.tensor([*columns, -1])[categories]

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with nothing collected, and have the attacked items ranked."""
        self._parts = []
        data = recommender_data_of(trainer, type(self).__name__)
        groups, categories = popularity_groups(purchases_of(data)), self._item_categories
        self._attacked = self.followed.read(data.catalogue)
        if self._attacked is not None:
            assert isinstance(pl_module, Recommender)
            pl_module.require_ranks(self._attacked)
            groups = joint_groups(groups, self._attacked, len(POPULARITY_GROUPS))
            categories = joint_groups(categories, self._attacked, len(self._names))
        self._groups = groups.to(pl_module.device), categories.to(pl_module.device)

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
        (groups, categories), sides = self._groups, 1 if self._attacked is None else 2
        hits = category_hits_per_user(recommended, categories, sides * len(self._names), self.top_k)
        places = category_hits_per_user(recommended, groups, sides * len(POPULARITY_GROUPS), self.top_k)
        best = torch.zeros_like(users)
        if self._attacked is not None:
            attacked = ranks_of(outputs, self._attacked)
            last = torch.iinfo(attacked.dtype).max
            best = torch.where(attacked > 0, attacked, last).amin(dim=1)
            best = best.masked_fill(best == last, 0)
        columns = (users, targets, ranks, outputs["auc"], best, hits.to(torch.int16), places.to(torch.int16))
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
        order = torch.cat([part.users for part in parts]).argsort()
        users, targets, ranks, auc, best = (torch.cat(column)[order] for column in list(zip(*parts, strict=True))[:5])
        hits, places = (torch.cat(column, dim=1)[:, order] for column in list(zip(*parts, strict=True))[5:])
        columns: dict[str, pa.Array | Tensor] = {
            "user_id": pa.array([data.split.user_ids[user] for user in users.tolist()], pa.string()),
            **_held_out_columns(targets, ranks, data.catalogue.item_ids),
            "auc": pa.array(auc.numpy(), mask=auc.isnan().numpy()),
        }
        if self._user_groups is not None:
            groups = self._user_groups[users].tolist()
            columns["group"] = pa.array([USER_GROUPS[group] for group in groups], pa.string())
        hits, attacked_hits = _sides(hits, len(self._names))
        places, attacked_places = _sides(places, len(POPULARITY_GROUPS))
        for row, k in enumerate(self.top_k):
            columns |= {f"chr@{k}/{name}": hits[row, :, n] for n, name in enumerate(self._names)}
        for row, k in enumerate(self.top_k):
            columns |= {f"{name}@{k}": places[row, :, n] for n, name in enumerate(POPULARITY_GROUPS)}
        if self._attacked is not None:
            for row, k in enumerate(self.top_k):
                columns[f"attacked@{k}"] = attacked_places[row].sum(dim=1, dtype=torch.int16)
                columns |= {f"attacked@{k}/{name}": attacked_hits[row, :, n] for n, name in enumerate(self._names)}
                columns |= {
                    f"attacked_{name}@{k}": attacked_places[row, :, n] for n, name in enumerate(POPULARITY_GROUPS)
                }
            columns["attacked_rank"] = pa.array(best.numpy(), mask=(best == 0).numpy())
        return pa.table({name: _array(values) for name, values in columns.items()})


def _sides(counts: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return counts of all items and of the attacked ones, of those of the others and, if there are any, of these."""
    attacked = counts[:, :, size:]
    return (counts[:, :, :size] + attacked if attacked.numel() else counts), attacked


def _array(values: pa.Array | Tensor) -> pa.Array:
    """Return a column, of numbers that may lie apart in memory."""
    return pa.array(values.contiguous().numpy()) if isinstance(values, Tensor) else values


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
