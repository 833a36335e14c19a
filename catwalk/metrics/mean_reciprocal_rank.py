"""MRR@K: one over the rank of the first held-out item."""

import torch
from torch import Tensor

from catwalk.metrics.held_out import HeldOutRankMetric, first_ranks, target_ranks


def reciprocal_rank(recommended: Tensor, targets: Tensor, top_k: int) -> Tensor:
    """Return one over the rank of each user's first held-out item.

    Args:
        recommended: int64 ``(B, >= top_k)``, best first; ``-1`` fills short lists.
        targets: int64 ``(B,)`` or ``(B, T)``, the held-out items of each user; see
            :func:`~catwalk.metrics.held_out.target_ranks`.
        top_k: How much of the lists counts.

    Returns:
        float64 ``(B,)``: ``1 / rank``, counting ranks from 1, and 0 where no target is in the list.

    Raises:
        ValueError: If shapes do not fit, a list is shorter than ``top_k``, or a user has no held-out item.

    Example:
        >>> import torch
        >>> from catwalk.metrics.mean_reciprocal_rank import reciprocal_rank
        >>> reciprocal_rank(torch.tensor([[4, 2, 0], [1, 3, -1]]), torch.tensor([2, 0]), top_k=3)
        tensor([0.5000, 0.0000], dtype=torch.float64)
    """
    return _gains(top_k).to(recommended.device)[first_ranks(target_ranks(recommended, targets, top_k), top_k)]


def _gains(top_k: int) -> Tensor:
    gains = torch.zeros(top_k + 1, dtype=torch.float64)
    gains[1:] = 1 / torch.arange(1, top_k + 1, dtype=torch.float64)
    return gains


class MeanReciprocalRank(HeldOutRankMetric):
    """MRR@K: the mean over users of ``1 / rank`` of the first of their held-out items in the list, in [0, 1].

    A user with none among the first K counts 0.

    Reference: Voorhees, *The TREC-8 question answering track report*, TREC 1999.

    Args:
        top_k: How much of the lists counts.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``top_k`` is less than 1.

    Example:
        >>> import torch
        >>> from catwalk.metrics import MeanReciprocalRank
        >>> generator = torch.Generator().manual_seed(0)
        >>> recommended = torch.rand(100, 20, generator=generator).argsort(dim=1)
        >>> metric = MeanReciprocalRank(top_k=20)
        >>> metric.update(recommended, recommended[:, 3])  # every target stands fourth
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    first_only = True

    def gains(self) -> Tensor:
        """Return one over each rank."""
        return _gains(self.top_k)
