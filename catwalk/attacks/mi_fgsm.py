"""The momentum iterative fast gradient sign method."""

import math

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import Attack, AttackSettings, check_steps, cross_entropy_gradient
from catwalk.attacks.threat_model import GreyLevels, grey_levels
from catwalk.errors import CatwalkError


class MIFGSM(Attack):
    """Steps along the sign of the gradients' decaying sum, which keeps its direction where single gradients waver.

    From ``g = 0`` and the clean image ``x = x₀`` it repeats ``g ← μ·g + ∇CE(z(x), t) / ‖∇CE(z(x), t)‖₁`` and
    ``x ← clip(x₀ + clamp(x - α·sign g - x₀, -ε, ε))`` towards the target category t; away from a category the step is
    added (Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018, algorithm 1). There, its images
    deceive other networks than the one attacked more often than those made without momentum. It costs a forward and a
    backward pass per step, draws no random number, and an image without gradient adds nothing to its sum.

    Args:
        epsilon: Radius of the L-infinity ball in grey levels, at least 0; ``"8/255"`` are 8.
        step: Length α of a step in grey levels, above 0; None means ``epsilon / iterations``.
        iterations: Number of steps, at least 1.
        momentum: Decay factor μ of the sum, 0 or above; 0 leaves PGD without a random start.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        step: GreyLevels | None = None,
        iterations: int = 10,
        momentum: float = 1.0,
        targeted: bool = True,
        **settings: Unpack[AttackSettings],
    ) -> None:
        epsilon = grey_levels(epsilon)
        step = None if step is None else grey_levels(step, "step")
        super().__init__("linf", epsilon, targeted=targeted, **settings)
        check_steps(iterations, step, "epsilon / iterations")
        if not 0 <= momentum < math.inf:
            raise CatwalkError(f"momentum: must be a number of 0 or above, got {momentum!r}")
        self.step = epsilon / iterations if step is None else step
        self.iterations = iterations
        self.momentum = momentum

    @property
    def title(self) -> str:
        """``"MI-FGSM"``."""
        return "MI-FGSM"

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch; see :meth:`Attack.perturb`. ``keys`` are not used."""
        length = -self.step / 255 if self.targeted else self.step / 255
        adversarial, accumulated = images, torch.zeros_like(images)
        for _ in range(self.iterations):
            gradient = cross_entropy_gradient(network, adversarial, targets)
            sizes = gradient.abs().sum(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)
            accumulated = self.momentum * accumulated + gradient / sizes
            adversarial = self.threat_model.project(adversarial + length * accumulated.sign(), images)
        return adversarial, torch.full_like(targets, self.iterations)
