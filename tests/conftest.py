"""What many tests share: a tiny shop, a CNN trained on it, its features, and a Trainer that writes nothing."""

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

# The folders tests/datamodules and tests/lightning_modules must not be taken for the packages: a package found anywhere
# on the path goes before a folder without __init__.py.
sys.path.append(str(Path(__file__).parents[1]))

from forked_processes import Forked
from pytorch_lightning import Trainer, seed_everything
from small_networks import quiet_trainer, small_classifier, small_images

from catwalk.importers.synthetic import synthetic
from catwalk.networks.classifier import Classifier, load_classifier
from catwalk.networks.features import FeatureTable
from catwalk.networks.network import network_fingerprint
from catwalk.networks.prediction import predict
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.images import load_images

TrainerFactory = Callable[..., Trainer]


@dataclass(frozen=True)
class TrainedCNN:
    """A classifier trained on the tiny shop, and the features that it makes of the catalogue."""

    checkpoint: Path
    classifier: Classifier
    catalogue: Catalogue
    table: FeatureTable


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    # Processes that tests start add up as this one does: another number of threads trains other weights.
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _temporary_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let what libraries leave among the temporary files lie with pytest's own, which it removes."""
    os.environ["TMPDIR"] = str(tmp_path_factory.mktemp("t"))  # short, for sockets lie there
    tempfile.tempdir = None  # asked for again


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """LightningCLI and the processes that Lightning starts read the process's own arguments: not pytest's."""
    monkeypatch.setattr(sys, "argv", ["catwalk"])


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the store of a test's attacks, from which no other test takes them."""
    store = tmp_path_factory.getbasetemp() / "stores" / secrets.token_hex(8)
    for module in ("callbacks.inject_poisoned_images", "catwalk.poisoning.attack_images"):
        monkeypatch.setattr(f"{module}.STORE", store)
    return store


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    """Return what runs a script in several processes, which take no time to begin."""
    forked = Forked()
    yield forked
    forked.close()


@pytest.fixture(scope="session")
def make_trainer() -> TrainerFactory:
    """Return a function that makes a Trainer on the CPU without logger, checkpoints and bars."""
    return quiet_trainer


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny shop: 90 items of 6 categories, 16×16 pixels, 200 users. Do not write into it."""
    folder = tmp_path_factory.mktemp("shop") / "shop"
    synthetic(folder, items=90, users=200, image_size=16, train_images=60, test_images=20)
    return folder


@pytest.fixture(scope="session")
def shop_of_many_sizes(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return :func:`shop` with catalogue images of 12 sizes, among them 40, 16, 15 and single ones. Do not write."""
    folder = tmp_path_factory.mktemp("many sizes") / "shop"
    shutil.copytree(shop, folder, ignore=shutil.ignore_patterns(".cache"))
    sizes = [(16, 16)] * 40 + [(20, 14)] * 16 + [(14, 20)] * 15 + [(17, 13)] * 11 + [(9 + i, 23) for i in range(8)]
    for place, image in enumerate(Catalogue.read(folder).images):
        resize(folder / image, sizes[place * 7 % 90])
    return folder


def resize(path: Path, size: tuple[int, int]) -> None:
    """Bring an image file to a width and height."""
    with Image.open(path) as image:
        image.resize(size).save(path)


@pytest.fixture(scope="session")
def trained(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedCNN:
    """Return a small CNN that has learnt the categories of :func:`shop`."""
    checkpoint = tmp_path_factory.mktemp("trained") / "classifier.ckpt"
    data = small_images(shop)
    seed_everything(0, verbose=False)
    trainer = quiet_trainer(max_epochs=10)
    trainer.fit(small_classifier(), data)
    trainer.save_checkpoint(checkpoint)
    classifier = load_classifier(checkpoint)
    catalogue = Catalogue.read(shop)
    levels = torch.tensor(load_images(shop, catalogue.images, None))
    table = FeatureTable.from_predictions(
        predict(classifier.network, levels),
        classifier.category_names,
        catalogue.fingerprint,
        network_fingerprint(classifier.network),
    )
    return TrainedCNN(checkpoint, classifier, catalogue, table)
