import math

import pytest
import torch
from torch import Tensor

from catwalk.metrics import PeakSignalToNoiseRatio
from catwalk.metrics.peak_signal_to_noise_ratio import peak_signal_to_noise_ratio

ORIGINALS = torch.full((3, 3, 2, 2), 100, dtype=torch.uint8)


def changed() -> Tensor:
    """Return images of which all 12 values differ by 1, none differs, and one differs by 30."""
    images = ORIGINALS.clone()
    images[0] += 1
    images[2, 1, 0, 1] -= 30
    return images


def test_by_hand() -> None:
    expected = [20 * math.log10(255), math.inf, 10 * math.log10(255**2 * 12 / 900)]
    assert peak_signal_to_noise_ratio(ORIGINALS, changed()).tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("split", [[3], [1, 2], [1, 1, 1]])
def test_mean_is_that_of_the_images_that_changed_however_they_are_split(split: list[int]) -> None:
    metric = PeakSignalToNoiseRatio()
    for then, now in zip(ORIGINALS.split(split), changed().split(split), strict=True):
        metric.update(then, now)
    expected = (20 * math.log10(255) + 10 * math.log10(255**2 * 12 / 900)) / 2
    assert metric.compute().item() == pytest.approx(expected, rel=1e-14)


def test_mean_is_nothing_where_nothing_changed() -> None:
    metric = PeakSignalToNoiseRatio()
    metric.update(ORIGINALS, ORIGINALS)
    assert metric.compute().isnan()
