"""Feature squeezing."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from catwalk.detectors.detector import Detector, Reference, Score
from catwalk.errors import CatwalkError


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
    def _squeezers(self) -> list[Callable[[Tensor], Tensor]]:
        squeezers: list[Callable[[Tensor], Tensor]] = []
        if self.bits is not None:
            squeezers.append(functools.partial(fewer_bits, bits=self.bits))
        if self.median is not None:
            squeezers.append(functools.partial(median_filter, side=self.median))
        if self.smoothing is not None:
            squeezers.append(
                functools.partial(non_local_means, strength=self.smoothing, window=self.window, patch=self.patch)
            )
        return squeezers

    def fitted(self, reference: Reference) -> Score:
        """Return the score; the reference is not used."""
        return _Squeezed(self._squeezers)


@dataclass(frozen=True)
class _Squeezed:
    squeezers: Sequence[Callable[[Tensor], Tensor]]

    def __call__(self, network: nn.Module, images: Tensor, logits: Tensor, declared: Tensor) -> Tensor:
        before = logits.softmax(dim=1)
        after = [network(squeeze(images)).float().softmax(dim=1) for squeeze in self.squeezers]
        return torch.stack([(before - each).abs().sum(dim=1) for each in after]).amax(dim=0)


def fewer_bits(images: Tensor, bits: int) -> Tensor:
    """Return images ``(N, 3, H, W)`` in [0, 1] rounded to ``2^bits`` levels; gradients pass as if nothing was rounded.

    The gradient is the straight-through one (Athalye, Carlini and Wagner, "Obfuscated Gradients Give a False Sense of
    Security", ICML 2018, section 4.1), without which no attack could follow.
    """
    most = 2**bits - 1
    return images + ((images.detach() * most).round() / most - images.detach())


def median_filter(images: Tensor, side: int) -> Tensor:
    """Return the median of the window around each value of images ``(N, 3, H, W)``, by colour.

    As ``scipy.ndimage.median_filter(image, side, mode="reflect")``: borders are mirrored, a window of an even side
    reaches further up and to the left, and of two values in the middle the larger is taken.
    """
    before, after = side // 2, (side - 1) // 2
    padded = _mirrored(images, before, after)
    windows = padded.unfold(2, side, 1).unfold(3, side, 1).flatten(4)
    return windows.kthvalue(side * side // 2 + 1, dim=4).values


def non_local_means(images: Tensor, strength: float, window: int, patch: int) -> Tensor:
    """Return each pixel's mean over the pixels around it, weighted by how alike the patches around both are.

    ``Σ_q w(p, q) x_q / Σ_q w(p, q)`` with ``w = exp(-d² / h²)``, where d² is the mean square of the differences of two
    patches over their pixels and colours (Buades, Coll and Morel, "A non-local algorithm for image denoising", CVPR
    2005, with a patch of even weights). Borders are mirrored.

    Args:
        images: float32 ``(N, 3, H, W)`` in [0, 1].
        strength: h, in grey levels.
        window: Side of the square around p from which q comes, odd.
        patch: Side of the patches, odd.
    """
    reach, half = window // 2, patch // 2
    height, width = images.shape[2:]
    wide = _mirrored(images, reach + half, reach + half)
    own = wide[:, :, reach : reach + height + 2 * half, reach : reach + width + 2 * half]

    def along_a_row(wide: Tensor, own: Tensor, down: int) -> tuple[Tensor, Tensor]:
        """Return the sums over the q of one row of the square."""
        total, weights = torch.zeros_like(images), torch.zeros_like(images[:, :1])
        for right in range(window):
            other = wide[:, :, down : down + height + 2 * half, right : right + width + 2 * half]
            squares = (own - other).square().mean(dim=1, keepdim=True)
            weight = torch.exp(-_window_means(squares, patch) / (strength / 255) ** 2)
            total = total + weight * other[:, :, half : half + height, half : half + width]
            weights = weights + weight
        return total, weights

    along: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] = along_a_row
    if torch.is_grad_enabled() and images.requires_grad:  # or the shifts of all rows would be kept for the gradient
        along = functools.partial(checkpoint, along_a_row, use_reentrant=False, preserve_rng_state=False)
    sums = [along(wide, own, down) for down in range(window)]
    total, weights = (functools.reduce(torch.add, each) for each in zip(*sums, strict=True))
    return total / weights


def _window_means(values: Tensor, side: int) -> Tensor:
    """Return the mean of every window of values ``(N, 1, H, W)``: sums of shifts, whose gradient is quick on CPUs."""
    height, width = (length - side + 1 for length in values.shape[2:])
    rows = functools.reduce(torch.add, [values[:, :, first : first + height] for first in range(side)])
    return functools.reduce(torch.add, [rows[..., first : first + width] for first in range(side)]) / side**2


def _mirrored(images: Tensor, before: int, after: int) -> Tensor:
    """Return images with borders that mirror them, the outermost values repeated, whatever the width of the border."""
    rows, columns = (
        torch.from_numpy(np.pad(np.arange(length), (before, after), mode="symmetric")).to(images.device)
        for length in images.shape[2:]
    )
    return images[:, :, rows][:, :, :, columns]
