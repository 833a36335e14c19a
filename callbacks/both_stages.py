"""Bases of callbacks that do the same in validation and test, or in training and test."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_modules.measured_module import Stage


class MeasuringCallback(Callback):
    """Base of callbacks that measure what a module makes of the batches of a validation or a test."""

    def begin_measuring(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Prepare for the batches of a stage."""

    def measure(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        """Measure a batch.

        Args:
            trainer: Who runs the module.
            pl_module: The module.
            outputs: What the module made of the batch.
            batch: The batch.
        """

    def end_measuring(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Log what was measured."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self.begin_measuring(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self.begin_measuring(trainer, pl_module, "test")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure a batch."""
        self.measure(trainer, pl_module, outputs, batch)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure a batch."""
        self.measure(trainer, pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End."""
        self.end_measuring(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End."""
        self.end_measuring(trainer, pl_module, "test")


class FramingCallback(Callback):
    """Base of callbacks that do something before a training and before a test, or after either."""

    def before_run(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what there is before the run begins."""

    def after_run(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what has come of the run."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self.before_run(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self.before_run(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End."""
        self.after_run(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End."""
        self.after_run(trainer, pl_module)
