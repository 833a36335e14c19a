"""Recall@K: the share of a user's held-out items that are in the list."""

from torch import Tensor

from catwalk.metrics.hit_rate import HitRate, hit_rate


def recall(recommended: Tensor, targets: Tensor, top_k: int) -> Tensor:
    """Return for each user the share of the held-out items that is recommended: with one such item, whether it is.

    Args:
        recommended: int64 ``(B, >= top_k)``, best first; ``-1`` fills short lists.
        targets: int64 ``(B,)``, the one held-out item of each user.
        top_k: How much of the lists counts.

    Returns:
        float64 ``(B,)`` of 0 and 1.

    Raises:
        ValueError: If shapes do not fit, a list is shorter than ``top_k``, or a target is negative.

    Example:
        >>> import torch
        >>> from catwalk.metrics.recall import recall
        >>> recall(torch.tensor([[4, 2, 0], [1, 3, -1]]), torch.tensor([2, 0]), top_k=2)
        tensor([1., 0.], dtype=torch.float64)
    """
    return hit_rate(recommended, targets, top_k)


class Recall(HitRate):
    """Recall@K under leave-one-out: the mean over users of the share of their held-out items in the list, in [0, 1].

    A user has one held-out item, so that this equals :class:`HitRate`; it is here under the name by which others
    report it.

    Args:
        top_k: How much of the lists counts.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``top_k`` is less than 1.

    Example:
        >>> import torch
        >>> from catwalk.metrics import HitRate, Recall
        >>> recommended, targets = torch.tensor([[4, 2, 0], [1, 3, 2]]), torch.tensor([2, 0])
        >>> Recall(top_k=3)(recommended, targets) == HitRate(top_k=3)(recommended, targets)
        tensor(True)
    """
