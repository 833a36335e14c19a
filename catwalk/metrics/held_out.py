"""Where each user's held-out item stands in the list recommended to that user."""

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def target_ranks(recommended: Tensor, targets: Tensor, top_k: int) -> Tensor:
    """Return the place of each target among the first ``top_k`` recommendations.

    Args:
        recommended: int64 ``(B, >= top_k)``, best first, each item at most once; ``-1`` fills short lists.
        targets: int64 ``(B,)``, the one held-out item of each user. Leave out users who have none.
        top_k: How much of the lists counts.

    Returns:
        int64 ``(B,)``: ``1..top_k``, or 0 where the target is not among them.

    Raises:
        ValueError: If shapes do not fit, a list is shorter than ``top_k``, or a target is negative.

    Example:
        >>> import torch
        >>> from catwalk.metrics.held_out import target_ranks
        >>> target_ranks(torch.tensor([[4, 2, 0], [1, 3, -1]]), torch.tensor([2, 0]), top_k=3)
        tensor([2, 0])
    """
    check_recommended(recommended, top_k)
    if targets.shape != recommended.shape[:1]:
        raise ValueError(f"targets must be ({len(recommended)},), one per list, got {tuple(targets.shape)}")
    if (targets < 0).any():  # -1 would be found among the fillers
        raise ValueError("targets must be item indices, got a negative one; leave out users without a held-out item")
    places = torch.arange(1, top_k + 1, device=recommended.device)
    return torch.where(recommended[:, :top_k] == targets[:, None], places, 0).amax(dim=1)


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
    """Base of the metrics that are a mean over users of a function of the rank of their one held-out item.

    What is kept is how many users had their item at which rank. These are counts, so the result has the same bits
    whatever the batches and the number of processes. A subclass says in :meth:`gains` what a rank is worth.

    Args:
        top_k: How much of the lists counts.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``top_k`` is less than 1.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    rank_counts: Tensor

    def __init__(self, top_k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_top_k(top_k)
        self.top_k = top_k
        self.add_state("rank_counts", torch.zeros(top_k + 1, dtype=torch.int64), dist_reduce_fx="sum")

    @abc.abstractmethod
    def gains(self) -> Tensor:
        """Return what each rank ``0..top_k`` is worth, float64 ``(top_k + 1,)``; 0 stands for not in the list."""

    def update(self, recommended: Tensor, targets: Tensor) -> None:
        """Add a batch of users; see :func:`target_ranks` for what is expected of the arguments."""
        ranks = target_ranks(recommended, targets, self.top_k)
        self.rank_counts = self.rank_counts + torch.bincount(ranks, minlength=self.top_k + 1)

    def compute(self) -> Tensor:
        """Return the mean over users, a float64 scalar; NaN if there were none."""
        return (self.rank_counts * self.gains().to(self.rank_counts.device)).sum() / self.rank_counts.sum()
