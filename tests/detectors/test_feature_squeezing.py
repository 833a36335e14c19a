"""Feature squeezing, against SciPy, brute force and arithmetic by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from catwalk.detectors import FeatureSqueezing, Reference
from catwalk.detectors.feature_squeezing import fewer_bits, median_filter, non_local_means
from catwalk.errors import CatwalkError

IMAGES = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("side", [2, 3, 4, 5])
def test_the_median_is_that_of_scipy(side: int) -> None:
    expected = [[ndimage.median_filter(c, side, mode="reflect") for c in image] for image in IMAGES.numpy()]
    assert np.array_equal(median_filter(IMAGES, side).numpy(), np.array(expected))


@pytest.mark.parametrize("bits", [1, 3, 7])
def test_bits_round_to_levels_and_let_gradients_through(bits: int) -> None:
    images = IMAGES.clone().requires_grad_()
    squeezed = fewer_bits(images, bits)
    expected = np.rint(IMAGES.double().numpy() * (2**bits - 1)) / (2**bits - 1)
    assert np.abs(squeezed.detach().numpy() - expected).max() < 1e-6
    (gradient,) = torch.autograd.grad((3 * squeezed).sum(), images)
    assert torch.equal(gradient, torch.full_like(images, 3))


def test_non_local_means_by_brute_force() -> None:
    strength, window, patch = 40.0, 5, 3
    found = non_local_means(IMAGES, strength, window, patch)
    reach, half = window // 2, patch // 2
    for image, outcome in zip(IMAGES.double().numpy(), found.numpy(), strict=True):
        border = reach + half
        wide = np.pad(image, ((0, 0), (border, border), (border, border)), mode="symmetric")

        def patch_at(row: int, column: int, wide=wide) -> np.ndarray:
            return wide[:, row - half : row + half + 1, column - half : column + half + 1]

        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                own = patch_at(row + border, column + border)
                total, weights = np.zeros(3), 0.0
                for down in range(-reach, reach + 1):
                    for right in range(-reach, reach + 1):
                        other = patch_at(row + border + down, column + border + right)
                        weight = np.exp(-np.mean((own - other) ** 2) / (strength / 255) ** 2)
                        total, weights = total + weight * other[:, half, half], weights + weight
                assert np.abs(outcome[:, row, column] - total / weights).max() < 1e-5


def test_gradients_of_non_local_means_are_those_of_differences() -> None:
    images = IMAGES.double().requires_grad_()
    (gradient,) = torch.autograd.grad(non_local_means(images, 60.0, 5, 3).square().sum(), images)
    for place in ((0, 0, 0, 0), (0, 2, 3, 4), (1, 1, 6, 8)):
        moved = [IMAGES.double().clone() for _ in range(2)]
        moved[0][place] += 1e-5
        moved[1][place] -= 1e-5
        values = [non_local_means(each, 60.0, 5, 3).square().sum() for each in moved]
        assert float(gradient[place]) == pytest.approx(float(values[0] - values[1]) / 2e-5, rel=1e-4)


class Sums(torch.nn.Module):
    """Logits that are sums over an image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([images[:, 0].sum((1, 2)), images[:, 1].sum((1, 2))], dim=1)


def test_the_score_is_the_largest_distance_of_the_probabilities() -> None:
    detector = FeatureSqueezing(bits=1, median=3, smoothing=None)
    nothing = Reference(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64))
    network = Sums()
    score = detector.fitted(nothing)(network, IMAGES, network(IMAGES), torch.zeros(2, dtype=torch.int64))
    distances = []
    for squeezed in (np.rint(IMAGES.numpy()), median_filter(IMAGES, 3).numpy()):
        sums = [np.exp(images[:, :2].astype(float).sum((2, 3))) for images in (IMAGES.numpy(), squeezed)]
        before, after = (each / each.sum(1, keepdims=True) for each in sums)
        distances.append(np.abs(before - after).sum(1))
    assert score.numpy() == pytest.approx(np.max(distances, axis=0), abs=1e-4)
    assert detector.passes == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 0}, "bits: must be in 1..7"),
        ({"median": 1}, "median: must be a side"),
        ({"smoothing": 0.0}, "smoothing: must be a number"),
        ({"window": 4}, "window: must be an odd number"),
        ({"patch": 0}, "patch: must be an odd number"),
        ({"bits": None, "median": None, "smoothing": None}, "leave one squeezer"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(CatwalkError, match=message):
        FeatureSqueezing(**arguments)
