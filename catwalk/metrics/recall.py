"""Recall@K: the share of a user's held-out items that are in the list."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from catwalk.metrics.held_out import check_top_k, num_hits, num_targets, target_ranks

UNIT = 2**36
"""Shares are added up in whole units, so that their sum is the same in every order. Each is off by less than 1e-11, and
the sum has room for a hundred million users."""


def recall(recommended: Tensor, targets: Tensor, top_k: int) -> Tensor:
    """Return for each user the share of the held-out items that is recommended: with one such item, whether it is.

    Args:
        recommended: int64 ``(B, >= top_k)``, best first; ``-1`` fills short lists.
        targets: int64 ``(B,)`` or ``(B, T)``, the held-out items of each user; see
            :func:`~catwalk.metrics.held_out.target_ranks`.
        top_k: How much of the lists counts.

    Returns:
        float64 ``(B,)`` in [0, 1].

    Raises:
        ValueError: If shapes do not fit, a list is shorter than ``top_k``, or a user has no held-out item.

    Example:
        >>> import torch
        >>> from catwalk.metrics.recall import recall
        >>> recall(torch.tensor([[4, 2, 0], [1, 3, -1]]), torch.tensor([[2, 3], [0, -1]]), top_k=2)
        tensor([0.5000, 0.0000], dtype=torch.float64)
    """
    return num_hits(target_ranks(recommended, targets, top_k)).double() / num_targets(targets)


class Recall(Metric):
    """Recall@K: the mean over users of the share of their held-out items that are in the list, in [0, 1].

    With one held-out item per user it equals :class:`HitRate`.

    Args:
        top_k: How much of the lists counts.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``top_k`` is less than 1.

    Example:
        >>> import torch
        >>> from catwalk.metrics import Recall
        >>> Recall(top_k=3)(torch.tensor([[4, 2, 0], [1, 3, 2]]), torch.tensor([[2, 1], [3, -1]]))  # 1/2 and 1
        tensor(0.7500, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, top_k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_top_k(top_k)
        self.top_k = top_k
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, recommended: Tensor, targets: Tensor) -> None:
        """Add a batch of users; see :func:`recall` for what is expected of the arguments."""
        shares = recall(recommended, targets, self.top_k)
        self.total = self.total + (shares * UNIT).round().long().sum()
        self.count = self.count + len(shares)

    def compute(self) -> Tensor:
        """Return the mean over users, a float64 scalar; NaN if there were none."""
        return self.total.double() / UNIT / self.count
