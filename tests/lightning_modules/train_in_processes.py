"""Train defended classifiers on the CPU in one process and in two; run by test_several_processes.py in a fresh process.

Arguments: a dataset folder, another one with an odd number of training images, a folder to write. Every training leaves
``NAME-PROCESSES-RANK.pt`` with what a process ends with, and ``NAME-PROCESSES.ckpt`` from the middle of the training.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

import lightning_modules
from datamodules import ProductImages

GLOBAL_BATCH = 32


class Keep(Callback):
    """Saves a checkpoint after a batch, and what every process ends with."""

    def __init__(self, stem: Path, save_after: int) -> None:
        self.stem = stem
        self.save_after = save_after
        self.count = 0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.count += 1
        if self.count == self.save_after:
            trainer.save_checkpoint(self.stem.with_suffix(".ckpt"))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        result = {
            "network": pl_module.network.state_dict(),
            "perturbation": getattr(pl_module, "_perturbation", None),
            "steps": trainer.global_step,
        }
        torch.save(result, self.stem.with_name(f"{self.stem.name}-{trainer.global_rank}.pt"))


def train(dataset: Path, stem: Path, cls: str, processes: int, checkpoint: Path | None = None, **settings: Any) -> None:
    """Train for one epoch without and three with random numbers, or go on from a checkpoint."""
    seed_everything(0, verbose=False)
    model = getattr(lightning_modules, cls)(
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0),
        **settings,
    )
    is_comparable = settings["backbone"].endswith("without_statistics")
    data = ProductImages(
        dataset, batch_size=GLOBAL_BATCH // processes, shift=0 if is_comparable else 1, flip=not is_comparable
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        max_epochs=(1 if is_comparable else 3) * settings.get("replays", 1),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Keep(stem, save_after=-1 if checkpoint else 15)],
    )
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)


def main(even: Path, odd: Path, folder: Path) -> None:
    """Run everything that the tests look at."""
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    comparable = {
        "at": ("AdversarialClassifier", {"iterations": 3, "random_start": False}),
        "free": ("FreeAdversarialClassifier", {"replays": 2}),
    }
    for name, (cls, settings) in comparable.items():
        for processes in (1, 2):
            stem = folder / f"{name}-{processes}"
            train(even, stem, cls, processes, backbone="plain_networks.without_statistics", **settings)
    complete = {
        "at-complete": ("AdversarialClassifier", {"iterations": 2}),
        "fast-complete": ("FastAdversarialClassifier", {"check_every_n_steps": 6}),
        "free-complete": ("FreeAdversarialClassifier", {"replays": 2}),
    }
    for name, (cls, settings) in complete.items():
        settings = {**settings, "backbone": "plain_networks.with_dropout"}
        train(odd, folder / f"{name}-2", cls, 2, **settings)
        train(odd, folder / f"{name}-resumed-2", cls, 2, folder / f"{name}-2.ckpt", **settings)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
