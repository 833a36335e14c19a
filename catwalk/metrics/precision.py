"""Precision@K: the share of a list that was held out."""

from torch import Tensor

from catwalk.metrics.hit_rate import HitRate, hit_rate


def precision(recommended: Tensor, targets: Tensor, top_k: int) -> Tensor:
    """Return for each user the share of the first ``top_k`` places that the held-out item takes.

    Args:
        recommended: int64 ``(B, >= top_k)``, best first; ``-1`` fills short lists, whose places count all the same.
        targets: int64 ``(B,)``, the one held-out item of each user.
        top_k: How much of the lists counts.

    Returns:
        float64 ``(B,)``: ``1 / top_k`` where the target is in the list, and 0 where it is not.

    Raises:
        ValueError: If shapes do not fit, a list is shorter than ``top_k``, or a target is negative.

    Example:
        >>> import torch
        >>> from catwalk.metrics.precision import precision
        >>> precision(torch.tensor([[4, 2, 0], [1, 3, -1]]), torch.tensor([2, 0]), top_k=2)
        tensor([0.5000, 0.0000], dtype=torch.float64)
    """
    return hit_rate(recommended, targets, top_k) / top_k


class Precision(HitRate):
    """Precision@K under leave-one-out: the mean over users of hits in the list divided by K, in [0, 1/K].

    A user has one held-out item, so that this is :class:`HitRate` divided by K.

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
        return super().gains() / self.top_k
