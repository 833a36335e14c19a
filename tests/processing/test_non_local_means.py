"""Non-local means against brute force and differences."""

import numpy as np
import pytest
import torch

from catwalk.errors import CatwalkError
from catwalk.processing import NonLocalMeans

IMAGES = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(0))


def test_non_local_means_by_brute_force() -> None:
    strength, window, patch = 40.0, 5, 3
    found = NonLocalMeans(strength, window, patch)(IMAGES)
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
    (gradient,) = torch.autograd.grad(NonLocalMeans(60.0, 5, 3)(images).square().sum(), images)
    for place in ((0, 0, 0, 0), (0, 2, 3, 4), (1, 1, 6, 8)):
        moved = [IMAGES.double().clone() for _ in range(2)]
        moved[0][place] += 1e-5
        moved[1][place] -= 1e-5
        values = [NonLocalMeans(60.0, 5, 3)(each).square().sum() for each in moved]
        assert float(gradient[place]) == pytest.approx(float(values[0] - values[1]) / 2e-5, rel=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NonLocalMeans(strength=0), "strength must be a number above 0"),
        (lambda: NonLocalMeans(window=4), "window: must be an odd number"),
        (lambda: NonLocalMeans(patch=0), "patch: must be an odd number"),
        (lambda: NonLocalMeans(window=15)(IMAGES), "reaches 8 pixels far, and there are images of 9×7"),
    ],
)
def test_arguments_that_make_no_sense(make, message) -> None:
    with pytest.raises(CatwalkError, match=message):
        make()
