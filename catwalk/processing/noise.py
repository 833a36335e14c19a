"""Random noise in front of a network."""

import torch
from torch import Tensor

from catwalk.limits import check_seed
from catwalk.processing.operation import Operation, drawn
from catwalk.processing.squeezing import check_positive


class GaussianNoise(Operation):
    """Adds normal noise to every value and clips to [0, 1]: the noise of randomised smoothing.

    Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, take the
    category that most of many draws see, and a network that was trained with the noise; theirs is not clipped. Here a
    network sees one draw unless it averages several, and no certificate is given. The gradient is exact.

    Args:
        sigma: Standard deviation in grey levels, above 0.
        seed: Of the draws.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    is_random = True

    def __init__(self, sigma: float = 16.0, seed: int = 0) -> None:
        super().__init__()
        check_positive(sigma, "sigma")
        check_seed(seed)
        self.sigma = sigma
        self.seed = seed

    def forward(self, images: Tensor, draw: int = 0) -> Tensor:
        """Add noise."""
        numbers = drawn(self.seed, draw, images, tuple(images.shape[1:]))
        # The normal distribution's quantiles at the middles of the draws' 2²⁴ intervals, where they are finite.
        normal = 2**0.5 * torch.erfinv(2 * numbers - (1 - 2.0**-24))
        return (images + (self.sigma / 255 * normal).to(images)).clamp(0, 1)
