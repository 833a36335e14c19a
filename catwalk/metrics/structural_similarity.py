"""SSIM: how much of an image's structure is left."""

import torch
from torch import Tensor

from catwalk.metrics.mean import Float64Mean
from catwalk.metrics.pixels import check_levels

WINDOW, SIGMA = 11, 1.5
"""Side of the Gaussian window and its standard deviation, in pixels."""

LUMINANCE, CONTRAST = (0.01 * 255) ** 2, (0.03 * 255) ** 2
"""Constants C1 and C2 of the paper, which keep the two factors apart from 0/0."""


def structural_similarity(originals: Tensor, adversarial: Tensor) -> Tensor:
    """Return the mean structural similarity (MSSIM) of each image.

    As in the paper, windows that reach beyond the image are left out, and variances are those of the window itself
    (no correction for its size). Of colour images the three channels are averaged.

    Reference: Wang, Bovik, Sheikh and Simoncelli, *Image quality assessment: from error visibility to structural
    similarity*, IEEE Transactions on Image Processing 13(4), 2004, equations 13 to 17.

    Args:
        originals: uint8 ``(N, 3, H, W)``.
        adversarial: uint8 ``(N, 3, H, W)``.

    Returns:
        float64 ``(N,)`` in [-1, 1], 1 where the two are identical; NaN where a side is below 11 pixels, for no window
        fits in.

    Raises:
        ValueError: If they are no 8-bit images of one shape.
    """
    check_levels(originals, adversarial)
    height, width = originals.shape[-2:]
    if min(height, width) < WINDOW:
        return torch.full((len(originals),), torch.nan, dtype=torch.float64, device=originals.device)
    then, now = originals.double(), adversarial.double()
    # float64: the variances are small differences of large numbers.
    means = _windows(height, then.device) @ torch.stack([then, now, then * then, now * now, then * now])
    of_then, of_now, then_squared, now_squared, product = means @ _windows(width, then.device).T
    covariance = product - of_then * of_now
    variances = then_squared - of_then.square() + now_squared - of_now.square()
    luminance = (2 * of_then * of_now + LUMINANCE) / (of_then.square() + of_now.square() + LUMINANCE)
    return (luminance * (2 * covariance + CONTRAST) / (variances + CONTRAST)).mean(dim=(1, 2, 3))


def _windows(size: int, device: torch.device) -> Tensor:
    """Return the Gaussian weights of every place of the window along a side, float64 ``(size - 10, size)``."""
    positions = torch.arange(size, dtype=torch.float64, device=device)
    distances = positions - positions[WINDOW // 2 : size - WINDOW // 2, None]
    weights = torch.exp(-distances.square() / (2 * SIGMA**2)) * (distances.abs() <= WINDOW // 2)
    return weights / weights.sum(dim=1, keepdim=True)


class StructuralSimilarity(Float64Mean):
    """Mean structural similarity of images and what became of them; at most 1.

    Args:
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> from catwalk.metrics import StructuralSimilarity
        >>> images = torch.arange(768, dtype=torch.uint8).view(1, 3, 16, 16)
        >>> metric = StructuralSimilarity()
        >>> metric.update(images, images)
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = True

    def update(self, originals: Tensor, adversarial: Tensor) -> None:
        """Add a batch of images; see :func:`structural_similarity` for what is expected of the arguments."""
        self.add(structural_similarity(originals, adversarial))
