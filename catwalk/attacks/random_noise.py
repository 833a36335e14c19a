"""Random noise, the control of every attack that has a budget."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import Attack, AttackSettings
from catwalk.attacks.threat_model import GreyLevels, grey_levels
from catwalk.errors import CatwalkError
from catwalk.keyed_random import uniform

Distribution = Literal["sign", "uniform"]


class RandomNoise(Attack):
    """Adds random noise to every value of an image, and clips the sum to [0, 1].

    It asks the network nothing. Beside an attack of the same ε on the same images it is a control: what noise does as
    well is no merit of the attack. Both distributions are the control experiments of Goodfellow, Shlens and Szegedy,
    "Explaining and Harnessing Adversarial Examples", ICLR 2015, section 6. ``sign`` moves every value as far as FGSM
    does; ``uniform`` is the random start of PGD without a step.

    Args:
        epsilon: Radius ε of the L-infinity ball in grey levels, at least 0; ``"8/255"`` are 8.
        distribution: Of the noise of a value: ``sign`` is -ε or ε with equal probability, ``uniform`` is uniform in
            [-ε, ε].
        targeted: What counts as success: images that are seen as the category ``targets`` (True), or as another
            (False). The images do not depend on it.
        seed: Seed of the noise, which depends on it and on the item's key alone.
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from catwalk.attacks import RandomNoise
        >>> from catwalk.networks.building import build_network
        >>> network = build_network("catwalk.networks.compact_cnn", {"width": 8}, num_classes=6)
        >>> images, targets, keys = torch.full((2, 3, 32, 32), 0.5), torch.tensor([0, 3]), torch.arange(2)
        >>> result = RandomNoise(epsilon=8)(network, images, targets, keys=keys)
        >>> ((result.images - images) * 255).round().unique()
        tensor([-8.,  8.])
    """

    access = "nothing"

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        distribution: Distribution = "sign",
        targeted: bool = True,
        seed: int = 0,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__("linf", grey_levels(epsilon), targeted=targeted, random_start=True, seed=seed, **settings)
        if distribution not in get_args(Distribution):
            raise CatwalkError(
                f"distribution: must be one of {', '.join(get_args(Distribution))}, got {distribution!r}"
            )
        self.distribution: Distribution = distribution

    @property
    def title(self) -> str:
        """``"Noise"``, or ``"Noise, uniform"``."""
        return "Noise" if self.distribution == "sign" else f"Noise, {self.distribution}"

    def purpose(self, source: str, target: str | None) -> str:
        """Return what the noise is for, as half a sentence."""
        return f"show what random noise on {source} does"

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return noisy images of a batch, and that none took a step; see :meth:`Attack.perturb`."""
        draws = torch.rand_like(images) if keys is None else uniform(self.seed, keys, tuple(images.shape[1:]))
        noise = (draws >= 0.5).to(images.dtype) if self.distribution == "sign" else draws
        ball = self.threat_model
        return ball.project(images + ball.budget / 255 * (2 * noise - 1), images), torch.zeros_like(targets)
