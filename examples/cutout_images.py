"""A data module of your own: product images of which a square is hidden in training."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from catwalk.errors import CatwalkError
from datamodules import ProductImages

GREY = 0.5


def cutout(images: Tensor, side: int, random: torch.Generator) -> Tensor:
    """Make a square of each image grey; where it goes over the border, less of it is seen.

    DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", arXiv:1708.04552, 2017.

    Args:
        images: float32 ``(N, 3, H, W)`` in [0, 1]; not changed.
        side: Side of the square in pixels, at least 1; with an even one the centre is the pixel right of and below its
            middle.
        random: Source of the squares' centres, uniform over the image's pixels; on the CPU.

    Returns:
        float32 ``(N, 3, H, W)``.
    """
    count, _, height, width = images.shape

    def is_hidden(length: int) -> Tensor:
        centres = torch.randint(length, (count, 1), generator=random)
        distances = torch.arange(length) - centres + side // 2
        return ((distances >= 0) & (distances < side)).to(images.device)

    rows, columns = is_hidden(height), is_hidden(width)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], GREY)


class CutoutImages(ProductImages):
    """Product images of which every training image has a grey square at a random place.

    Args:
        dataset: As in :class:`~datamodules.ProductImages`.
        side: Side of the square in pixels, at least 1.
        **settings: As in :class:`~datamodules.ProductImages`.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    def __init__(self, dataset: Path, side: int = 8, **settings: Any) -> None:
        if side < 1:
            raise CatwalkError(f"side: must be at least 1, got {side}; it is a number of pixels")
        super().__init__(dataset, **settings)
        self.side = side

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turn 8-bit batches into images in [0, 1] and categories, on the device, with squares while training."""
        prepared = super().on_after_batch_transfer(batch, dataloader_idx)
        if not isinstance(batch, dict) or "augmentation" not in batch:
            return prepared
        images, categories = prepared
        # Another stream than that of the mirrored and moved images; of the batch alone, so that a killed run goes on.
        random = torch.Generator().manual_seed(batch["augmentation"] ^ 1)
        return cutout(images, self.side, random), categories
