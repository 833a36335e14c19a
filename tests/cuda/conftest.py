"""What the tests on a GPU share; all of them are left out where there is none."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import gpu
import pytest
import torch
from pytorch_lightning import Trainer, seed_everything

from datamodules import InteractionTriplets
from lightning_modules import VBPR

TOP_K = 5

# Read when the first matrix product is computed: without it cuBLAS has no deterministic ones.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(scope="session", autouse=True)
def _gpu() -> None:
    if not gpu.is_there():
        pytest.skip("there is no GPU that PyTorch can use")


@pytest.fixture(autouse=True)
def _own_kernels() -> Iterator[None]:
    """Take what a Trainer has set back: it holds for the whole process."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def gpu_trainer(make_trainer: Callable[..., Trainer]) -> Callable[..., Trainer]:
    """Return a function that makes a Trainer on one GPU without logger, checkpoints and bars."""

    def make(**settings: object) -> Trainer:
        return make_trainer(**{"accelerator": gpu.ACCELERATOR, "devices": 1} | settings)

    return make


@pytest.fixture(scope="session")
def features(trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the features that the trained CNN makes on the CPU."""
    folder = tmp_path_factory.mktemp("features")
    trained.table.write(folder, trained.catalogue)
    return folder


@pytest.fixture(scope="session")
def recommender(shop: Path, features: Path, make_trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a VBPR that was trained on the CPU."""
    path = tmp_path_factory.mktemp("recommender") / "recommender.ckpt"
    seed_everything(0, verbose=False)
    trainer = make_trainer(max_epochs=3)
    trainer.fit(VBPR(factors=4, visual_factors=4, top_k=[TOP_K]), InteractionTriplets(shop, features, batch_size=64))
    trainer.save_checkpoint(path)
    return path
