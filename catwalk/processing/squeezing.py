"""Operations that take detail out of images: fewer grey levels, medians, smoothing, total variation."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.limits import check_count
from catwalk.processing.operation import Operation, StraightThrough


class BitDepth(StraightThrough):
    """Rounds every value to one of ``2^bits`` levels; the gradient is the identity's.

    Xu, Evans and Qi, "Feature Squeezing", NDSS 2018, section III-A: ``round(x (2^i - 1)) / (2^i - 1)``.

    Args:
        bits: 1 to 8; 8 changes nothing in an 8-bit image.

    Raises:
        CatwalkError: If ``bits`` is out of its range.
    """

    def __init__(self, bits: int = 4) -> None:
        super().__init__()
        check_count(bits, "bits")
        if bits > 8:
            raise CatwalkError(f"bits must be at most 8, got {bits}")
        self.bits = bits

    def process(self, images: Tensor) -> Tensor:
        """Round."""
        steps = 2**self.bits - 1
        return (images.clamp(0, 1) * steps).round() / steps


class Median(Operation):
    """Replaces every value by the median of the square around it, each colour for itself.

    Xu, Evans and Qi, "Feature Squeezing", NDSS 2018, section III-B. At the borders the image is mirrored with its
    outermost pixels repeated, and of an even number of values the upper of the two in the middle counts, both as in
    ``scipy.ndimage.median_filter``. The gradient goes to the pixel that was chosen.

    Args:
        size: Side of the square in pixels, at least 2.

    Raises:
        CatwalkError: If ``size`` is below 2, or an image is smaller.
    """

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        check_count(size, "size", least=2)
        self.size = size

    def forward(self, images: Tensor, draw: int = 0) -> Tensor:
        """Return the medians."""
        height, width = images.shape[2:]
        if self.size > min(height, width):
            raise CatwalkError(f"Median.size: is {self.size}, and there are images of {width}×{height} pixels")
        before, after = self.size // 2, (self.size - 1) // 2
        rows, columns = (mirrored(length, before, after, images.device) for length in (height, width))
        windows = images[:, :, rows][:, :, :, columns].unfold(2, self.size, 1).unfold(3, self.size, 1).flatten(4)
        return windows.kthvalue(self.size**2 // 2 + 1, dim=4).values


def mirrored(length: int, before: int, after: int, device: torch.device) -> Tensor:
    """Return the places of the pixels of a line that is mirrored at both ends, its last pixels repeated."""
    places = torch.arange(-before, length + after, device=device)
    places = torch.where(places < 0, -1 - places, places)
    return torch.where(places >= length, 2 * length - 1 - places, places)


class GaussianSmoothing(Operation):
    """Blurs every colour with a Gaussian; borders are mirrored, the outermost pixels repeated.

    Args:
        sigma: Standard deviation in pixels, above 0; the kernel ends at four of them, as SciPy's.

    Raises:
        CatwalkError: If ``sigma`` is not above 0, or the kernel reaches beyond the mirror image of an image.
    """

    def __init__(self, sigma: float = 1.0) -> None:
        super().__init__()
        check_positive(sigma, "sigma")
        self.sigma = sigma

    def forward(self, images: Tensor, draw: int = 0) -> Tensor:
        """Blur."""
        height, width = images.shape[2:]
        radius = int(4 * self.sigma + 0.5)
        if radius > min(height, width):
            raise CatwalkError(
                f"GaussianSmoothing.sigma: {self.sigma} reaches {radius} pixels far, and there are images of "
                f"{width}×{height}"
            )
        kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / self.sigma) ** 2)
        kernel = (kernel / kernel.sum()).to(images)
        rows, columns = (mirrored(length, radius, radius, images.device) for length in (height, width))
        lines = images[:, :, rows][:, :, :, columns].flatten(0, 1)[:, None]
        blurred = F.conv2d(F.conv2d(lines, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
        return blurred.view_as(images)


class TotalVariation(StraightThrough):
    """Replaces each colour by the smoother image that minimises ``‖u - x‖² / (2 weight) + TV(u)``.

    ``TV`` adds up the lengths of the gradients, with forward differences. It is solved by a fixed number of steps of
    Chambolle's projection ("An Algorithm for Total Variation Minimization and Applications", JMIV 2004, Eq. 9), so that
    an image's result does not depend on its batch. Guo et al. ("Countering Adversarial Images using Input
    Transformations", ICLR 2018) defend by it; they drop pixels at random first, which this does not. The gradient is
    the identity's.

    Args:
        weight: How much smoothness counts, above 0, for values in [0, 1]; 0.1 is scikit-image's.
        iterations: Steps, at least 1.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    def __init__(self, weight: float = 0.1, iterations: int = 50) -> None:
        super().__init__()
        check_positive(weight, "weight")
        check_count(iterations, "iterations")
        self.weight = weight
        self.iterations = iterations

    def process(self, images: Tensor) -> Tensor:
        """Minimise."""
        images = images.clamp(0, 1)
        dual = images.new_zeros(2, *images.shape)
        step = 0.25  # up to 1/4 it converges in practice, up to 1/8 by Theorem 3.1
        for _ in range(self.iterations):
            slope = gradient(divergence(dual) - images / self.weight)
            dual = (dual + step * slope) / (1 + step * slope.norm(dim=0))
        return (images - self.weight * divergence(dual)).clamp(0, 1)


def gradient(images: Tensor) -> Tensor:
    """Return forward differences down and to the right of images ``(…, H, W)``, ``(2, …, H, W)``; 0 at the ends."""
    return torch.stack([F.pad(images.diff(dim=-2), (0, 0, 0, 1)), F.pad(images.diff(dim=-1), (0, 1))])


def divergence(field: Tensor) -> Tensor:
    """Return the divergence of a field ``(2, …, H, W)``: minus what is adjoint to :func:`gradient`."""
    down, right = field[0][..., :-1, :], field[1][..., :-1]
    vertical = F.pad(down, (0, 0, 0, 1)) - F.pad(down, (0, 0, 1, 0))
    return vertical + F.pad(right, (0, 1)) - F.pad(right, (1, 0))


def check_positive(value: float, argument: str) -> None:
    """Raise a CatwalkError unless a number is above 0 and finite."""
    if not 0 < value < math.inf:
        raise CatwalkError(f"{argument} must be a number above 0, got {value!r}")
