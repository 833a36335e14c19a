"""SR: the share of attacked images that the network takes for the target class."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def attack_success_counts(predicted_before: Tensor, predicted_after: Tensor, targets: Tensor) -> Tensor:
    """Count the attacked images, and those in the target class before, after, and after alone.

    Args:
        predicted_before: int64 ``(B,)``, the predicted class of each clean image.
        predicted_after: int64 ``(B,)``, that of the same image after the attack.
        targets: int64 ``(B,)``, the class that the attack wanted.

    Returns:
        int64 ``(4,)``: attacked, before, after, moved (in the target class after the attack and not before it).

    Raises:
        ValueError: If the three do not have one and the same length.

    Example:
        >>> import torch
        >>> from catwalk.metrics.attack_success_rate import attack_success_counts
        >>> before, after, targets = torch.tensor([[3, 0, 1, 1], [3, 3, 3, 1], [3, 3, 3, 3]])
        >>> attack_success_counts(before, after, targets)
        tensor([4, 1, 3, 2])
    """
    if targets.ndim != 1 or not predicted_before.shape == predicted_after.shape == targets.shape:
        shapes = [tuple(tensor.shape) for tensor in (predicted_before, predicted_after, targets)]
        raise ValueError(f"predicted_before, predicted_after and targets must be (B,) each, got {shapes}")
    before, after = predicted_before == targets, predicted_after == targets
    return torch.stack([torch.ones_like(before), before, after, after & ~before]).sum(dim=1)


class AttackSuccessRate(Metric):
    """Success rates of a targeted attack, each in [0, 1].

    An image that was in the target class before the attack counts as a success in the rate that papers report. To
    tell what the attack itself did, there are three:

    - ``sr``: the share of all attacked images that are in the target class after the attack;
    - ``sr_clean``: the share that was there before the attack;
    - ``sr_net``: of those that were not there before, the share that is after; NaN when there were none.

    Reference: Anelli et al., *Assessing perceptual and recommendation mutation of adversarially-poisoned visual
    recommenders*, AIxIA 2020 Discussion Papers Workshop (``sr``).

    Args:
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> from catwalk.metrics import AttackSuccessRate
        >>> metric = AttackSuccessRate()
        >>> before = torch.tensor([3, 0, 1, 2, 0])
        >>> metric.update(before, torch.tensor([3, 3, 3, 2, 0]), targets=torch.full((5,), 3))
        >>> {name: rate.item() for name, rate in metric.compute().items()}  # 3 of 5, 1 of 5, 2 of the other 4
        {'sr': 0.6, 'sr_clean': 0.2, 'sr_net': 0.5}
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    counts: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("counts", torch.zeros(4, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted_before: Tensor, predicted_after: Tensor, targets: Tensor) -> None:
        """Add a batch of images; see :func:`attack_success_counts` for what is expected of the arguments."""
        self.counts = self.counts + attack_success_counts(predicted_before, predicted_after, targets)

    def compute(self) -> dict[str, Tensor]:
        """Return ``sr``, ``sr_clean`` and ``sr_net``, float64 scalars; all NaN if there were no images."""
        attacked, before, after, moved = self.counts.double()
        return {"sr": after / attacked, "sr_clean": before / attacked, "sr_net": moved / (attacked - before)}
