"""Images of another size: a shop's resizing and thumbnails, and random resizing as a defence."""

import abc
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.limits import check_choice, check_count, check_seed
from catwalk.processing.operation import FileOperation, Operation, drawn
from catwalk.processing.squeezing import check_positive

Resampling = Literal["bilinear", "bicubic"]
"""Pillow's filters that can be differentiated here."""


class _Resampling(FileOperation):
    """Base: to another size by Pillow, and back, so that the network sees the size that it knows."""

    resampling: Resampling
    back: bool

    def process_file(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        kind = Image.Resampling[self.resampling.upper()]
        rows, columns = self.new_size(height, width)
        other = image.resize((columns, rows), kind)
        return other.resize(image.size, kind) if self.back else other

    def approximate(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        sizes = [self.new_size(height, width), *([(height, width)] if self.back else [])]
        for size in sizes:
            # Pillow's own filters, but for the rounding to 8 bits after each direction.
            images = F.interpolate(images, size, mode=self.resampling, antialias=True)
        return images

    @abc.abstractmethod
    def new_size(self, height: int, width: int) -> tuple[int, int]:
        """Return what becomes of ``(height, width)``."""


class Resize(_Resampling):
    """Brings every image to another size by Pillow, and, unless told otherwise, back to its own.

    A network knows objects of the size that it was trained on, and some networks take no other. So the image is brought
    back to its own size, by the same filter: what is lost is lost. The gradient is that of the same filters without
    rounding.

    Args:
        size: ``(height, width)`` in pixels; give this or ``scale``.
        scale: Factor of both sides, above 0, such as 0.5; a side has at least one pixel.
        resampling: Pillow's filter.
        back: Whether to go back to the image's own size. Without it the network sees the new size, and must take it.

    Raises:
        CatwalkError: If neither or both of ``size`` and ``scale`` are given, or one is out of its range.
    """

    def __init__(
        self,
        size: Sequence[int] | None = None,
        scale: float | None = None,
        resampling: Resampling = "bicubic",
        back: bool = True,
    ) -> None:
        super().__init__()
        if (size is None) == (scale is None):
            raise CatwalkError(f"Resize: give one of size and scale, got size {size} and scale {scale}")
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise CatwalkError(f"size: must be height and width, at least 1 each, got {list(size)}")
        if scale is not None:
            check_positive(scale, "scale")
        check_choice(resampling, "resampling", Resampling)
        self.size = None if size is None else list(size)
        self.scale = scale
        self.resampling = resampling
        self.back = back

    def new_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size that an image of a size is brought to."""
        if self.size is not None:
            return self.size[0], self.size[1]
        assert self.scale is not None
        return max(1, round(height * self.scale)), max(1, round(width * self.scale))


class Thumbnail(_Resampling):
    """Shrinks images whose longer side is above a limit until it is that long, keeping their shape, by Pillow.

    Smaller images stay as they are. As with :class:`Resize`, images are brought back to their own size.

    Args:
        size: Longest side in pixels, at least 1.
        resampling: Pillow's filter.
        back: Whether to go back to the image's own size.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    def __init__(self, size: int = 128, resampling: Resampling = "bicubic", back: bool = True) -> None:
        super().__init__()
        check_count(size, "size")
        check_choice(resampling, "resampling", Resampling)
        self.size = size
        self.resampling = resampling
        self.back = back

    def new_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size that an image of a size is brought to."""
        factor = min(1.0, self.size / max(height, width))
        return max(1, round(height * factor)), max(1, round(width * factor))


class RandomResizePad(Operation):
    """Shrinks every image by a random factor and puts it at a random place of a black image of its own size.

    Xie et al., "Mitigating Adversarial Effects Through Randomization", ICLR 2018. They enlarge images of 299 pixels to
    331; here the network sees the size that it knows. Both sides shrink alike, to whole pixels, bilinearly, without
    smoothing first. The gradient is exact, for the draw at hand.

    Args:
        smallest: Smallest factor, above 0 and below 1.
        seed: Of the draws.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    is_random = True

    def __init__(self, smallest: float = 0.8, seed: int = 0) -> None:
        super().__init__()
        if not 0 < smallest < 1:
            raise CatwalkError(f"smallest must be a factor above 0 and below 1, got {smallest!r}")
        check_seed(seed)
        self.smallest = smallest
        self.seed = seed

    def layout(self, images: Tensor, draw: int = 0) -> Tensor:
        """Return where each image ``(N, 3, H, W)`` goes, int64 ``(N, 4)``: height, width, first row, first column."""
        height, width = images.shape[2:]
        numbers = drawn(self.seed, draw, images, (3,))
        factors = self.smallest + (1 - self.smallest) * numbers[:, 0]
        sides = [(length * factors).round().clamp(1, length) for length in (height, width)]
        # A draw is below 1, so that every place from the first to the last is as probable.
        places = [
            (numbers[:, 1 + axis] * (length - side + 1)).floor()
            for axis, (length, side) in enumerate(zip((height, width), sides, strict=True))
        ]
        return torch.stack([*sides, *places], dim=1).long()

    def forward(self, images: Tensor, draw: int = 0) -> Tensor:
        """Shrink and place."""
        height, width = images.shape[2:]
        parts = []
        for image, (rows, columns, top, left) in zip(images, self.layout(images, draw).tolist(), strict=True):
            small = F.interpolate(image[None], (rows, columns), mode="bilinear", align_corners=False)
            parts.append(F.pad(small, (left, width - columns - left, top, height - rows - top)))
        return torch.cat(parts) if parts else images
