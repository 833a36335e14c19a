"""Distances from neighbours and declared categories, against NumPy and SciPy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from catwalk.detectors import DeclaredCategory, NeighbourDistance, Reference
from catwalk.errors import CatwalkError

RANDOM = torch.Generator().manual_seed(0)
FEATURES = torch.randn(60, 5, generator=RANDOM) @ torch.randn(5, 5, generator=RANDOM)
CATEGORIES = torch.arange(60) % 3
REFERENCE = Reference(FEATURES, CATEGORIES)


class Flat(torch.nn.Module):
    """Features that are an image's first values; the category of the largest of them is seen."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :5]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.features(images)[:, :4]


IMAGES = torch.rand(6, 3, 4, 4, generator=RANDOM)
DECLARED = torch.tensor([0, 1, 2, 0, 1, 3])  # of the last category there are no items


def wanted(category: str) -> np.ndarray:
    return DECLARED.numpy() if category == "declared" else Flat()(IMAGES).numpy().argmax(1)


@pytest.mark.parametrize("category", ["declared", "predicted"])
@pytest.mark.parametrize("neighbours", [1, 5, 30])
def test_the_mean_distance_from_the_nearest(category: str, neighbours: int) -> None:
    score = NeighbourDistance("knn", category, neighbours).fitted(REFERENCE)
    found = score(Flat(), IMAGES, Flat()(IMAGES), DECLARED)
    for image, own, value in zip(Flat().features(IMAGES).numpy(), wanted(category), found.numpy(), strict=True):
        among = FEATURES[own == CATEGORIES] if own < 3 else FEATURES
        distances = np.sort(cdist(image[None], among.numpy())[0])[:neighbours]
        assert value == pytest.approx(distances.mean(), rel=1e-5)


@pytest.mark.parametrize("category", ["declared", "predicted"])
@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_the_distance_of_mahalanobis(category: str, shrinkage: float) -> None:
    score = NeighbourDistance("mahalanobis", category, shrinkage=shrinkage).fitted(REFERENCE)
    found = score(Flat(), IMAGES, Flat()(IMAGES), DECLARED)
    values, labels = FEATURES.double().numpy(), CATEGORIES.numpy()
    means = [values[labels == each].mean(0) for each in range(3)] + [values.mean(0)]
    pooled = sum(np.cov(values[labels == each].T, bias=True) * (labels == each).sum() for each in range(3)) / 60
    pooled = (1 - shrinkage) * pooled + shrinkage * np.trace(pooled) / 5 * np.eye(5)
    for image, own, value in zip(Flat().features(IMAGES).numpy(), wanted(category), found.numpy(), strict=True):
        difference = image - means[min(own, 3)]
        assert value == pytest.approx(difference @ np.linalg.inv(pooled) @ difference, rel=1e-4)


@pytest.mark.parametrize("detector", [NeighbourDistance(), NeighbourDistance("mahalanobis"), DeclaredCategory()])
def test_gradients_are_those_of_differences(detector) -> None:
    score, network = detector.fitted(REFERENCE), Flat()
    images = IMAGES.clone().requires_grad_()
    declared = DECLARED.clamp(max=2)
    (gradient,) = torch.autograd.grad(score(network, images, network(images), declared).sum(), images)
    step, place = 1e-2, (slice(None), 0, 0, 1)
    ahead, behind = IMAGES.clone(), IMAGES.clone()
    ahead[place] += step
    behind[place] -= step
    moved = [score(network, each, network(each), declared) for each in (ahead, behind)]
    assert gradient[place].numpy() == pytest.approx(((moved[0] - moved[1]) / (2 * step)).numpy(), rel=2e-2, abs=2e-3)


def test_the_declared_category_is_surprising_where_it_is_improbable() -> None:
    score = DeclaredCategory().fitted(REFERENCE)
    found = score(Flat(), IMAGES, Flat()(IMAGES), DECLARED)
    exponents = np.exp(Flat()(IMAGES).double().numpy())
    expected = -np.log(exponents[np.arange(6), DECLARED] / exponents.sum(1))
    assert found.numpy() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("detector", [NeighbourDistance(), DeclaredCategory()])
def test_a_category_that_the_network_does_not_tell(detector) -> None:
    score = detector.fitted(REFERENCE)
    with pytest.raises(CatwalkError, match="none of the network's categories"):
        score(Flat(), IMAGES, Flat()(IMAGES), DECLARED - 1)


def test_a_covariance_that_cannot_be_inverted() -> None:
    few = Reference(FEATURES[:4], CATEGORIES[:4])
    with pytest.raises(CatwalkError, match="a larger shrinkage than 0"):
        NeighbourDistance("mahalanobis", shrinkage=0.0).fitted(few)
    NeighbourDistance("mahalanobis").fitted(few)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"measure": "cosine"}, "measure: must be one of knn, mahalanobis"),
        ({"category": "own"}, "category: must be one of declared, predicted"),
        ({"neighbours": 0}, "neighbours: must be at least 1"),
        ({"shrinkage": 1.5}, "shrinkage: must be a share"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(CatwalkError, match=message):
        NeighbourDistance(**arguments)


def test_nothing_to_compare_with() -> None:
    with pytest.raises(CatwalkError, match="needs clean items"):
        NeighbourDistance().fitted(Reference(FEATURES, torch.full_like(CATEGORIES, -1)))
