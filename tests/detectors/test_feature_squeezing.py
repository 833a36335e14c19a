"""Feature squeezing, against SciPy, brute force and arithmetic by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from catwalk.detectors import FeatureSqueezing, Reference
from catwalk.errors import CatwalkError

IMAGES = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(0))


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
    medians = [[ndimage.median_filter(colour, 3, mode="reflect") for colour in image] for image in IMAGES.numpy()]
    for squeezed in (np.rint(IMAGES.numpy()), np.array(medians)):
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
