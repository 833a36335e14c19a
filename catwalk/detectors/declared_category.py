"""The declared category against what the network sees."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from catwalk.detectors.detector import Detector, Reference, Score, check_declared


@dataclass(frozen=True)
class DeclaredCategory(Detector):
    """How improbable the network finds the category that an image is uploaded under: ``-log p(declared | x)``.

    A targeted attack makes the network see another category than the seller declares, which a shop can notice at the
    price of nothing: the logits are there. With the predicted category in the place of the declared one it is the
    baseline of Hendrycks and Gimpel ("A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    Networks", ICLR 2017). Needs a network of the shop's categories.

    Example:
        >>> import torch
        >>> from catwalk.detectors import DeclaredCategory, Reference
        >>> score = DeclaredCategory().fitted(Reference(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64)))
        >>> images, logits = torch.rand(2, 3, 8, 8), torch.tensor([[9.0, 0.0], [0.0, 9.0]])
        >>> score(torch.nn.Identity(), images, logits, torch.tensor([0, 0])).round()
        tensor([0., 9.])
    """

    @property
    def title(self) -> str:
        """``"Declared category"``."""
        return "Declared category"

    def fitted(self, reference: Reference) -> Score:
        """Return the score; the reference is not used."""
        return _surprise


def _surprise(network: nn.Module, images: Tensor, logits: Tensor, declared: Tensor) -> Tensor:
    check_declared(declared)
    return F.cross_entropy(logits, declared, reduction="none")
