"""Every operation, and images to try them on."""

import pytest
import torch
import torch.nn.functional as F

from catwalk.processing import (
    JPEG,
    BitDepth,
    ColourConversion,
    Denoiser,
    GaussianNoise,
    GaussianSmoothing,
    Median,
    NonLocalMeans,
    RandomResizePad,
    Resize,
    Thumbnail,
    TotalVariation,
    WebP,
)

OPERATIONS = {
    "jpeg": lambda: JPEG(quality=60, gradient="identity"),
    "jpeg with its own gradient": lambda: JPEG(quality=60),
    "webp": lambda: WebP(quality=60),
    "grey": lambda: ColourConversion("grey"),
    "ycbcr": lambda: ColourConversion("ycbcr"),
    "palette": lambda: ColourConversion("palette"),
    "resize": lambda: Resize(scale=0.5),
    "resize to a size": lambda: Resize(size=(9, 14), resampling="bilinear"),
    "thumbnail": lambda: Thumbnail(size=11),
    "random resize and pad": lambda: RandomResizePad(smallest=0.6),
    "bit depth": lambda: BitDepth(bits=3),
    "median": lambda: Median(size=3),
    "even median": lambda: Median(size=2),
    "non-local means": lambda: NonLocalMeans(strength=20.0, window=5),
    "gaussian smoothing": lambda: GaussianSmoothing(sigma=0.8),
    "total variation": lambda: TotalVariation(weight=0.1, iterations=20),
    "gaussian noise": lambda: GaussianNoise(sigma=20),
    "denoiser": lambda: denoiser(),
}
every_operation = pytest.mark.parametrize("make", OPERATIONS.values(), ids=OPERATIONS.keys())


def denoiser():
    """A denoiser with weights that change images."""
    made, random = Denoiser(width=4, depth=2), torch.Generator().manual_seed(3)
    for parameter in made.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.2)
    return made


def make_images(number=3, height=20, width=17, seed=0):
    """Smooth 8-bit images in colour, with edges, as floats."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(number, 3, 6, 6, generator=random)
    images = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    images[:, :, : height // 3, : width // 2] = torch.rand(number, 3, 1, 1, generator=random)
    return (images * 255).round() / 255
