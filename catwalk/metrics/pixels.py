"""Distances between 8-bit images, pixel by pixel."""

import torch
from torch import Tensor


def mean_squared_error(originals: Tensor, adversarial: Tensor) -> Tensor:
    """Return the mean squared error of each image, of values in [0, 1].

    Args:
        originals: uint8 ``(N, 3, H, W)``.
        adversarial: uint8 ``(N, 3, H, W)``.

    Returns:
        float64 ``(N,)`` in [0, 1].

    Raises:
        ValueError: If they are no 8-bit images of one shape.

    Example:
        >>> import torch
        >>> from catwalk.metrics.pixels import mean_squared_error
        >>> black = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
        >>> mean_squared_error(black, torch.full_like(black, 51))  # a fifth of 255
        tensor([0.0400], dtype=torch.float64)
    """
    check_levels(originals, adversarial)
    differences = (adversarial.int() - originals.int()).flatten(1)
    squares = differences.square().sum(dim=1, dtype=torch.int64)
    return squares.double() / (255**2 * differences.shape[1])


def changed_pixels(originals: Tensor, adversarial: Tensor) -> Tensor:
    """Return how many pixels of each image are no longer what they were: any of their three channels.

    Args:
        originals: uint8 ``(N, 3, H, W)``.
        adversarial: uint8 ``(N, 3, H, W)``.

    Returns:
        int64 ``(N,)`` in 0..H·W.

    Raises:
        ValueError: If they are no 8-bit images of one shape.
    """
    check_levels(originals, adversarial)
    return (originals != adversarial).any(dim=1).sum(dim=(1, 2))


def check_levels(originals: Tensor, adversarial: Tensor) -> None:
    """Raise a ValueError unless both are uint8 ``(N, 3, H, W)`` of one shape."""
    for name, images in (("originals", originals), ("adversarial", adversarial)):
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"{name}: must be uint8 (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")
    if originals.shape != adversarial.shape:
        raise ValueError(
            f"originals and adversarial: must have one shape, got {tuple(originals.shape)} and "
            f"{tuple(adversarial.shape)}"
        )
