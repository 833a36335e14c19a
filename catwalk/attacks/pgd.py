"""Projected gradient descent."""

import math

import torch
from torch import Tensor, nn

from catwalk.attacks.attack import Attack, cross_entropy_gradient
from catwalk.attacks.threat_model import ThreatModel
from catwalk.counter_random import uniform
from catwalk.errors import CatwalkError


class PGD(Attack):
    """Steps along the sign of the loss's gradient, each followed by a projection onto the L-infinity ball.

    From ``x = clip(x₀ + U(-ε, ε))``, or ``x₀`` without a random start, it repeats
    ``x ← clip(x₀ + clamp(x - α·sign ∇CE(z(x), t) - x₀, -ε, ε))`` towards the target category t; away from a category
    the step is added (Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
    section 2.1; the targeted form solves Eq. 3 of the reproduced paper, whose ten steps of ε/6 are the defaults).

    Args:
        epsilon: Radius of the ball in grey levels, above 0.
        step: Length α of a step in grey levels, above 0; None means ``epsilon / 6``.
        iterations: Number of steps, at least 1.
        random_start: Whether to start from a uniformly random point of the ball.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        seed: Seed of the random starts.
        batch_size: Images per forward pass, at least 1.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    def __init__(
        self,
        epsilon: float = 8.0,
        step: float | None = None,
        iterations: int = 10,
        random_start: bool = True,
        targeted: bool = True,
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        super().__init__(ThreatModel("linf", epsilon), targeted=targeted, seed=seed, batch_size=batch_size)
        if step is not None and not 0 < step < math.inf:
            raise CatwalkError(f"step: must be a number of grey levels above 0, or null for epsilon / 6, got {step!r}")
        if iterations < 1:
            raise CatwalkError(f"iterations: must be at least 1, got {iterations!r}")
        self.epsilon = epsilon
        self.step = epsilon / 6 if step is None else step
        self.iterations = iterations
        self.random_start = random_start

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch; see :meth:`Attack.perturb`."""
        length = -self.step / 255 if self.targeted else self.step / 255
        adversarial = images
        if self.random_start:
            shape = tuple(images.shape[1:])
            draws = torch.rand_like(images) if keys is None else uniform(self.seed, keys, shape)
            adversarial = (images + self.epsilon / 255 * (2 * draws - 1)).clamp(0, 1)
        for _ in range(self.iterations):
            gradient = cross_entropy_gradient(network, adversarial, targets)
            adversarial = self.threat_model.project(adversarial + length * gradient.sign(), images)
        return adversarial, torch.full_like(targets, self.iterations)
