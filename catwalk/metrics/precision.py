"""Precision@K: the share of a list that was held out."""

import torch
from torch import Tensor

from catwalk.metrics.held_out import HeldOutRankMetric, num_hits, target_ranks


def precision(recommended: Tensor, targets: Tensor, top_k: int) -> Tensor:
    """Return for each user the share of the first ``top_k`` places that held-out items take.

    Args:
        recommended: int64 ``(B, >= top_k)``, best first; ``-1`` fills short lists, whose places count all the same.
        targets: int64 ``(B,)`` or ``(B, T)``, the held-out items of each user; see
            :func:`~catwalk.metrics.held_out.target_ranks`.
        top_k: How much of the lists counts.

    Returns:
        float64 ``(B,)``: the number of targets in the list divided by ``top_k``.

    Raises:
        ValueError: If shapes do not fit, a list is shorter than ``top_k``, or a user has no held-out item.

    Example:
        >>> import torch
        >>> from catwalk.metrics.precision import precision
        >>> precision(torch.tensor([[4, 2, 0], [1, 3, -1]]), torch.tensor([2, 0]), top_k=2)
        tensor([0.5000, 0.0000], dtype=torch.float64)
    """
    return num_hits(target_ranks(recommended, targets, top_k)).double() / top_k


class Precision(HeldOutRankMetric):
    """Precision@K: the mean over users of the number of their held-out items in the list divided by K, in [0, 1].

    With one held-out item per user it is :class:`HitRate` divided by K.

    Args:
        top_k: How much of the lists counts.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``top_k`` is less than 1.

    Example:
        >>> import torch
        >>> from catwalk.metrics import Precision
        >>> Precision(top_k=2)(torch.tensor([[4, 2, 0], [1, 3, 2]]), torch.tensor([2, 0]))  # one hit in four places
        tensor(0.2500, dtype=torch.float64)
    """

    def gains(self) -> Tensor:
        """Return 1/K for every rank in the list."""
        return (torch.arange(self.top_k + 1) > 0).double() / self.top_k
