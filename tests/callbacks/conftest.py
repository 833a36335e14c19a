"""Features of the tiny shop, a recommender trained on them, and data modules over both."""

import shutil
from collections.abc import Callable
from pathlib import Path

import attacks
import pytest
import torch
import torchvision
from pytorch_lightning import seed_everything

from catwalk.shop.splits import RatioSplit
from datamodules import InteractionTriplets
from lightning_modules import VBPR

TOP_K = 5


@pytest.fixture(scope="session")
def features(trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the features that the trained CNN makes."""
    folder = tmp_path_factory.mktemp("features")
    trained.table.write(folder, trained.catalogue)
    return folder


@pytest.fixture(scope="session")
def attacked(trained, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Return a function that puts an attack's files into a folder, and returns that."""
    made = attacks.attack(trained, tmp_path_factory.mktemp("attack"))
    return lambda folder: Path(shutil.copytree(made, folder, dirs_exist_ok=True))


@pytest.fixture(scope="session")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with weights for LPIPS."""
    path = tmp_path_factory.mktemp("trunk") / "squeeze.pth"
    torch.manual_seed(5)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), path)
    return path


@pytest.fixture
def triplets(shop: Path, features: Path) -> InteractionTriplets:
    return InteractionTriplets(shop, features, batch_size=64)


@pytest.fixture(scope="session")
def recommender(shop: Path, features: Path, make_trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a VBPR that was trained on the clean features and ranks its best 5."""
    path = tmp_path_factory.mktemp("recommender") / "recommender.ckpt"
    seed_everything(0, verbose=False)
    trainer = make_trainer(max_epochs=3)
    trainer.fit(VBPR(factors=4, visual_factors=4, top_k=[TOP_K]), InteractionTriplets(shop, features, batch_size=64))
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(scope="session")
def recommender_by_share(shop: Path, features: Path, make_trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of the same that was not trained on the last 40% of every user's purchases."""
    path = tmp_path_factory.mktemp("recommender") / "by_share.ckpt"
    seed_everything(0, verbose=False)
    trainer = make_trainer(max_epochs=3)
    data = InteractionTriplets(shop, features, batch_size=64, split=RatioSplit(0.4))
    trainer.fit(VBPR(factors=4, visual_factors=4, top_k=[TOP_K]), data)
    trainer.save_checkpoint(path)
    return path


@pytest.fixture
def model() -> VBPR:
    return VBPR(factors=4, visual_factors=4, top_k=[TOP_K])
