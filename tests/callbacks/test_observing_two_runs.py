"""A callback that has observed a run observes the next one, of another shop and another attack, as a new one would."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import attacks
import observers
import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer

from catwalk.importers.synthetic import synthetic
from catwalk.networks.features import FeatureTable
from catwalk.networks.network import network_fingerprint
from catwalk.networks.prediction import predict
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.images import load_images
from datamodules import InteractionTriplets, ProductImages

pytestmark = pytest.mark.filterwarnings("ignore:images whose shorter side")


@dataclass(frozen=True)
class AnotherShop:
    """A dataset folder, the folder of its features, and that of an attack on it."""

    dataset: Path
    features: Path
    attack: Path


@pytest.fixture(scope="module")
def another(trained, tmp_path_factory: pytest.TempPathFactory) -> AnotherShop:
    """Return a shop with fewer items and users than the one of the other tests."""
    folder = tmp_path_factory.mktemp("another")
    synthetic(folder / "shop", items=60, users=110, image_size=16, train_images=40, test_images=10, seed=1)
    catalogue = Catalogue.read(folder / "shop")
    levels = torch.tensor(load_images(folder / "shop", catalogue.images, None))
    network = trained.classifier.network
    table = FeatureTable.from_predictions(
        predict(network, levels), trained.classifier.category_names, catalogue.fingerprint, network_fingerprint(network)
    )
    (folder / "features").mkdir()
    table.write(folder / "features", catalogue)
    attacks.attack(replace(trained, catalogue=catalogue, table=table), folder / "attack")
    return AnotherShop(folder / "shop", folder / "features", folder / "attack")


def observe(
    make_trainer: Callable[..., Trainer],
    make_model: Callable[[], LightningModule],
    data: LightningDataModule,
    callback: Callback,
    folder: Path,
) -> tuple[list[dict[str, float]], dict[Path, Any]]:
    """Return what is logged in one epoch, a test and a prediction, and the files that are there then."""
    _, values = observers.run(make_trainer, make_model, data, callback, max_epochs=1)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return values, {path.relative_to(folder): content(path) for path in paths}


def content(path: Path) -> Any:
    """Return the bytes of a file, or of a checkpoint its steps and weights."""
    if path.suffix != ".ckpt":
        return path.read_bytes()
    checkpoint = torch.load(path, weights_only=True)
    weights = {name: observers.plain_bytes(value) for name, value in checkpoint["state_dict"].items()}
    return checkpoint["global_step"], weights


@pytest.mark.parametrize("name", observers.OF_RECOMMENDERS)
def test_of_recommenders(shop, features, another, attacked, trunk, make_trainer, tmp_path, name: str) -> None:
    folders = tmp_path / "used", tmp_path / "new"
    used, new = (observers.OF_RECOMMENDERS[name](folder, trunk) for folder in folders)
    first = InteractionTriplets(shop, features, batch_size=64, validation=True)
    before = observe(make_trainer, observers.drawing_recommender, first, used, attacked(folders[0]))
    shutil.rmtree(folders[0])
    found = []
    for callback, folder in zip((used, new), folders, strict=True):
        shutil.copytree(another.attack, folder)
        data = InteractionTriplets(another.dataset, another.features, batch_size=64, validation=True)
        found.append(observe(make_trainer, observers.drawing_recommender, data, callback, folder))
    assert found[0] == found[1]
    assert before != found[0]


@pytest.mark.parametrize("name", observers.OF_CLASSIFIERS)
def test_of_classifiers(shop, another, make_trainer, tmp_path, name: str) -> None:
    folders = tmp_path / "used", tmp_path / "new"
    used, new = (observers.OF_CLASSIFIERS[name](folder) for folder in folders)
    before = observe(make_trainer, observers.drawing_classifier, ProductImages(shop, batch_size=32), used, folders[0])
    shutil.rmtree(folders[0], ignore_errors=True)
    found = []
    for callback, folder in zip((used, new), folders, strict=True):
        data = ProductImages(another.dataset, batch_size=32)
        found.append(observe(make_trainer, observers.drawing_classifier, data, callback, folder))
    assert found[0] == found[1]
    assert before != found[0]
