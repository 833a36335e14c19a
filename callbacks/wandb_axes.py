"""Axes of the metrics of a W&B run, and the highest values in its summary."""

import math
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.inject_poisoned_images import InjectPoisonedImages
from callbacks.trainer_callbacks import callbacks_of
from callbacks.wandb_loggers import wandb_loggers
from lightning_modules.free_adversarial_cnn import FreeAdversarialClassifier

REPLAYS = "replays"

HIGHEST = "highest"
"""Entry of a checkpoint with the highest metrics so far, for a run that goes on."""


class WandbAxes(Callback):
    """Makes W&B draw and sort a run as it is read; ``catwalk`` adds it where a ``WandbLogger`` is among the loggers.

    - Metrics that begin with ``val/`` or ``test/`` are drawn over ``epoch``.
    - With free adversarial training, ``replays`` is logged, the number of steps that the weights have taken, and
      ``train/`` and ``val/`` are drawn over it: Lightning's own step and epoch count a batch once, however often it is
      replayed. Over ``replays`` the curve stands beside those of other trainings over their steps.
    - The summary, which holds the last value of every metric under its own name, gets the highest so far under
      ``max/NAME`` of ``val/hr@K``, ``val/ndcg@K``, the accuracies, and ``val/chr@K`` of the category that
      :class:`~callbacks.InjectPoisonedImages` attacks. Where a training was broken off and goes on, its earlier epochs
      count too.

    Every metric is named to W&B by its full name: in W&B's patterns it is not settled whether ``*`` stands for names
    with a ``/``, which categories have.
    """

    def __init__(self) -> None:
        self._axes: dict[str, str] = {}
        self._highest: dict[str, float] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin with a run that knows no metric."""
        self._axes, self._highest = {}, {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the highest metrics: a ``state_dict`` would be missed, with a warning, by runs that log elsewhere."""
        checkpoint[HIGHEST] = dict(self._highest)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the highest metrics of the training that goes on."""
        if trainer.state.fn == "fit":
            self._highest = dict(checkpoint.get(HIGHEST, {}))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Count replays."""
        self._log_replays(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say after how many replays the metrics are measured."""
        if trainer.state.fn == "fit":
            self._log_replays(trainer, pl_module)

    def _log_replays(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, FreeAdversarialClassifier):
            # The same in all processes; Lightning warns of what is logged for an epoch and not averaged over them.
            pl_module.log(REPLAYS, float(trainer.global_step), sync_dist=not trainer.training)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name new metrics to W&B."""
        self._define(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name new metrics to W&B, and keep the highest."""
        if not trainer.sanity_checking:
            self._define(trainer, pl_module)
            self._keep_highest(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name new metrics to W&B."""
        self._define(trainer, pl_module)

    def _define(self, trainer: Trainer, pl_module: LightningModule) -> None:
        replayed = isinstance(pl_module, FreeAdversarialClassifier) and trainer.state.fn == "fit"
        axes = {"val/": REPLAYS if replayed else "epoch", "test/": "epoch", **({"train/": REPLAYS} if replayed else {})}
        new = {
            name: axis
            for name in trainer.logged_metrics
            for beginning, axis in axes.items()
            if name.startswith(beginning) and name not in self._axes
        }
        self._axes |= new
        for logger in wandb_loggers(trainer):
            for name, axis in new.items():
                logger.experiment.define_metric(name, step_metric=axis)

    def _keep_highest(self, trainer: Trainer) -> None:
        attacked = {callback.source for callback in callbacks_of(trainer) if isinstance(callback, InjectPoisonedImages)}
        for name, value in trainer.logged_metrics.items():
            if _is_kept(name, attacked) and float(value) > self._highest.get(name, -math.inf):
                self._highest[name] = float(value)
        for logger in wandb_loggers(trainer):
            logger.experiment.summary.update({f"max/{name}": value for name, value in self._highest.items()})


def _is_kept(name: str, attacked: set[str]) -> bool:
    """Return whether a run is sorted by the highest value of a metric."""
    stage, _, value = name.partition("/")
    kind, _, category = value.partition("/")
    if stage != "val":
        return False
    if kind.startswith("chr@"):
        return category in attacked
    return kind.startswith(("hr@", "ndcg@")) or kind.endswith("accuracy")
