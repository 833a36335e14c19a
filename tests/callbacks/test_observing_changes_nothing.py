"""Whoever looks on leaves everything as it would be without: weights to the last bit, modes, features, random numbers.

What is trained draws from all random generators, so that a single number drawn by a callback would show.
"""

from pathlib import Path

import attacks
import observers
import pytest
import torch
from safetensors.torch import load_file

import callbacks
from callbacks import InjectPoisonedImages
from catwalk.attacks import PGD
from datamodules import InteractionTriplets, ProductImages

pytestmark = pytest.mark.filterwarnings("ignore:images whose shorter side")


def check(found: tuple, expected: tuple) -> None:
    """Compare runs with and without a callback, after each command and point by point, and the metrics of both."""
    for observed, alone in zip(found[0], expected[0], strict=True):
        for point in alone:
            assert observed[point] == alone[point], point
    for observed, alone in zip(found[1], expected[1], strict=True):
        assert {name: observed[name] for name in alone} == alone


def test_every_callback_that_looks_on_is_among_them() -> None:
    assert {*observers.OF_RECOMMENDERS, *observers.OF_CLASSIFIERS} == {*callbacks.__all__} - {"InjectPoisonedImages"}


@pytest.fixture(scope="module")
def of_recommender(shop, features, make_trainer) -> tuple:
    """Return a run that nobody observes."""
    data = InteractionTriplets(shop, features, batch_size=64, validation=True)
    return observers.run(make_trainer, observers.drawing_recommender, data)


@pytest.fixture(scope="module")
def of_classifier(shop, make_trainer) -> tuple:
    """Return a run that nobody observes."""
    return observers.run(make_trainer, observers.drawing_classifier, ProductImages(shop, batch_size=32))


@pytest.mark.parametrize("name", observers.OF_RECOMMENDERS)
def test_of_a_recommender(of_recommender, shop, features, attacked, trunk, make_trainer, tmp_path, name: str) -> None:
    callback = observers.OF_RECOMMENDERS[name](attacked(tmp_path), trunk)
    data = InteractionTriplets(shop, features, batch_size=64, validation=True)
    check(observers.run(make_trainer, observers.drawing_recommender, data, callback), of_recommender)


@pytest.mark.parametrize("name", observers.OF_CLASSIFIERS)
def test_of_a_classifier(of_classifier, shop, make_trainer, tmp_path, name: str) -> None:
    callback, data = observers.OF_CLASSIFIERS[name](tmp_path), ProductImages(shop, batch_size=32)
    check(observers.run(make_trainer, observers.drawing_classifier, data, callback), of_classifier)


def test_all_of_them_around_an_attack(shop, features, trained, trunk, make_trainer, tmp_path: Path) -> None:
    """Clean and poisoned features are both looked at, by callbacks before and behind the one that injects."""
    found = []
    for observed in (True, False):
        folder = tmp_path / str(observed)
        inject = InjectPoisonedImages(
            trained.checkpoint, PGD(epsilon=32.0), attacks.SOURCE, folder, attacks.TARGET, from_epoch=1
        )
        watching = [make(folder, trunk) for make in observers.OF_RECOMMENDERS.values()] if observed else []
        data = InteractionTriplets(shop, features, batch_size=64, validation=True)
        around = [*watching[::2], inject, *watching[1::2]]
        found.append(observers.run(make_trainer, observers.drawing_recommender, data, *around))
        poisoned = load_file(folder / "features.safetensors")["features"]
        assert [after["features"] for after in found[-1][0]] == [observers.plain_bytes(poisoned)] * 3
        assert torch.equal(data.feature_table.features, trained.table.features)
        assert (folder / "gallery.png").exists() == observed
    check(*found)
