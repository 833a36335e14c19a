"""AUC: how far up the whole catalogue the held-out item stands."""

import torch
from torch import Tensor

from catwalk.errors import DivergedError
from catwalk.metrics.mean import Float64Mean

TILE_ROWS = 32
"""Rows that are compared at a time, so that what is compared and the outcome stay in a CPU's cache."""


def auc(scores: Tensor, targets: Tensor) -> Tensor:
    """Return for each user the share of the other candidates that score lower than the held-out item.

    Args:
        scores: Float ``(B, N)``; minus infinity marks what the user has seen, which is no candidate.
        targets: int64 ``(B,)``, the one held-out item of each user.

    Returns:
        float64 ``(B,)`` in [0, 1], where a candidate with the target's own score counts one half; NaN for a user
        who has no candidate besides the target.

    Raises:
        ValueError: If shapes do not fit, a target is not in ``0..N - 1`` or is masked, or a score is NaN.

    Example:
        >>> import torch
        >>> from catwalk.metrics.auc import auc
        >>> auc(torch.tensor([[0.1, 0.5, -torch.inf, 0.5, 0.9]]), torch.tensor([1]))
        tensor([0.5000], dtype=torch.float64)
    """
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise ValueError(
            f"scores must be (B, N) and targets (B,), got {tuple(scores.shape)} and {tuple(targets.shape)}"
        )
    scores = scores.detach()
    if not len(targets):
        return torch.zeros(0, dtype=torch.float64, device=scores.device)
    if scores.amax().isnan():  # the maximum hands NaN on
        raise DivergedError("scores contain NaN: the model has diverged")
    if (targets < 0).any() or (targets >= scores.shape[1]).any():
        raise ValueError(f"targets must be in 0..{scores.shape[1] - 1}; leave out users without a held-out item")
    target_scores = scores.gather(1, targets[:, None])
    if (target_scores == -torch.inf).any():
        raise ValueError("a target's score is minus infinity: the held-out item is among the seen items")
    num_items = scores.shape[1]
    # Floats, for a CPU adds them up several times faster than booleans; float32 counts exactly up to 2 ** 24.
    dtype = torch.float32 if num_items <= 2**24 else torch.float64
    outcomes = torch.empty((min(TILE_ROWS, len(scores)), num_items), dtype=dtype, device=scores.device)
    values = []
    for tile, target in zip(scores.split(TILE_ROWS), target_scores.split(TILE_ROWS), strict=True):
        out = outcomes[: len(tile)]
        masked = torch.eq(tile, -torch.inf, out=out).sum(dim=1).double()
        lower = torch.lt(tile, target, out=out).sum(dim=1).double() - masked
        equal = torch.eq(tile, target, out=out).sum(dim=1).double() - 1
        values.append((lower + 0.5 * equal) / (num_items - masked - 1))
    return torch.cat(values)


class AUC(Float64Mean):
    """Mean over users of the share of the other candidates that score lower than the held-out item, in [0, 1].

    The candidates are the items that the user has not seen. Ties count one half, so a constant score gets 0.5. A user
    without candidates besides the held-out item has no such share and is not counted; NaN if nobody is.

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

    def update(self, scores: Tensor, targets: Tensor) -> None:
        """Add a batch of users; see :func:`auc` for what is expected of the arguments."""
        values = auc(scores, targets)
        self.add(values[~values.isnan()])
