"""Train a classifier and kill the process in the middle of an epoch; run by test_resume.py.

Arguments: class name, its settings as JSON, dataset folder, folder for checkpoints, batch after which to die.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

import lightning_modules
from callbacks import ResumableCheckpoint
from datamodules import ProductImages


class Die(Callback):
    """Kills the process as ``kill -9`` does."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.count = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.count += 1
        if self.count == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


def train(name: str, settings: dict[str, Any], dataset: Path, folder: Path, last_batch: int = -1) -> LightningModule:
    """Train, from the last checkpoint in the folder where there is one; return the model."""
    seed_everything(3, verbose=False)
    replays = settings.get("replays", 1)
    model = getattr(lightning_modules, name)(backbone="plain_networks.with_dropout", **settings)
    checkpoint = folder / "last.ckpt"
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3 * replays,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ResumableCheckpoint(str(folder), "whole", every_n_batches=5),
            Die(last_batch),
        ],
    )
    data = ProductImages(dataset, batch_size=32, shift=1)
    trainer.fit(model, data, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)
    return model


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
