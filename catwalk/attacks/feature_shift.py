"""Moving the features of images along given directions: what an image-borne perturbation can reach in feature space."""

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import AttackContext, AttackSettings
from catwalk.attacks.descent import DescentAttack, features_of
from catwalk.attacks.threat_model import GreyLevels, Norm
from catwalk.errors import CatwalkError


class FeatureShift(DescentAttack):
    """Moves the features of images as far as they go along directions, one for each image.

    From the clean image ``x = x₀`` it repeats ``x ← P(x + α·d(∇⟨v, φ(x)⟩))``, with φ the network's features, v the
    direction, and P and d as in :class:`~catwalk.attacks.FeatureMatching`, and keeps the furthest point on the way. It
    is no attack of a shop's items by itself: a defence finds with it what attacks could reach
    (:func:`~catwalk.poisoning.reachable_shifts.find_shifts`). ``targets`` are the directions, float32 ``(N, D)``. It
    succeeds where the features have moved along the direction.

    Args:
        epsilon: Radius of the ball in grey levels, at least 0; ``"8/255"`` are 8.
        step: Length α of a step in grey levels, above 0; None means ``epsilon / 10``.
        iterations: Number of steps, at least 1.
        norm: Distance that ``epsilon`` bounds, ``"linf"`` or ``"l2"``.
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range; when called, if the network gives no features.
    """

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        step: GreyLevels | None = None,
        iterations: int = 10,
        norm: Norm = "linf",
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(epsilon, step, iterations, norm, random_start=False, seed=0, targeted=False, **settings)

    @property
    def title(self) -> str:
        """``"Feature shift"``."""
        return "Feature shift"

    def targets_of(self, scene: AttackContext) -> Tensor:
        """Refuse: a catalogue has no directions.

        Raises:
            CatwalkError: Always.
        """
        raise CatwalkError("FeatureShift takes directions, which a catalogue does not have; take another attack")

    def loss(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Return how far the features are along the directions, with the sign reversed."""
        return -(network.features(images) * targets).sum(dim=1)  # type: ignore[operator]

    def succeeds(self, network: nn.Module, images: Tensor, clean: Tensor, targets: Tensor) -> Tensor:
        """Return whether the features have moved along the directions."""
        return self.loss(network, images, targets) < self.loss(network, clean, targets)

    def check_targets(self, network: nn.Module, image: Tensor, targets: Tensor) -> None:
        """Check the directions; see :meth:`Attack.check_targets`."""
        size = features_of(network, image).shape[1]
        if targets.shape[1] != size:
            raise CatwalkError(
                f"targets: must be directions of {size} values each, as the network's features are; got "
                f"{targets.shape[1]}"
            )

    def _check_layout_of_targets(self, images: Tensor, targets: Tensor) -> None:
        if targets.dtype != torch.float32 or targets.ndim != 2 or len(targets) != len(images):
            raise ValueError(
                f"targets: must be float32 directions of shape ({len(images)}, D), one row per image, "
                f"got {targets.dtype} of shape {tuple(targets.shape)}"
            )
