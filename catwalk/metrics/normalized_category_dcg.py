"""nCDCG@K: how far up a category's items stand in the lists, against the best that could be."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from catwalk.limits import check_choice
from catwalk.metrics.category_hit_ratio import place_categories
from catwalk.metrics.held_out import check_recommended, list_lengths
from catwalk.metrics.normalized_dcg import discounts
from catwalk.shop.user_items import SeenItems

Ideal = Literal["candidates", "category"]
"""What the best list is made of: the items that a user could be shown, or all of a category."""


def category_gains(candidates: Tensor, top_k: int) -> Tensor:
    """Return what an item of a category adds to a user's nCDCG@K of that category, for every place in the list.

    Args:
        candidates: int64 ``(S,)``, how many items of the category the user could be shown; at least 1.
        top_k: K.

    Returns:
        float64 ``(S, top_k)``: ``1 / log2(rank + 1)``, counting ranks from 1, divided by the sum of the same over the
        ranks ``1..min(candidates, K)``.

    Raises:
        ValueError: If ``top_k`` or a number of candidates is less than 1.

    Example:
        >>> import torch
        >>> from catwalk.metrics.normalized_category_dcg import category_gains
        >>> category_gains(torch.tensor([1, 2]), top_k=3)
        tensor([[1.0000, 0.6309, 0.5000],
                [0.6131, 0.3869, 0.3066]], dtype=torch.float64)
    """
    list_lengths(top_k)
    if (candidates < 1).any():
        raise ValueError("candidates must be at least 1: where there are none, there is no ideal list")
    gains = discounts(top_k)
    # By the number of items in the list, from none on; on the CPU, for CUDA has no deterministic sum of this kind.
    ideal = gains.cumsum(0).to(candidates.device)
    gains = gains.to(candidates.device)
    return gains[None, 1:] / ideal[candidates.clamp(max=top_k)][:, None]


class NormalizedCategoryDCG(Metric):
    """nCDCG@K of every category: discounted gain of its items in a user's list over the ideal, in [0, 1].

    For a user and a category, every recommended item of the category gains ``1 / log2(rank + 1)``; the sum is divided
    by that of the ideal list, which begins with as many of the category's items as it can: those that the user could
    be shown (the category without what the user has seen), at most K. A category's metric is the mean over the users
    who could be shown at least one of its items. Where CHR@K counts places, this tells how high up they are.

    What is kept is how often an item of a category stood at which rank before users with how many candidates of it, so
    that the result has the same bits whatever the batches and the number of processes. These are at most
    ``min(C K, N) K`` counts for the largest K.

    Reference: Anelli, Deldjoo, Di Noia, Malitesta and Merra, *A study of defensive methods to protect visual
    recommendation against adversarial manipulation of images*, SIGIR 2021. The last version of their code leaves in the
    ideal list what the user has bought and no list may contain, so that users who like a category have less of it; and
    it counts users who have no candidate as 0. That is ``ideal="category"``.

    Args:
        top_k: One K or several, in any order.
        categories: int64 ``(N,)``, the category ``0..num_categories - 1`` of each item, or -1 if it has none.
        num_categories: Number of categories ``C``.
        seen: What the lists leave out.
        ideal: What the ideal list is made of: the category's items that the user could be shown (``candidates``), or
            all of the ``category``, whatever the user has seen.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If there is no K, a K is less than 1, or ``categories`` does not fit.
        CatwalkError: If there is no such ``ideal``.

    Example:
        >>> import torch
        >>> from catwalk.metrics import NormalizedCategoryDCG
        >>> from catwalk.shop.user_items import SeenItems
        >>> categories = torch.tensor([0, 0, 0, 1, 1])
        >>> seen = SeenItems.from_pairs(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 3]), num_users=2, num_items=5)
        >>> metric = NormalizedCategoryDCG([1, 2], categories, num_categories=2, seen=seen)
        >>> metric.update(torch.tensor([[2, 3], [4, 1]]), users=torch.tensor([0, 1]))
        >>> metric.compute()  # user 0 has all that there is of category 0, user 1 of category 1
        tensor([[0.5000, 0.5000],
                [0.6934, 0.6934]], dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    categories: Tensor
    places: Tensor
    users: Tensor
    _sizes: Tensor
    _depths: Tensor
    _usual_rows: Tensor
    _short_keys: Tensor
    _short_rows: Tensor
    _sated_users: Tensor
    _sated_categories: Tensor

    def __init__(
        self,
        top_k: int | Sequence[int],
        categories: Tensor,
        num_categories: int,
        seen: SeenItems,
        ideal: Ideal = "candidates",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice(ideal, "ideal", Ideal)
        self.top_k = list_lengths(top_k)
        self.num_categories = num_categories
        if categories.shape != (seen.num_items,) or (categories < -1).any() or (categories >= num_categories).any():
            raise ValueError(
                f"categories must be ({seen.num_items},), each in -1..{num_categories - 1}, got {categories}"
            )
        longest = max(self.top_k)
        categories = categories.long().to(seen.items.device)
        sizes = torch.bincount(categories[categories >= 0], minlength=num_categories)
        pair_users = torch.repeat_interleave(torch.arange(seen.num_users, device=categories.device), seen.counts)
        pair_categories = categories[seen.items]
        keys = (pair_users * num_categories + pair_categories)[pair_categories >= 0]
        keys, seen_counts = torch.unique(keys, return_counts=True)
        users, of_users = keys // num_categories, keys % num_categories
        candidates = sizes[of_users] - seen_counts
        if ideal == "category":  # as if nobody had seen anything
            candidates = sizes[of_users]
        sated = candidates == 0  # pairs of a user and a category that is all seen
        depths = sizes.clamp(max=longest)
        first_rows = depths.cumsum(0) - depths
        rows = int(depths.sum())
        # What is in no category has a row behind the others, and what nobody could be shown one behind that.
        usual_rows = torch.cat([first_rows.new_full((1,), rows), first_rows + depths - 1])
        # Of most categories there are more than K, whatever a user has seen.
        is_short = candidates < depths[of_users]
        short_rows = torch.where(sated, rows + 1, first_rows[of_users] + candidates - 1)[is_short]
        short_keys = (users * (num_categories + 1) + of_users + 1)[is_short]
        # The last entry is never met; it spares the case of a position past the end.
        end = keys.new_full((1,), torch.iinfo(torch.int64).max)
        # A checkpoint does not hold them: they come with the data.
        for name, buffer in {
            "categories": categories,
            "_sizes": sizes,
            "_depths": depths,
            "_usual_rows": usual_rows,
            "_short_keys": torch.cat([short_keys, end]),
            "_short_rows": torch.cat([short_rows, end]),
            "_sated_users": users[sated],
            "_sated_categories": of_users[sated],
        }.items():
            self.register_buffer(name, buffer, persistent=False)
        self.add_state("places", torch.zeros(rows, longest, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("users", torch.zeros(num_categories, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, recommended: Tensor, users: Tensor) -> None:
        """Add a batch of users.

        Args:
            recommended: int64 ``(B, >= the largest K)``, best first; ``-1`` fills short lists.
            users: int64 ``(B,)``, each in ``0..U - 1``.

        Raises:
            ValueError: If a list is shorter than the largest K or there is not one per user, an item is not in
                ``categories``, or a list has an item of a category of which its user has seen all.
        """
        rows, longest = self.places.shape
        check_recommended(recommended, longest)
        if users.shape != recommended.shape[:1]:
            raise ValueError(f"users must be ({len(recommended)},), one per list, got {tuple(users.shape)}")
        found = place_categories(recommended[:, :longest], self.categories) + 1
        # A category has as many rows as numbers of candidates can be told apart.
        row = self._usual_rows.index_select(0, found.flatten()).view_as(found)
        if len(self._short_keys) > 1:
            keys = users[:, None] * (self.num_categories + 1) + found
            nearest = torch.searchsorted(self._short_keys, keys)
            row = torch.where(self._short_keys[nearest] == keys, self._short_rows[nearest], row)
        places = torch.arange(longest, device=row.device)
        counts = torch.bincount((row * longest + places).flatten(), minlength=(rows + 2) * longest)
        counts, _, impossible = counts.view(rows + 2, longest).split([rows, 1, 1])
        if impossible.any():
            raise ValueError("recommended has an item of a category of which the user has seen everything")
        self.places = self.places + counts
        self.users = self.users + (len(users) - self._count_sated(users)) * (self._sizes > 0)

    def _count_sated(self, users: Tensor) -> Tensor:
        """Count by category the users who have seen all of it."""
        first = torch.searchsorted(self._sated_users, users)
        counts = torch.searchsorted(self._sated_users, users, right=True) - first
        offsets = torch.repeat_interleave(first - (counts.cumsum(0) - counts), counts)
        entries = torch.arange(len(offsets), device=users.device) + offsets
        return torch.bincount(self._sated_categories[entries], minlength=self.num_categories)

    def compute(self) -> Tensor:
        """Return float64 ``(number of K, C)``, in the order of ``top_k``; NaN where no user could be shown an item.

        torchmetrics hands a result with a single entry over as a scalar.
        """
        first_rows = (self._depths.cumsum(0) - self._depths).repeat_interleave(self._depths)
        candidates = torch.arange(1, len(first_rows) + 1, device=first_rows.device) - first_rows
        sums = [
            torch.segment_reduce(
                (self.places[:, :k] * category_gains(candidates, k)).sum(dim=1), "sum", lengths=self._depths
            )
            for k in self.top_k
        ]
        return torch.stack(sums) / self.users
