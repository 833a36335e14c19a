"""SR: the share of attacked images with which the attack has what it wants."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def attack_success_counts(
    predicted_before: Tensor, predicted_after: Tensor, targets: Tensor, targeted: bool = True
) -> Tensor:
    """Count the attacked images, and the successes before the attack, after it, and after it alone.

    An image is a success if the network takes it for its target class (targeted), or for another class than the one
    given (untargeted).

    Args:
        predicted_before: int64 ``(B,)``, the predicted class of each clean image.
        predicted_after: int64 ``(B,)``, that of the same image after the attack.
        targets: int64 ``(B,)``, the class to reach (targeted) or to leave (untargeted).
        targeted: Which of the two.

    Returns:
        int64 ``(4,)``: attacked, before, after, moved (a success after the attack and not before it).

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
    before, after = ((predicted == targets) == targeted for predicted in (predicted_before, predicted_after))
    return torch.stack([torch.ones_like(before), before, after, after & ~before]).sum(dim=1)


class AttackSuccessRate(Metric):
    """Success rates of an attack, each in [0, 1].

    An image that the network takes for the target class already before the attack counts as a success in the rate
    that papers report. To tell what the attack itself did, there are three:

    - ``sr``: the share of all attacked images that are successes after the attack;
    - ``sr_clean``: the share that was so before the attack;
    - ``sr_net``: of those that were not, the share that is after; NaN when there were none.

    Reference: Anelli et al., *Assessing perceptual and recommendation mutation of adversarially-poisoned visual
    recommenders*, AIxIA 2020 Discussion Papers Workshop (``sr``).

    Args:
        targeted: Whether the attack wanted the network to see a certain class, rather than not to see one.
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

    def __init__(self, targeted: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.targeted = targeted
        self.add_state("counts", torch.zeros(4, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted_before: Tensor, predicted_after: Tensor, targets: Tensor) -> None:
        """Add a batch of images; see :func:`attack_success_counts` for what is expected of the arguments."""
        self.counts = self.counts + attack_success_counts(predicted_before, predicted_after, targets, self.targeted)

    def compute(self) -> dict[str, Tensor]:
        """Return ``sr``, ``sr_clean`` and ``sr_net``, float64 scalars; all NaN if there were no images."""
        attacked, before, after, moved = self.counts.double()
        return {"sr": after / attacked, "sr_clean": before / attacked, "sr_net": moved / (attacked - before)}
