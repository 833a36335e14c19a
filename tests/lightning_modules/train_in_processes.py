"""Train everything that learns from images, in one of the processes of a job; test_several_processes.py runs it.

Arguments: which trainings, a dataset folder, a trained classifier, a folder with attacked images, a folder to write.
Every training leaves ``NAME-PROCESSES-RANK.pt`` with what a process ends with, and those that go on ``NAME.ckpt`` from
the middle.
"""

from pathlib import Path
from typing import Any

import forked_processes
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything

import lightning_modules
from datamodules import PoisonedImages, ProductImages

GLOBAL_BATCH = 32
PROCESSES = forked_processes.number()

COMPARABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "t": ("ProductClassifier", {}),
    "at": ("AdversarialClassifier", {"iterations": 3, "random_start": False}),
    "free": ("FreeAdversarialClassifier", {"replays": 2}),
}
"""Without BatchNorm and random numbers."""

COMPLETE: dict[str, tuple[str, dict[str, Any]]] = {
    "t": ("ProductClassifier", {}),
    "at": ("AdversarialClassifier", {"iterations": 2}),
    "fast": ("FastAdversarialClassifier", {"check_every_n_steps": 6}),
    "free": ("FreeAdversarialClassifier", {"replays": 2}),
    "trades": ("TradesClassifier", {"iterations": 2}),
}
"""With BatchNorm, dropout, augmentation and random starts."""


class Keep(Callback):
    """Saves a checkpoint after a batch, and what every process ends with."""

    def __init__(self, stem: Path, checkpoint: Path | None = None, save_after: int = -1) -> None:
        self.stem = stem
        self.checkpoint = checkpoint
        self.save_after = save_after
        self.count = 0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.count += 1
        if self.count == self.save_after:
            trainer.save_checkpoint(self.checkpoint)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        result = {
            "weights": pl_module.state_dict(),
            "perturbation": getattr(pl_module, "_perturbation", None),
            "steps": trainer.global_step,
        }
        torch.save(result, self.stem.with_name(f"{self.stem.name}-{PROCESSES}-{trainer.global_rank}.pt"))


def fit(model: LightningModule, data: LightningDataModule, epochs: int, keep: Keep, path: Path | None = None) -> None:
    trainer = Trainer(**forked_processes.settings(), max_epochs=epochs, callbacks=[keep])
    trainer.fit(model, data, ckpt_path=path, weights_only=True)


def classifier(name: str, settings: dict[str, Any], backbone: str) -> LightningModule:
    seed_everything(0, verbose=False)
    return getattr(lightning_modules, name)(
        backbone=f"plain_networks.{backbone}",
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0),
        **settings,
    )


def main(which: str, dataset: str, network: str, attacked: str, output: str) -> None:
    folder, batch = Path(output), GLOBAL_BATCH // PROCESSES
    if which == "comparable":
        for name, (cls, settings) in COMPARABLE.items():
            data = ProductImages(Path(dataset), batch_size=batch, shift=0, flip=False)
            model = classifier(cls, settings, "without_statistics")
            fit(model, data, settings.get("replays", 1), Keep(folder / name))
        return
    for name, (cls, settings) in COMPLETE.items():
        if which == "resumed" and name == "t":
            continue
        for path in (None, folder / f"{name}.ckpt"):
            if path is not None and which != "resumed":
                continue
            data = ProductImages(Path(dataset), batch_size=batch, shift=1)
            stem = folder / (name if path is None else f"{name}-resumed")
            keep = Keep(stem, folder / f"{name}.ckpt", 8 if which == "resumed" and path is None else -1)
            epochs = (2 if which == "resumed" else 1) * settings.get("replays", 1)
            fit(classifier(cls, settings, "with_dropout"), data, epochs, keep, path)
    if which == "complete":
        seed_everything(0, verbose=False)
        denoiser = lightning_modules.ImageDenoiser(network, width=4, depth=1, iterations=1)
        fit(denoiser, ProductImages(Path(dataset), batch_size=batch), 1, Keep(folder / "denoiser"))
        seed_everything(0, verbose=False)
        for sees in ("features", "images"):
            data = PoisonedImages(Path(dataset), Path(network), [Path(attacked)], batch_size=8)
            detector = lightning_modules.PoisoningDetector(sees, width=4)
            fit(detector, data, 2, Keep(folder / f"detector of {sees}"))
