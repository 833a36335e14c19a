"""Feature squeezing."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from catwalk.detectors.detector import Detector, Reference, Score
from catwalk.errors import CatwalkError
from catwalk.processing import BitDepth, Median, NonLocalMeans, Operation


@dataclass(frozen=True)
class FeatureSqueezing(Detector):
    """How far a network's probabilities move when an image is squeezed: fewer levels, a median, smoothing.

    The score is ``max over squeezers s of ‖softmax z(x) - softmax z(s(x))‖₁``, in [0, 2] (Xu, Evans and Qi, "Feature
    Squeezing: Detecting Adversarial Examples in Deep Neural Networks", NDSS 2018, section V): what depends on details
    that squeezing removes is suspect. The defaults are the paper's joint squeezers for colour photographs. Knows
    nothing of the items, and needs no declared category.

    Attributes:
        bits: Levels per colour are rounded to 2^bits, 1 to 7; null leaves this squeezer out.
        median: Side in pixels of the window whose median replaces each value, at least 2; null leaves it out.
        smoothing: Strength of the non-local means in grey levels, above 0; null leaves it out. It is by far the dearest
            of the three, by ``window²`` shifts of each image.
        window: Side in pixels of the square in which the non-local means look for patches alike, odd.
        patch: Side in pixels of these patches, odd.

    Raises:
        CatwalkError: If an attribute is out of its range, or no squeezer is left.

    Example:
        >>> import torch
        >>> from catwalk.detectors import FeatureSqueezing, Reference
        >>> from catwalk.networks.building import build_network
        >>> network = build_network("catwalk.networks.compact_cnn", {"width": 8}, num_classes=6).eval()
        >>> score = FeatureSqueezing().fitted(Reference(torch.zeros(1, 64), torch.zeros(1, dtype=torch.int64)))
        >>> white = torch.ones(2, 3, 32, 32)  # which no squeezer changes
        >>> bool((score(network, white, network(white), torch.tensor([0, 1])) < 1e-5).all())
        True
    """

    bits: int | None = 5
    median: int | None = 2
    smoothing: float | None = 4.0
    window: int = 11
    patch: int = 3

    def __post_init__(self) -> None:
        if self.bits is not None and not 1 <= self.bits <= 7:
            raise CatwalkError(f"bits: must be in 1..7, or null to leave it out, got {self.bits!r}")
        if self.median is not None and self.median < 2:
            raise CatwalkError(
                f"median: must be a side of at least 2 pixels, or null to leave it out, got {self.median!r}"
            )
        if self.smoothing is not None and not self.smoothing > 0:
            raise CatwalkError(
                f"smoothing: must be a number of grey levels above 0, or null to leave it out, got {self.smoothing!r}"
            )
        for argument, side in (("window", self.window), ("patch", self.patch)):
            if side < 1 or side % 2 == 0:
                raise CatwalkError(f"{argument}: must be an odd number of pixels, got {side!r}")
        if not self._squeezers:
            raise CatwalkError("bits, median and smoothing are all null: leave one squeezer at least")

    @property
    def title(self) -> str:
        """``"Feature squeezing"``."""
        return "Feature squeezing"

    @property
    def passes(self) -> int:
        """One for each squeezer."""
        return len(self._squeezers)

    @property
    def _squeezers(self) -> list[Operation]:
        squeezers: list[Operation] = []
        if self.bits is not None:
            squeezers.append(BitDepth(self.bits))
        if self.median is not None:
            squeezers.append(Median(self.median))
        if self.smoothing is not None:
            squeezers.append(NonLocalMeans(self.smoothing, self.window, self.patch))
        return squeezers

    def fitted(self, reference: Reference) -> Score:
        """Return the score; the reference is not used."""
        return _Squeezed(self._squeezers)


@dataclass(frozen=True)
class _Squeezed:
    squeezers: Sequence[Operation]

    def __call__(self, network: nn.Module, images: Tensor, logits: Tensor, declared: Tensor) -> Tensor:
        before = logits.softmax(dim=1)
        after = [network(squeeze(images)).float().softmax(dim=1) for squeeze in self.squeezers]
        return torch.stack([(before - each).abs().sum(dim=1) for each in after]).amax(dim=0)
