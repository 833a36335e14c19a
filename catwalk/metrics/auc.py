"""AUC: how far up the whole catalogue the held-out items stand."""

import torch
from torch import Tensor

from catwalk.metrics.mean import ShareMean
from catwalk.recommenders.ranking import check_scores
from catwalk.shop.user_items import mask_value

TILE_ROWS = 32
"""Rows that are compared at a time, so that what is compared and the outcome stay in a CPU's cache."""


def auc(scores: Tensor, targets: Tensor) -> Tensor:
    """Return for each user the share of the pairs of a held-out item and another candidate that are in this order.

    Other held-out items are not among the other candidates.

    Args:
        scores: Finite ``(B, N)``; :func:`~catwalk.shop.user_items.mask_value` marks what the user has seen, which is no
            candidate.
        targets: int64 ``(B,)``, the one held-out item of each user, or ``(B, T)``, any number of them from 1 on, each
            at most once; ``-1`` fills the rows of users with fewer.

    Returns:
        float64 ``(B,)`` in [0, 1], where a pair of equal scores counts one half; NaN for a user who has no candidate
        besides the held-out items.

    Raises:
        DivergedError: If a score is NaN or infinite.
        ValueError: If shapes do not fit, a user has no target, or a target is not below N or is masked.

    Example:
        >>> import torch
        >>> from catwalk.metrics.auc import auc
        >>> from catwalk.recommenders.ranking import mask_value
        >>> scores = torch.tensor([[0.1, 0.5, mask_value(torch.float32), 0.5, 0.9]])
        >>> auc(scores, torch.tensor([1]))
        tensor([0.5000], dtype=torch.float64)
        >>> auc(scores, torch.tensor([[1, 4]]))  # 1 and 1/2, 1 and 1
        tensor([0.8750], dtype=torch.float64)
    """
    if scores.ndim != 2 or targets.ndim not in (1, 2) or len(targets) != len(scores):
        raise ValueError(
            f"scores must be (B, N) and targets (B,) or (B, T), got {tuple(scores.shape)} and {tuple(targets.shape)}"
        )
    scores = scores.detach()
    if not len(targets):
        return torch.zeros(0, dtype=torch.float64, device=scores.device)
    check_scores(scores)
    targets = targets.reshape(len(targets), -1)
    num_items = scores.shape[1]
    if (targets.amax(dim=1) < 0).any() or (targets >= num_items).any():
        raise ValueError(f"targets must be in 0..{num_items - 1}; leave out users without a held-out item")
    areas = BlockwiseAUC(targets, scores.gather(1, targets.clamp(min=0)))
    areas.add(scores)
    return areas.values()


class BlockwiseAUC:
    """:func:`auc` of users whose scores come a block of items at a time, in any order: the blocks do not show in it.

    Args:
        targets: int64 ``(B, T)``, the held-out items; -1 stands for none. A user may have none, and gets NaN.
        scores: Their scores, float ``(B, T)``; anything where there is none.

    Raises:
        ValueError: If a target is masked.
    """

    def __init__(self, targets: Tensor, scores: Tensor) -> None:
        rows, columns = (targets >= 0).nonzero(as_tuple=True)
        self._rows = rows
        self._scores = scores[rows, columns]
        if (self._scores == mask_value(scores.dtype)).any():
            raise ValueError("a target's score is masked: the held-out item is among the seen items")
        self._counts = (targets >= 0).sum(dim=1).double()
        # With one target each, a tile is rows side by side and needs no copy.
        self._is_one_each = targets.shape[1] == 1 and len(rows) == len(targets)
        self._points, self._candidates = torch.zeros(2, len(rows), dtype=torch.float64, device=scores.device)

    def add(self, scores: Tensor) -> None:
        """Count a block of the candidates.

        Args:
            scores: Finite ``(B, W)``, as :func:`auc` takes them.
        """
        scores, width = scores.detach(), scores.shape[1]
        # Floats, for a CPU adds them up several times faster than booleans; float32 counts exactly up to 2 ** 24.
        dtype = torch.float32 if width <= 2**24 else torch.float64
        rows, mask = self._rows, mask_value(scores.dtype)
        outcomes = torch.empty((min(TILE_ROWS, len(rows)), width), dtype=dtype, device=scores.device)
        points, candidates = [], []
        tiles = scores.split(TILE_ROWS) if self._is_one_each else (scores[its] for its in rows.split(TILE_ROWS))
        for tile, target in zip(tiles, self._scores[:, None].split(TILE_ROWS), strict=True):
            out = outcomes[: len(tile)]
            masked = torch.eq(tile, mask, out=out).sum(dim=1).double()
            lower = torch.lt(tile, target, out=out).sum(dim=1).double() - masked
            equal = torch.eq(tile, target, out=out).sum(dim=1).double()
            points.append(lower + 0.5 * equal)
            candidates.append(width - masked)
        if points:  # all halves of whole numbers, whose sums are exact
            self._points = self._points + torch.cat(points)
            self._candidates = self._candidates + torch.cat(candidates)

    def values(self) -> Tensor:
        """Return the share of every user, float64 ``(B,)``; see :func:`auc`."""
        # Among themselves n targets have n * n / 2 points, for of two that differ one is lower, and each equals itself.
        count = self._counts
        total = torch.zeros_like(count).index_add_(0, self._rows, self._points) - 0.5 * count**2
        others = torch.zeros_like(count).index_copy_(0, self._rows, self._candidates) - count
        return total / (count * others)


class AUC(ShareMean):
    """Mean over users of the share of the other candidates that score lower than a held-out item, in [0, 1].

    The candidates are the items that the user has not seen; a user's share is the mean over the held-out items, which
    are not compared with one another. Ties count one half, so a constant score gets 0.5. A user without candidates
    besides the held-out items has no such share and is not counted; NaN if nobody is.

    Reference: Rendle et al., *BPR: Bayesian personalized ranking from implicit feedback*, UAI 2009, section 5.

    Args:
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> from catwalk.metrics import AUC
        >>> scores = torch.rand(200, 50, generator=torch.Generator().manual_seed(0))
        >>> metric = AUC()
        >>> metric.update(scores, torch.zeros(200, dtype=torch.int64))  # random scores
        >>> round(metric.compute().item(), 1)
        0.5
    """

    higher_is_better = True

    def update(self, scores: Tensor, targets: Tensor) -> None:  # type: ignore[override]
        """Add a batch of users; see :func:`auc` for what is expected of the arguments."""
        super().update(auc(scores, targets))
