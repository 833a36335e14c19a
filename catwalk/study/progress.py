"""Progress of a study: the stages that are done, those under way, and the time that remains."""

import abc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from catwalk.shop.images import ReportProgress
from catwalk.terminal.progress import Progress

PAUSE = 1.0
"""Seconds between two estimates of the time that remains."""


class StudyProgress(abc.ABC):
    """Whom a stage tells how far it is: one stage at a time."""

    @abc.abstractmethod
    @contextmanager
    def stage(self, description: str) -> Iterator[None]:
        """Show a stage while it runs."""
        yield

    @abc.abstractmethod
    def update(self, done: int, total: int | None, info: str = "") -> None:
        """Move the bar of the stage under way; a total of None is not known."""

    @abc.abstractmethod
    def done(self, description: str, outcome: str, seconds: float) -> None:
        """Tell that a stage has ended."""

    @property
    def callback(self) -> ReportProgress:
        """The same as :meth:`update` for who reports only numbers."""
        return lambda done, total: self.update(done, total)


class StudyDisplay(StudyProgress):
    """One bar for the whole study and one for each stage under way, with a line for each stage that ended.

    Stages of this process, which runs one at a time, tell it through :meth:`stage` and :meth:`update`; those of others
    have bars by number.

    Args:
        console: Where to show it; without a terminal there are lines instead of bars, see
            :class:`~catwalk.terminal.progress.Progress`.
        num_stages: Number of stages to come.
        title: What is under way.
        left: Returns in words the time that remains; nothing where nobody knows.
    """

    def __init__(
        self,
        console: Console,
        num_stages: int,
        title: str = "study",
        left: Callable[[], str] = str,
    ) -> None:
        self.console = console
        self.left = left
        self._told = 0.0
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

    def __enter__(self) -> "StudyDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def stage(self, description: str) -> Iterator[None]:
        """Show a stage of this process while it runs."""
        self._stage = self.begin(description)
        try:
            yield
        finally:
            self.end(self._stage)
            self._stage = None

    def update(self, done: int, total: int | None, info: str = "") -> None:
        """Move the bar of the stage under way in this process."""
        if self._stage is not None:
            self.move(self._stage, done, total, info)

    def beside(self) -> "StudyProgress":
        """Return whom one of several stages of this process tells that run side by side."""
        return _Beside(self)

    def begin(self, description: str) -> TaskID:
        """Show a bar for a stage that begins, beside those of others."""
        task = self._progress.add_task(escape(description), total=None, info="", beside=True)
        self.show_left()
        return task

    def move(self, stage: TaskID, done: int, total: int | None, info: str = "") -> None:
        """Move the bar of one stage."""
        self._progress.update(stage, completed=done, total=total, info=escape(info))
        if time.monotonic() - self._told >= PAUSE:
            self.show_left()

    def end(self, stage: TaskID) -> None:
        """Remove the bar of a stage that has ended."""
        self._progress.remove_task(stage)

    def done(self, description: str, outcome: str, seconds: float) -> None:
        """Print a line for a stage that has ended."""
        self._progress.advance(self._overall)
        text = f"[green]✓[/] {escape(description)} [dim]· {escape(outcome)} · {seconds:.1f} s"
        self.console.print(text, highlight=False)
        self.show_left()

    def show_left(self) -> None:
        """Show the time that remains, as far as it is known by now."""
        self._told = time.monotonic()
        self._progress.update(self._overall, info=self.left())


class _Beside(StudyProgress):
    """One stage of several that run side by side in this process.

    Args:
        display: Shows them.
    """

    def __init__(self, display: StudyDisplay) -> None:
        self._display = display
        self._stage: TaskID | None = None

    @contextmanager
    def stage(self, description: str) -> Iterator[None]:
        """Show the stage while it runs."""
        self._stage = self._display.begin(description)
        try:
            yield
        finally:
            self._display.end(self._stage)
            self._stage = None

    def update(self, done: int, total: int | None, info: str = "") -> None:
        """Move its bar."""
        if self._stage is not None:
            self._display.move(self._stage, done, total, info)

    def done(self, description: str, outcome: str, seconds: float) -> None:
        """Tell that it has ended."""
        self._display.done(description, outcome, seconds)
