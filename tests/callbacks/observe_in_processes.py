"""Observe a training, a test and a prediction on the CPU in one process or several, with all callbacks that look on.

What is trained stays as it is, by a learning rate of 0: nothing but the number of processes can change a figure.
test_observing_in_processes.py runs it. Arguments: dataset folder, features folder, classifier, recommender, file with
the weights of LPIPS, output folder.
"""

from pathlib import Path

import attacks
import forked_processes
import observers
import wandb
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from torch.optim import SGD

from callbacks import InjectPoisonedImages
from catwalk.attacks import PGD
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import VBPR, FreeAdversarialClassifier


class FinishRun(Callback):
    """Ends W&B's run where it was begun: the process that starts the others knows nothing of it."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if wandb.run is not None:
            wandb.finish()


def no_learning(parameters):
    return SGD(parameters, lr=0.0)


def main(*arguments: str) -> None:
    dataset, features, classifier, recommender, trunk, output = map(Path, arguments)
    devices = forked_processes.number()

    def observe(name: str, model: LightningModule, data: LightningDataModule, callbacks: list, epochs: int) -> None:
        """Fit, test and predict; the figures are in a file of each command."""
        seed_everything(0, verbose=False)
        for command in ("fit", "test", "predict"):
            loggers = [CSVLogger(output, f"{name} {command}", "")]
            if command == "fit":
                loggers.append(WandbLogger(save_dir=output / f"{name} {command}", offline=True))
            trainer = Trainer(
                **forked_processes.settings()
                | {
                    "max_epochs": epochs,
                    "callbacks": [*callbacks, FinishRun()],
                    "enable_checkpointing": True,
                    "logger": loggers,
                    "log_every_n_steps": 1,
                },
            )
            quietly = {"test": {"verbose": False}, "predict": {"return_predictions": False}}.get(command, {})
            checkpoint = {} if command == "fit" else {"ckpt_path": output / name / "whole.ckpt", "weights_only": True}
            getattr(trainer, command)(model, data, **quietly, **checkpoint)

    attack = output / "recommender"
    given = classifier, PGD(epsilon=32.0), attacks.SOURCE, attack, attacks.TARGET
    inject = InjectPoisonedImages(*given, from_epoch=1, results=output / "store")
    observe(
        "recommender",
        VBPR(factors=4, visual_factors=4, top_k=[5], warm_start=recommender, optimizer=no_learning),
        InteractionTriplets(dataset, features, batch_size=64 // devices, validation=True),
        [inject, *(make(attack, trunk) for make in observers.OF_RECOMMENDERS.values())],
        epochs=2,
    )
    observe(
        "classifier",
        FreeAdversarialClassifier(
            backbone="catwalk.networks.compact_cnn",
            backbone_args={"width": 8},
            weights=str(classifier),
            freeze_up_to="5",
            replays=2,
            optimizer=no_learning,
        ),
        ProductImages(dataset, batch_size=32 // devices),
        [make(output / "classifier") for make in observers.OF_CLASSIFIERS.values()],
        epochs=2,
    )
