"""Image files of a shop: compression and conversion, by the libraries that shops use."""

import io
from typing import Literal

from PIL import Image, features
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.limits import check_choice, check_count
from catwalk.processing.operation import FileOperation
from catwalk.processing.smooth_jpeg import smooth_jpeg

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]
"""How coarse a JPEG's colours are: full, half as wide, or half as wide and half as high as the brightness."""

JPEGGradient = Literal["differentiable", "identity"]
"""Whose gradient stands for that of a JPEG file."""


class JPEG(FileOperation):
    """Saves an image as a JPEG file and reads it back (libjpeg, by Pillow).

    As a defence: Dziugaite, Ghahramani and Roy, "A study of the effect of JPG compression on adversarial images", 2016;
    Guo et al., "Countering Adversarial Images using Input Transformations", ICLR 2018, with quality 75.

    Args:
        quality: Pillow's, 1 (smallest file) to 100; shops use 70 to 90.
        subsampling: Of the colours; ``4:2:0`` is the default of Pillow and of most software.
        gradient: For attacks: that of a ``differentiable`` approximation of the codec, which knows what its tables
            suppress (:mod:`catwalk.processing.smooth_jpeg`), or of the ``identity``, after which fewer images succeed.

    Raises:
        CatwalkError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from catwalk.processing import JPEG
        >>> images = torch.rand(2, 3, 16, 16)
        >>> JPEG(quality=75)(images).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self, quality: int = 75, subsampling: Subsampling = "4:2:0", gradient: JPEGGradient = "differentiable"
    ) -> None:
        super().__init__()
        _check_quality(quality)
        check_choice(subsampling, "subsampling", Subsampling)
        check_choice(gradient, "gradient", JPEGGradient)
        self.quality = quality
        self.subsampling = subsampling
        self.gradient = gradient

    def process_file(self, image: Image.Image) -> Image.Image:
        """Save and read back."""
        return _read_back(image, "JPEG", quality=self.quality, subsampling=self.subsampling)

    def approximate(self, images: Tensor) -> Tensor:
        """Return what the gradient is taken of."""
        if self.gradient == "identity":
            return images
        return smooth_jpeg(images, self.quality, self.subsampling)


class WebP(FileOperation):
    """Saves an image as a lossy WebP file and reads it back (libwebp, by Pillow); the gradient is the identity's.

    Args:
        quality: Pillow's, 1 (smallest file) to 100; 80 is its default.

    Raises:
        CatwalkError: If the quality is out of its range, or this Pillow cannot write WebP.
    """

    def __init__(self, quality: int = 80) -> None:
        super().__init__()
        _check_quality(quality)
        if not features.check("webp"):
            raise CatwalkError("WebP: this Pillow was built without it; install one of PyPI (pip install pillow)")
        self.quality = quality

    def process_file(self, image: Image.Image) -> Image.Image:
        """Save and read back."""
        return _read_back(image, "WEBP", quality=self.quality)


Colours = Literal["grey", "ycbcr", "palette"]
"""What images can be converted to."""


class ColourConversion(FileOperation):
    """Converts an image to other colours and back to RGB, 8 bits a channel (Pillow).

    Args:
        colours: ``grey`` keeps the brightness alone (ITU-R 601); ``ycbcr`` goes through JPEG's own colours without
            compression, and rounds; ``palette`` keeps the image's own 256 colours, as GIF and PNG-8 do, dithered where
            that is needed. The gradient is that of the brightness for ``grey``, and the identity's otherwise.

    Raises:
        CatwalkError: If there are no such colours.
    """

    def __init__(self, colours: Colours = "ycbcr") -> None:
        super().__init__()
        check_choice(colours, "colours", Colours)
        self.colours = colours

    def process_file(self, image: Image.Image) -> Image.Image:
        """Convert there and back."""
        if self.colours == "palette":
            return image.convert("P", palette=Image.Palette.ADAPTIVE).convert("RGB")
        return image.convert("L" if self.colours == "grey" else "YCbCr").convert("RGB")

    def approximate(self, images: Tensor) -> Tensor:
        """Return what the gradient is taken of."""
        if self.colours != "grey":
            return images
        weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        return (images * weights).sum(dim=1, keepdim=True).expand_as(images)


def _check_quality(quality: int) -> None:
    check_count(quality, "quality")
    if quality > 100:
        raise CatwalkError(f"quality must be at most 100, got {quality}")


def _read_back(image: Image.Image, kind: str, **settings: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    with Image.open(file) as opened:
        return opened.convert("RGB")
