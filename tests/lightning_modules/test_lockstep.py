"""Trainings in lockstep: each ends with the bits that it has alone, and an error is one training's own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, seed_everything

from catwalk.networks.features import FeatureTable
from catwalk.networks.prediction import Predictions
from catwalk.recommenders.stacked_step import StackedStep
from catwalk.shop.catalogue import Catalogue
from datamodules import InteractionTriplets
from lightning_modules import AMR, BPRMF, VBPR
from lightning_modules.lockstep import Lockstep, Partner

SIZES = {"factors": 4, "visual_factors": 4, "top_k": [5]}


@pytest.fixture(scope="module")
def folders(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return features of the catalogue, and others of which a few rows are attacked."""
    catalogue, found = Catalogue.read(shop), []
    values = torch.rand(len(catalogue), 12, generator=torch.Generator().manual_seed(0))
    for number in range(3):
        own = values.clone()
        own[:number] *= 0.5
        predictions = Predictions(own, torch.from_numpy(catalogue.categories), torch.ones(len(catalogue)))
        table = FeatureTable.from_predictions(predictions, catalogue.category_names, catalogue.fingerprint, "noise")
        found.append(tmp_path_factory.mktemp("features"))
        table.write(found[-1], catalogue)
    return found


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many models each step in closed form was of."""
    found: list[int] = []
    take = StackedStep.take

    def take_and_tell(self: StackedStep, users: torch.Tensor, *columns: torch.Tensor) -> torch.Tensor:
        found.append(len(users))
        return take(self, users, *columns)

    monkeypatch.setattr(StackedStep, "take", take_and_tell)
    return found


@pytest.fixture
def train(shop: Path, folders: list[Path], make_trainer) -> Callable[..., Any]:
    def run(
        make: Any, seed: int, features: int, partner: Partner | None = None, epochs: int = 2, *callbacks: Any
    ) -> Any:
        seed_everything(seed, verbose=False)
        model = make()
        model.partner = partner
        trainer = make_trainer(max_epochs=epochs, callbacks=list(callbacks))
        trainer.fit(model, InteractionTriplets(shop, folders[features], batch_size=64, seed=seed))
        return {**model.state_dict(), "step": trainer.global_step}

    return run


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])) for name in one
    )


def test_each_ends_as_alone(train, sizes) -> None:
    """Seeds, features and λ differ; other models, and those that train for longer, come along."""
    cases: list[tuple[Any, ...]] = [
        (lambda: VBPR(**SIZES), 0, 0),
        (lambda: VBPR(**SIZES), 1, 1),
        (lambda: VBPR(**SIZES, regularization=0.1), 0, 2),
        (lambda: AMR(**SIZES), 0, 0),
        (lambda: AMR(**SIZES, adversarial_weight=1.0, epsilon=0.2), 1, 1),
        (lambda: BPRMF(factors=4, top_k=[5]), 0, 0),
        (lambda: VBPR(**SIZES), 2, 0, 3),
        (lambda: VBPR(**SIZES, visual_bias=True), 2, 0),
    ]

    def training(case: tuple[Any, ...]) -> Callable[[Partner], Any]:
        make, seed, features, *epochs = case
        return lambda partner: train(make, seed, features, partner, *epochs)

    found = Lockstep([training(case) for case in cases]).run()
    assert {1, 2, 4} <= set(sizes)
    for (make, seed, features, *epochs), values in zip(cases, found, strict=True):
        assert same(train(make, seed, features, None, *epochs), values)


class Fails(Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        raise ValueError("it fails")


def test_an_error_ends_one_training(train, sizes) -> None:
    ended: list[Any] = []
    trainings = [
        lambda partner: train(lambda: VBPR(**SIZES), 0, 0, partner, 2, Fails()),
        lambda partner: ended.append(train(lambda: VBPR(**SIZES), 1, 1, partner)),
        lambda partner: ended.append(train(lambda: VBPR(**SIZES), 2, 2, partner)),
    ]
    with pytest.raises(ValueError, match="it fails"):
        Lockstep(trainings).run()
    assert {2, 3} <= set(sizes)
    assert same(ended[0], train(lambda: VBPR(**SIZES), 1, 1))
    assert same(ended[1], train(lambda: VBPR(**SIZES), 2, 2))


def test_a_signal_ends_all(train) -> None:
    """What the main thread raises comes while the trainings run; their threads end, too."""
    import threading

    class Stop(BaseException):
        pass

    def stop(*_: Any) -> None:
        raise Stop

    lockstep = Lockstep([lambda partner: train(lambda: VBPR(**SIZES), 0, 0, partner, 50)] * 2)
    lockstep._take = stop  # type: ignore[method-assign]
    before = threading.active_count()
    with pytest.raises(Stop):
        lockstep.run()
    assert threading.active_count() == before
