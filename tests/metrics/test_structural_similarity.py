import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from catwalk.metrics import StructuralSimilarity
from catwalk.metrics.structural_similarity import structural_similarity


def pairs(count: int, height: int, width: int, noise: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height)
    originals = torch.randint(0, 256, (count, 3, height, width), generator=generator)
    changes = torch.randint(-noise, noise + 1, originals.shape, generator=generator)
    return originals.to(torch.uint8), (originals + changes).clamp(0, 255).to(torch.uint8)


def ssim_of_channel(x: NDArray, y: NDArray) -> float:
    """Equations 13 to 17 of the paper, window by window, of values in [0, 1]."""
    weights = np.array([[math.exp(-(i * i + j * j) / (2 * 1.5**2)) for j in range(-5, 6)] for i in range(-5, 6)])
    weights /= weights.sum()
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (image[top : top + 11, left : left + 11] for image in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            variance_a, variance_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + 0.01**2)
                * (2 * covariance + 0.03**2)
                / ((mean_a**2 + mean_b**2 + 0.01**2) * (variance_a + variance_b + 0.03**2))
            )
    return float(np.mean(values))


@pytest.mark.parametrize(("height", "width", "noise"), [(11, 11, 30), (13, 17, 1), (18, 12, 255)])
def test_equals_the_papers_equations_window_by_window(height: int, width: int, noise: int) -> None:
    originals, adversarial = pairs(2, height, width, noise)
    expected = [
        np.mean([ssim_of_channel(x / 255, y / 255) for x, y in zip(then.numpy(), now.numpy(), strict=True)])
        for then, now in zip(originals, adversarial, strict=True)
    ]
    assert structural_similarity(originals, adversarial).tolist() == pytest.approx(expected, rel=1e-12)


def test_equals_torchmetrics_where_windows_do_not_reach_beyond_the_image() -> None:
    originals, adversarial = pairs(3, 40, 25)
    _, everywhere = structural_similarity_index_measure(
        adversarial.double() / 255, originals.double() / 255, data_range=1.0, reduction="none", return_full_image=True
    )
    inside = everywhere[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
    torch.testing.assert_close(structural_similarity(originals, adversarial), inside, rtol=1e-12, atol=0)


def test_is_one_of_the_same_image_and_nothing_below_the_window() -> None:
    originals, _ = pairs(2, 16, 16)
    assert structural_similarity(originals, originals).tolist() == pytest.approx([1.0, 1.0], abs=1e-14)
    small, changed = pairs(2, 10, 30)
    assert structural_similarity(small, changed).isnan().all()


@pytest.mark.parametrize("split", [[7], [1, 6], [3, 3, 1]])
def test_mean_does_not_depend_on_how_the_images_are_split(split: list[int]) -> None:
    originals, adversarial = pairs(7, 16, 12)
    metric = StructuralSimilarity()
    for then, now in zip(originals.split(split), adversarial.split(split), strict=True):
        metric.update(then, now)
    expected = np.mean(
        [
            ssim_of_channel(x / 255, y / 255)
            for x, y in zip(originals.flatten(0, 1).numpy(), adversarial.flatten(0, 1).numpy(), strict=True)
        ]
    )
    assert metric.compute().dtype == torch.float64
    assert metric.compute().item() == pytest.approx(expected, rel=1e-12)
