"""PSNR: how small the error of an image is beside the largest possible."""

from torch import Tensor

from catwalk.metrics.mean import Float64Mean
from catwalk.metrics.pixels import mean_squared_error


def peak_signal_to_noise_ratio(originals: Tensor, adversarial: Tensor) -> Tensor:
    """Return ``-10 log10(MSE)`` of each image, where the values' range is 1.

    Args:
        originals: uint8 ``(N, 3, H, W)``.
        adversarial: uint8 ``(N, 3, H, W)``.

    Returns:
        Decibels, float64 ``(N,)``, at least 0; infinite where the two are identical.

    Raises:
        ValueError: If they are no 8-bit images of one shape.

    Example:
        >>> import torch
        >>> from catwalk.metrics.peak_signal_to_noise_ratio import peak_signal_to_noise_ratio
        >>> black = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> peak_signal_to_noise_ratio(black, black + torch.tensor([255, 0], dtype=torch.uint8).view(2, 1, 1, 1))
        tensor([-0., inf], dtype=torch.float64)
    """
    return -10 * mean_squared_error(originals, adversarial).log10()


class PeakSignalToNoiseRatio(Float64Mean):
    """Mean PSNR in decibels of the images that changed; NaN if none did.

    An image that an attack left as it was has an infinite one, and would make every mean infinite.

    Args:
        **kwargs: Passed to :class:`torchmetrics.Metric`.
    """

    higher_is_better = True

    def update(self, originals: Tensor, adversarial: Tensor) -> None:
        """Add a batch of images; see :func:`peak_signal_to_noise_ratio` for what is expected of the arguments."""
        values = peak_signal_to_noise_ratio(originals, adversarial)
        self.add(values[values.isfinite()])
