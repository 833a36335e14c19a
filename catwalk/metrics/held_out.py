"""Where each user's held-out items stand in the list recommended to that user."""

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from catwalk.limits import check_memory


def target_ranks(recommended: Tensor, targets: Tensor, top_k: int) -> Tensor:
    """Return the place of each target among the first ``top_k`` recommendations.

    Args:
        recommended: int64 ``(B, >= top_k)``, best first, each item at most once; ``-1`` fills short lists.
        targets: int64 ``(B,)``, the one held-out item of each user, or ``(B, T)``, any number of them from 1 on, each
            at most once; ``-1`` fills the rows of users with fewer. Leave out users who have none.
        top_k: How much of the lists counts.

    Returns:
        int64 in the shape of ``targets``: ``1..top_k``, or 0 where the target is not among them or there is none.

    Raises:
        ValueError: If shapes do not fit, a list is shorter than ``top_k``, or a user has no held-out item.

    Example:
        >>> import torch
        >>> from catwalk.metrics.held_out import target_ranks
        >>> recommended = torch.tensor([[4, 2, 0], [1, 3, -1]])
        >>> target_ranks(recommended, torch.tensor([2, 0]), top_k=3)
        tensor([2, 0])
        >>> target_ranks(recommended, torch.tensor([[0, 4], [3, -1]]), top_k=3)
        tensor([[3, 1],
                [2, 0]])
    """
    check_recommended(recommended, top_k)
    if targets.ndim not in (1, 2) or len(targets) != len(recommended):
        raise ValueError(
            f"targets must be ({len(recommended)},) or ({len(recommended)}, T), a row per list, got "
            f"{tuple(targets.shape)}"
        )
    in_rows = _in_rows(targets)
    if (in_rows.amax(dim=1) < 0).any():  # -1 would be found among the fillers
        raise ValueError("targets: leave out users without a held-out item; there are some with nothing but negatives")
    recommended = recommended[:, :top_k]
    if in_rows.shape[1] == 1:  # several times faster than sorting
        places = torch.arange(1, top_k + 1, device=recommended.device)
        ranks = torch.where(recommended == in_rows, places, 0).amax(dim=1)
    else:
        items, order = recommended.sort(dim=1)
        found = torch.searchsorted(items, in_rows).clamp_(max=top_k - 1)
        is_there = (items.gather(1, found) == in_rows) & (in_rows >= 0)
        ranks = torch.where(is_there, order.gather(1, found) + 1, 0)
    return ranks.reshape(targets.shape)


def num_targets(targets: Tensor) -> Tensor:
    """Return how many held-out items each user has, int64 ``(B,)``; see :func:`target_ranks` for the argument."""
    return (_in_rows(targets) >= 0).sum(dim=1)


def num_hits(ranks: Tensor) -> Tensor:
    """Return how many held-out items of each user are in the list, int64 ``(B,)``; see :func:`first_ranks`."""
    return (_in_rows(ranks) > 0).sum(dim=1)


def first_ranks(ranks: Tensor, top_k: int) -> Tensor:
    """Return the first rank of each user, int64 ``(B,)``; 0 where there is none.

    Args:
        ranks: int64 ``(B,)`` or ``(B, T)`` in ``0..top_k``, from :func:`target_ranks`.
        top_k: How much of the lists counts.
    """
    if ranks.ndim == 1:
        return ranks
    return torch.where(ranks > 0, ranks, top_k + 1).amin(dim=1) % (top_k + 1)


def _in_rows(values: Tensor) -> Tensor:
    """Return what there is per held-out item as ``(B, T)``."""
    return values[:, None] if values.ndim == 1 else values


def check_top_k(top_k: int) -> None:
    """Raise a ``ValueError`` unless ``top_k`` is at least 1."""
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")


def list_lengths(top_k: int | Sequence[int]) -> list[int]:
    """Return one K or several as a list, or raise a ``ValueError`` if there is none or one is less than 1."""
    lengths = [top_k] if isinstance(top_k, int) else list(top_k)
    if not lengths:
        raise ValueError("top_k must name at least one list length")
    for length in lengths:
        check_top_k(length)
    return lengths


def check_recommended(recommended: Tensor, top_k: int) -> None:
    """Raise a ``ValueError`` unless ``recommended`` holds lists of at least ``top_k`` items."""
    check_top_k(top_k)
    if recommended.ndim != 2 or recommended.shape[1] < top_k:
        raise ValueError(f"recommended must be (B, >= top_k = {top_k}), got {tuple(recommended.shape)}")


class HeldOutRankMetric(Metric):
    """Base of the metrics that are a mean over users of what the ranks of their held-out items are worth.

    What is kept is how many items stood at which rank, by the number of items that their users have. These are counts,
    so the result has the same bits whatever the batches and the number of processes. A subclass says in :meth:`gains`
    what a rank is worth.

    Args:
        top_k: How much of the lists counts.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        CatwalkError: If ``top_k`` is so large that its counts are more memory than is left.
        ValueError: If ``top_k`` is less than 1.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    first_only = False
    """Whether only the first of a user's items counts that is in the list."""

    rank_counts: Tensor

    def __init__(self, top_k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_top_k(top_k)
        # A count for each rank of each number of items, twice while a batch is added.
        check_memory(2 * 8 * top_k * (top_k + 1), f"top_k {top_k}", "give a smaller top_k")
        self.top_k = top_k
        # Of users with n items, or at least K: their number in column 0, and in column r what stood at rank r.
        self.add_state("rank_counts", torch.zeros(top_k, top_k + 1, dtype=torch.int64), dist_reduce_fx="sum")

    @abc.abstractmethod
    def gains(self) -> Tensor:
        """Return what each rank is worth.

        Returns:
            float64, of a shape that broadcasts to ``(top_k, top_k + 1)``: a row for users with 1, 2, … items, the last
            one for those with at least ``top_k``, and a column for each rank ``0..top_k``; rank 0, which stands for not
            in the list, is worth 0.
        """

    def update(self, recommended: Tensor, targets: Tensor) -> None:
        """Add a batch of users; see :func:`target_ranks` for what is expected of the arguments."""
        ranks = target_ranks(recommended, targets, self.top_k)
        if self.first_only:
            ranks = first_ranks(ranks, self.top_k)
        rows = num_targets(targets).clamp_(max=self.top_k) - 1
        places = rows[:, None] * (self.top_k + 1) + _in_rows(ranks)
        counts = torch.bincount(places.flatten(), minlength=self.rank_counts.numel()).reshape(self.rank_counts.shape)
        counts[:, 0] = torch.bincount(rows, minlength=self.top_k)
        self.rank_counts = self.rank_counts + counts

    def compute(self) -> Tensor:
        """Return the mean over users, a float64 scalar; NaN if there were none."""
        gains = self.gains().to(self.rank_counts.device).expand(self.rank_counts.shape)
        # Row by row, so that with one item per user the sum is that of one row.
        totals = [(counts * its).sum() for counts, its in zip(self.rank_counts, gains, strict=True)]
        return torch.stack(totals).sum() / self.rank_counts[:, 0].sum()
