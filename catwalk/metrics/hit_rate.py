"""HR@K: the share of users with a held-out item in their list."""

import torch
from torch import Tensor

from catwalk.metrics.held_out import HeldOutRankMetric, first_ranks, target_ranks


def hit_rate(recommended: Tensor, targets: Tensor, top_k: int) -> Tensor:
    """Tell for each user whether a held-out item is among the first ``top_k`` recommendations.

    Args:
        recommended: int64 ``(B, >= top_k)``, best first; ``-1`` fills short lists.
        targets: int64 ``(B,)`` or ``(B, T)``, the held-out items of each user; see
            :func:`~catwalk.metrics.held_out.target_ranks`.
        top_k: How much of the lists counts.

    Returns:
        float64 ``(B,)`` of 0 and 1, whose mean is HR@K.

    Raises:
        ValueError: If shapes do not fit, a list is shorter than ``top_k``, or a user has no held-out item.

    Example:
        >>> import torch
        >>> from catwalk.metrics.hit_rate import hit_rate
        >>> hit_rate(torch.tensor([[4, 2, 0], [1, 3, -1]]), torch.tensor([2, 0]), top_k=2)
        tensor([1., 0.], dtype=torch.float64)
    """
    return (first_ranks(target_ranks(recommended, targets, top_k), top_k) > 0).double()


class HitRate(HeldOutRankMetric):
    """HR@K: the share of users with at least one of their held-out items in their top-K list, in [0, 1].

    Reference: Deshpande and Karypis, *Item-based top-N recommendation algorithms*, ACM TOIS 22(1), 2004.

    Args:
        top_k: How much of the lists counts.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``top_k`` is less than 1.

    Example:
        >>> import torch
        >>> from catwalk.metrics import HitRate
        >>> generator = torch.Generator().manual_seed(0)
        >>> recommended = torch.rand(10_000, 20, generator=generator).argsort(dim=1)
        >>> metric = HitRate(top_k=5)  # 5 random items of 20
        >>> metric.update(recommended, torch.randint(20, (10_000,), generator=generator))
        >>> round(metric.compute().item(), 2)
        0.25
    """

    first_only = True

    def gains(self) -> Tensor:
        """Return 1 for every rank in the list."""
        return (torch.arange(self.top_k + 1) > 0).double()
