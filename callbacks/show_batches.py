"""Shows a Trainer's batches on somebody else's bar, or in a log."""

import math
from typing import Any, Protocol, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console

from catwalk.terminal.progress import Progress


class Shows(Protocol):
    """Whoever shows how far something is."""

    def update(self, done: int, total: int | None, info: str = "") -> None:
        """Show it; a total of None is not known."""


class ShowBatches(Callback):
    """Shows a Trainer's batches on a study's bar: those of training, validating, testing and predicting.

    Args:
        progress: Who shows them.
        every: Number of training batches between two updates; the last is always shown.
    """

    def __init__(self, progress: Shows, every: int = 10) -> None:
        self.progress = progress
        self.every = every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, and show the epoch and the last loss."""
        done = trainer.fit_loop.total_batch_idx + 1  # not the steps: replays of a batch are several
        batches, epochs = trainer.num_training_batches, trainer.max_epochs
        is_limited = epochs not in (None, -1) and math.isfinite(batches)
        total = int(batches) * cast(int, epochs) if is_limited else None
        if done % self.every == 0 or done == total:
            loss = trainer.callback_metrics.get("train/loss")
            epoch = f"epoch {trainer.current_epoch + 1}" + (f"/{epochs}" if is_limited else "")
            self.progress.update(done, total, epoch if loss is None else f"{epoch} · loss {float(loss):.4f}")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move the bar, unless it shows a training."""
        if trainer.state.fn == "validate":
            self._count(batch_idx, trainer.num_val_batches, "validation")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move the bar."""
        self._count(batch_idx, trainer.num_test_batches, "test")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move the bar."""
        self._count(batch_idx, trainer.num_predict_batches, "prediction")

    def _count(self, batch_idx: int, batches: Any, info: str) -> None:
        total = sum(batches) if isinstance(batches, list | tuple) else batches
        self.progress.update(batch_idx + 1, int(total) if math.isfinite(total) else None, info)


class LogBatches(ShowBatches):
    """Writes lines of a Trainer's progress where there is no terminal, in place of Lightning's bar.

    The last line of a training has the metrics that the bar would show.

    Args:
        title: What is under way.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._lines = Progress(console=Console(), disable=True)
        self._task = self._lines.add_task(title, total=None)
        super().__init__(self, every=1)

    def __reduce__(self) -> tuple[type["LogBatches"], tuple[str]]:
        """Begin anew in a process that is spawned: what writes the lines cannot be pickled."""
        return LogBatches, (self._title,)

    def update(self, done: int, total: int | None, info: str = "") -> None:
        """Keep how far it is, for the next line."""
        self._lines.update(self._task, completed=done, total=total, info=info)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin."""
        if trainer.is_global_zero:
            self._lines.reset(self._task)
            self._lines.start()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the metrics."""
        if trainer.is_global_zero:
            values = [f"{name} {value:.4g}" for name, value in trainer.progress_bar_metrics.items()]
            self._lines.update(self._task, info=", ".join([f"epoch {trainer.current_epoch}", *values]))
            self._lines.write_line()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """End."""
        self._lines.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End: there will be no teardown."""
        self._lines.stop()
