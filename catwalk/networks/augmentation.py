"""Random changes of training images, each image its own, on whatever device they lie."""

import torch
from torch import Tensor


def random_flip(images: Tensor, random: torch.Generator) -> Tensor:
    """Mirror each image ``(N, C, H, W)`` left to right with probability 1/2.

    Args:
        images: Any dtype.
        random: A generator on the CPU: the choice is then the same on every device.
    """
    flipped = torch.rand(len(images), generator=random).lt_(0.5).bool().to(images.device)
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)


def random_shift(images: Tensor, pixels: int, random: torch.Generator) -> Tensor:
    """Move each image ``(N, C, H, W)`` by up to ``pixels`` up or down and left or right, repeating its border.

    Args:
        images: Any dtype.
        pixels: Largest distance, at least 1.
        random: A generator on the CPU: the choice is then the same on every device.
    """
    count, _, height, width = images.shape
    shifts = torch.randint(-pixels, pixels + 1, (2, count, 1), generator=random).to(images.device)
    rows = (torch.arange(height, device=images.device) + shifts[0]).clamp_(0, height - 1)
    columns = (torch.arange(width, device=images.device) + shifts[1]).clamp_(0, width - 1)
    moved = images.gather(2, rows[:, None, :, None].expand(images.shape))
    return moved.gather(3, columns[:, None, None, :].expand(images.shape))
