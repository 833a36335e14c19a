"""Progress of a study: the stages that are done, the one under way, and how much is left."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from catwalk.shop.images import ReportProgress
from catwalk.terminal.progress import Progress


class StudyProgress:
    """One bar for the whole study and one for the stage under way, with a line for each stage that ended.

    Args:
        console: Where to show it; without a terminal there are lines instead of bars, see
            :class:`~catwalk.terminal.progress.Progress`.
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
        self._stage: TaskID | None = None

    def __enter__(self) -> "StudyProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def stage(self, description: str) -> Iterator[None]:
        """Show a stage while it runs."""
        self._stage = self._progress.add_task(escape(description), total=None, info="")
        try:
            yield
        finally:
            self._progress.remove_task(self._stage)
            self._stage = None

    def done(self, description: str, outcome: str, seconds: float) -> None:
        """Print a line for a stage that has ended."""
        self._progress.advance(self._overall)
        text = f"[green]✓[/] {escape(description)} [dim]· {escape(outcome)} · {seconds:.1f} s"
        self.console.print(text, highlight=False)

    def update(self, done: int, total: int | None, info: str = "") -> None:
        """Move the bar of the stage under way."""
        if self._stage is not None:
            self._progress.update(self._stage, completed=done, total=total, info=escape(info))

    @property
    def callback(self) -> ReportProgress:
        """The same for who reports only numbers."""
        return lambda done, total: self.update(done, total)
