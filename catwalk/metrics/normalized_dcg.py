"""nDCG@K with one relevant item per user: hits, worth less the further down they stand."""

import torch
from torch import Tensor

from catwalk.metrics.held_out import HeldOutRankMetric, target_ranks


def normalized_dcg(recommended: Tensor, targets: Tensor, top_k: int) -> Tensor:
    """Return each user's discounted gain; with one relevant item the ideal gain is 1.

    Args:
        recommended: int64 ``(B, >= top_k)``, best first; ``-1`` fills short lists.
        targets: int64 ``(B,)``, the one held-out item of each user.
        top_k: How much of the lists counts.

    Returns:
        float64 ``(B,)``: ``1 / log2(rank + 1)``, counting ranks from 1, and 0 where the target is not in the list.

    Raises:
        ValueError: If shapes do not fit, a list is shorter than ``top_k``, or a target is negative.

    Example:
        >>> import torch
        >>> from catwalk.metrics.normalized_dcg import normalized_dcg
        >>> normalized_dcg(torch.tensor([[4, 2, 0], [1, 3, -1], [2, 1, 0]]), torch.tensor([0, 0, 2]), top_k=3)
        tensor([0.5000, 0.0000, 1.0000], dtype=torch.float64)
    """
    return discounts(top_k).to(recommended.device)[target_ranks(recommended, targets, top_k)]


def discounts(top_k: int) -> Tensor:
    """Return what a hit at each rank ``0..top_k`` is worth, float64 ``(top_k + 1,)``; 0 stands for not in the list."""
    gains = torch.zeros(top_k + 1, dtype=torch.float64)
    gains[1:] = 1 / torch.arange(2, top_k + 2, dtype=torch.float64).log2()
    return gains


class NormalizedDCG(HeldOutRankMetric):
    """nDCG@K under leave-one-out: the mean over users of ``1 / log2(rank + 1)`` of their held-out item, in [0, 1].

    Reference: Järvelin and Kekäläinen, *Cumulated gain-based evaluation of IR techniques*, ACM TOIS 20(4), 2002.

    Args:
        top_k: How much of the lists counts.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``top_k`` is less than 1.

    Example:
        >>> import torch
        >>> from catwalk.metrics import NormalizedDCG
        >>> generator = torch.Generator().manual_seed(0)
        >>> recommended = torch.rand(100, 20, generator=generator).argsort(dim=1)
        >>> metric = NormalizedDCG(top_k=20)
        >>> metric.update(recommended, recommended[:, 2])  # every target stands third
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    def gains(self) -> Tensor:
        """Return the discount of each rank."""
        return discounts(self.top_k)
