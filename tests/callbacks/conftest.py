"""Features of the tiny shop, a recommender trained on them, and data modules over both."""

from pathlib import Path

import pytest
from pytorch_lightning import seed_everything

from catwalk.splits import RatioSplit
from datamodules import InteractionTriplets
from lightning_modules import VBPR

TOP_K = 5


@pytest.fixture(scope="session")
def features(trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the features that the trained CNN makes."""
    folder = tmp_path_factory.mktemp("features")
    trained.table.write(folder, trained.catalogue)
    return folder


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
