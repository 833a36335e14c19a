"""What a stage tells in another process, and the screen on which it is shown here."""

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.progress import TaskID

from catwalk.results.store import Tell
from catwalk.study.progress import StudyDisplay, StudyProgress

PAUSE = 0.2
"""Seconds between two reports of how far a stage is."""

LONGEST = 1000
"""Characters of a report at most: one that a pipe takes as a whole, or not at all."""

Report = tuple[Any, ...]
"""Number of a stage, what it tells, and the values that belong to it."""


class ReportedStages:
    """Shows what stages of other processes report.

    Args:
        display: Shows how far they are.
        tell: Shows a line about the store.
    """

    def __init__(self, display: StudyDisplay, tell: Tell) -> None:
        self._display = display
        self._tell = tell
        self._bars: dict[int, TaskID] = {}

    def show(self, report: Report) -> None:
        """Show one report."""
        number, what, *values = report
        getattr(self, f"_show_{what}")(number, *values)

    def end(self, number: int) -> None:
        """Remove the bar of a stage, if it has one."""
        if number in self._bars:
            self._display.end(self._bars.pop(number))

    def _show_begin(self, number: int, description: str) -> None:
        self.end(number)  # of a process that was lost
        self._bars[number] = self._display.begin(description)

    def _show_update(self, number: int, done: int, total: int | None, info: str) -> None:
        if number in self._bars:
            self._display.move(self._bars[number], done, total, info)

    def _show_end(self, number: int) -> None:
        self.end(number)

    def _show_done(self, number: int, description: str, outcome: str, seconds: float) -> None:
        self._display.done(description, outcome, seconds)

    def _show_tell(self, number: int, line: str) -> None:
        self._tell(line)

    def _show_write(self, number: int, stream: str, text: str) -> None:
        print(text, end="", file=getattr(sys, stream))


# What follows runs in the other processes.


class Reports(StudyProgress):
    """Sends what a stage tells to the process that shows it.

    Args:
        post: Brings a report there.

    Attributes:
        number: Which stage it is.
    """

    def __init__(self, post: Callable[[Report], object]) -> None:
        self._post = post
        self._reported = 0.0
        self.number = -1

    def send(self, what: str, *values: Any) -> None:
        """Send something."""
        self._post((self.number, what, *values))

    def tell(self, line: str) -> None:
        """Have a line about the store shown."""
        self.send("tell", line[:LONGEST])

    @contextlib.contextmanager
    def stage(self, description: str) -> Iterator[None]:
        """Have a stage shown while it runs."""
        self.send("begin", description[:LONGEST])
        try:
            yield
        finally:
            self.send("end")

    def update(self, done: int, total: int | None, info: str = "") -> None:
        """Have the bar moved, not more often than anybody sees."""
        now = time.monotonic()
        if now - self._reported >= PAUSE or done == total:
            self._reported = now
            self.send("update", done, total, info[:LONGEST])

    def done(self, description: str, outcome: str, seconds: float) -> None:
        """Have the line shown."""
        self.send("done", description[:LONGEST], outcome[:LONGEST], seconds)


class ReportedStream(io.TextIOBase):
    """Sends what is printed to the process that shows it, where it does not run into the bars.

    Args:
        reports: Sends it.
        name: Of the stream in :mod:`sys`.
    """

    def __init__(self, reports: Reports, name: str) -> None:
        self._reports = reports
        self._name = name

    def write(self, text: str) -> int:
        """Send a text."""
        for first in range(0, len(text), LONGEST):
            self._reports.send("write", self._name, text[first : first + LONGEST])
        return len(text)
