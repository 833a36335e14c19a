"""nDCG@K of held-out items: hits, worth less the further down they stand."""

import torch
from torch import Tensor

from catwalk.metrics.held_out import HeldOutRankMetric, num_targets, target_ranks


def normalized_dcg(recommended: Tensor, targets: Tensor, top_k: int) -> Tensor:
    """Return each user's discounted gain, divided by that of the ideal list, which begins with the held-out items.

    Args:
        recommended: int64 ``(B, >= top_k)``, best first; ``-1`` fills short lists.
        targets: int64 ``(B,)`` or ``(B, T)``, the held-out items of each user; see
            :func:`~catwalk.metrics.held_out.target_ranks`.
        top_k: How much of the lists counts.

    Returns:
        float64 ``(B,)``: the sum of ``1 / log2(rank + 1)`` over the targets in the list, counting ranks from 1,
        divided by the sum over the ranks ``1..min(number of targets, top_k)``. With one target that is 1.

    Raises:
        ValueError: If shapes do not fit, a list is shorter than ``top_k``, or a user has no held-out item.

    Example:
        >>> import torch
        >>> from catwalk.metrics.normalized_dcg import normalized_dcg
        >>> normalized_dcg(torch.tensor([[4, 2, 0], [1, 3, -1], [2, 1, 0]]), torch.tensor([0, 0, 2]), top_k=3)
        tensor([0.5000, 0.0000, 1.0000], dtype=torch.float64)
    """
    gains = discounts(top_k).to(recommended.device)[target_ranks(recommended, targets, top_k)]
    if targets.ndim == 1:
        return gains
    ideal = discounts(top_k).cumsum(0).to(recommended.device)[num_targets(targets).clamp_(max=top_k)]
    return gains.sum(dim=1) / ideal


def discounts(top_k: int) -> Tensor:
    """Return what a hit at each rank ``0..top_k`` is worth, float64 ``(top_k + 1,)``; 0 stands for not in the list."""
    gains = torch.zeros(top_k + 1, dtype=torch.float64)
    gains[1:] = 1 / torch.arange(2, top_k + 2, dtype=torch.float64).log2()
    return gains


class NormalizedDCG(HeldOutRankMetric):
    """nDCG@K: the mean over users of the discounted gain of their list over that of the ideal list, in [0, 1].

    A held-out item in the list gains ``1 / log2(rank + 1)``. The ideal list begins with as many held-out items as the
    user has, or K. With one held-out item per user its gain is 1.

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
        """Return the discount of each rank over the ideal gain of each number of items."""
        return discounts(self.top_k) / discounts(self.top_k).cumsum(0)[1:, None]
