"""An attack of your own: noise that knows nothing, the control of every attack that does."""

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import Attack, AttackSettings
from catwalk.attacks.threat_model import GreyLevels, grey_levels
from catwalk.keyed_random import uniform


class UniformNoise(Attack):
    """Adds noise from ``U(-ε, ε)`` to every value of an image, and cuts off what is outside [0, 1].

    Args:
        epsilon: Radius ε of the L-infinity ball in grey levels, at least 0.
        seed: Seed of the noise, which depends on it and on the item alone.
        **settings: As in :class:`~catwalk.attacks.Attack`.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    def __init__(self, epsilon: GreyLevels = 8.0, seed: int = 0, **settings: Unpack[AttackSettings]) -> None:
        super().__init__("linf", grey_levels(epsilon), targeted=False, random_start=True, seed=seed, **settings)

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return noisy images of a batch ``(N, 3, H, W)``, and that none took a step; see :meth:`Attack.perturb`."""
        draws = torch.rand_like(images) if keys is None else uniform(self.seed, keys, tuple(images.shape[1:]))
        noisy = images + (self.threat_model.epsilon or 0.0) / 255 * (2 * draws - 1)
        return self.threat_model.project(noisy, images), torch.zeros_like(targets)
