"""Base of the attacks without a budget, which look for the least change that succeeds."""

import abc
import math

import torch
from torch import Tensor
from typing_extensions import Unpack

from catwalk.attacks.attack import Attack, AttackSettings
from catwalk.attacks.threat_model import Norm

_ROUNDING = 1e-6
"""By how much an image that nothing has moved may differ from the clean one, for it was divided and multiplied."""


class LeastChange(Attack, abc.ABC):
    """Base of attacks that have no ε: of the successes that they meet they hand out the one nearest to the clean image.

    Where they meet none, they hand out the clean image, and that is no success.

    Args:
        norm: The distance that is made least.
        rounded: Whether the network is shown images rounded to 8 bits, so that what succeeds is what will be saved;
            see :func:`as_saved`.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        **settings: As in :class:`Attack`.
    """

    def __init__(self, norm: Norm, *, rounded: bool, targeted: bool, **settings: Unpack[AttackSettings]) -> None:
        super().__init__(norm, None, targeted=targeted, **settings)
        self.rounded = rounded

    def lag(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return by how much the unwanted logit leads the wanted one ``(N,)``, and the gradient of that ``(N, C)``.

        Towards a category t it is ``max_{j≠t} z_j - z_t``, and away from a category y ``z_y - max_{j≠y} z_j``: below 0
        the attack has succeeded.

        Args:
            logits: ``(N, C)``, of any floating dtype.
            targets: int64 ``(N,)`` in 0..C-1.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        index = targets[:, None]
        other, its_index = logits.scatter(1, index, -math.inf).max(dim=1, keepdim=True)
        margin = (other - logits.gather(1, index))[:, 0]
        direction = torch.zeros_like(logits).scatter(1, its_index, 1.0).scatter(1, index, -1.0)
        return (margin, direction) if self.targeted else (-margin, -direction)

    def final_images(self, images: Tensor, clean: Tensor, success: Tensor) -> Tensor:
        """Return the clean image for each that the network does not take as wanted.

        Most of those are clean already. Of some, found at the very border, the logits have other last bits now. What
        was found outside of [0, 1] and clipped is handed out whatever the network makes of it, as in the reproduced
        paper's code, which judges before it clips.
        """
        if not self.threat_model.clip:
            success = success | ((images - clean).abs().flatten(1).amax(dim=1) > _ROUNDING)
        return torch.where(per_image(success), images, clean)


def as_saved(images: Tensor, highest: Tensor | None) -> Tensor:
    """Return what is left of images when they are rounded to the nearest 8-bit levels, saved and read back.

    Args:
        images: ``(N, 3, H, W)``, coordinates of images.
        highest: Coordinates of the value 1, ``(1, 3, 1, 1)``; None where they are 1.
    """
    pixels = images if highest is None else images / highest
    rounded = (pixels.clamp(0, 1) * 255).round_().div_(255)
    return rounded if highest is None else rounded.mul_(highest)


def per_image(values: Tensor) -> Tensor:
    """Return ``(N,)`` as ``(N, 1, 1, 1)``, for images."""
    return values[:, None, None, None]
