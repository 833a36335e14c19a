"""What a running study shows: the stages that are done, the one under way, and how much is left."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from catwalk.images import Progress as ProgressCallback


class StudyProgress:
    """One bar for the whole study and one for the stage under way, with a line for each stage that ended.

    Args:
        console: Where to show it; without a terminal only the lines appear.
        num_stages: Number of stages to come.
        title: What is under way.
    """

    def __init__(self, console: Console, num_stages: int, title: str = "study") -> None:
        self.console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[info]}", table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
        )
        self._overall = self._progress.add_task(title, total=num_stages, info="")
        self._stage = self._progress.add_task("", total=None, visible=False, info="")

    def __enter__(self) -> "StudyProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def stage(self, description: str) -> Iterator[None]:
        """Show a stage while it runs."""
        self._progress.reset(self._stage, description=escape(description), total=None, visible=True, info="")
        try:
            yield
        finally:
            self._progress.update(self._stage, visible=False)

    def done(self, description: str, outcome: str, seconds: float) -> None:
        """Print a line for a stage that has ended."""
        self._progress.advance(self._overall)
        text = f"[green]✓[/] {escape(description)} [dim]· {escape(outcome)} · {seconds:.1f} s"
        self.console.print(text, highlight=False)

    def update(self, done: int, total: int, info: str = "") -> None:
        """Move the bar of the stage under way."""
        self._progress.update(self._stage, completed=done, total=total, info=info)

    @property
    def callback(self) -> ProgressCallback:
        """The same for who reports only numbers."""
        return lambda done, total: self.update(done, total)


class ShowBatches(Callback):
    """Shows a Trainer's batches on a study's bar: those of training, testing and predicting.

    Args:
        progress: The study's progress.
        every: Number of training batches between two updates.
    """

    def __init__(self, progress: StudyProgress, every: int = 10) -> None:
        self.progress = progress
        self.every = every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, and show the epoch and the last loss."""
        done = trainer.fit_loop.total_batch_idx + 1  # not the steps: replays of a batch are several
        if done % self.every == 0:
            loss = trainer.callback_metrics.get("train/loss")
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self.progress.update(
                done,
                int(trainer.estimated_stepping_batches),
                epoch if loss is None else f"{epoch} · loss {float(loss):.4f}",
            )

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
        self.progress.update(batch_idx + 1, int(sum(trainer.num_test_batches)), "test")

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
        self.progress.update(batch_idx + 1, int(sum(trainer.num_predict_batches)), "batches of images")
