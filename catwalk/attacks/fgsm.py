"""The Fast Gradient Sign Method."""

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import Attack, AttackSettings, cross_entropy_gradient
from catwalk.attacks.threat_model import GreyLevels, grey_levels


class FGSM(Attack):
    """One step of length ε along the sign of the loss's gradient.

    ``x' = clip(x - ε·sign ∇CE(z(x), t))`` towards the target category t, ``x' = clip(x + ε·sign ∇CE(z(x), y))`` away
    from the category y (Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015,
    section 4; the targeted step solves Eq. 3 of the reproduced paper to first order). Values whose gradient is 0 stay.

    Args:
        epsilon: Radius of the L-infinity ball in grey levels, at least 0; ``"8/255"`` are 8.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from catwalk.attacks import FGSM
        >>> from catwalk.networks.building import build_network
        >>> network = build_network("catwalk.networks.compact_cnn", {"width": 8}, num_classes=6)
        >>> images, targets = torch.full((2, 3, 32, 32), 0.5), torch.tensor([0, 3])
        >>> result = FGSM(epsilon=8)(network, images, targets)
        >>> round(float((result.images - images).abs().max() * 255), 2)
        8.0
    """

    def __init__(self, epsilon: GreyLevels = 8.0, targeted: bool = True, **settings: Unpack[AttackSettings]) -> None:
        epsilon = grey_levels(epsilon)
        super().__init__("linf", epsilon, targeted=targeted, **settings)

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch; see :meth:`Attack.perturb`. ``keys`` are not used."""
        budget = self.threat_model.budget
        length = -budget / 255 if self.targeted else budget / 255
        gradient = cross_entropy_gradient(network, images, targets)
        return self.threat_model.clamp(images + length * gradient.sign()), torch.ones_like(targets)
