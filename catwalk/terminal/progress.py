"""Progress of what takes long: a bar on a terminal, and a line in the log every so often where there is none."""

import threading
import time
from typing import Any

import rich.progress
from rich.text import Text

TICK = 1.0
"""Seconds between two looks at the work."""

SOONEST, LATEST = 10.0, 30.0
"""Seconds between two lines: at least, and at most."""

STEP = 0.1
"""Share of the work after which there is a line before :data:`LATEST` seconds are over."""

_running: list["Progress"] = []
"""Bars that have begun and not ended, in all threads: the last one speaks for those around it."""


class Progress(rich.progress.Progress):
    """A bar of Rich's; where its console is no terminal, a thread writes lines instead, so that a log is never silent.

    A line says what is under way, how far it is and for how long: ``PGD (ε = 8) on Sandal images · 64/146 (44%) ·
    1 min 30 s``. It comes every 30 seconds, and every 10% where that takes 10 seconds. Of several that are nested only
    the innermost writes; where several tasks with a field ``beside`` are under way at once, the one around them.
    Arguments are those of :class:`rich.progress.Progress`; a field ``info`` of a task follows how far it is.
    """

    def __init__(self, *columns: str | rich.progress.ProgressColumn, **settings: Any) -> None:
        super().__init__(*columns, **settings)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to show, or to write."""
        if self._thread is None and not self.console.is_terminal:
            _running.append(self)
            self._stopped.clear()
            self._thread = threading.Thread(target=self._write_lines, name="catwalk progress", daemon=True)
            self._thread.start()
        super().start()

    def stop(self) -> None:
        """End it."""
        if self._thread is not None:
            self._stopped.set()
            self._thread.join()
            self._thread = None
            _running.remove(self)
        super().stop()

    @property
    def _under_way(self) -> rich.progress.Task | None:
        visible = [task for task in self.tasks if task.visible]
        around = [task for task in visible if not task.fields.get("beside")]
        is_alone = len(visible) - len(around) <= 1
        return next(reversed(visible if is_alone or not around else around), None)

    def write_line(self) -> None:
        """Write how far the last of the tasks is."""
        task = self._under_way
        if task is not None:
            self.console.print(_line(task), soft_wrap=True, highlight=False, markup=False)

    def _write_lines(self) -> None:
        last, share, told = time.monotonic(), 0.0, None
        while not self._stopped.wait(TICK):
            task = self._under_way
            if task is None:
                continue
            if _running[-1:] != [self]:
                last = time.monotonic()  # another speaks meanwhile
                continue
            if task.id != told:
                last, share, told = max(last, time.monotonic() - (task.elapsed or 0.0)), 0.0, task.id
            waited, done = time.monotonic() - last, _share(task)
            is_due = waited >= LATEST or (waited >= SOONEST and done - share >= STEP)
            if is_due:
                try:
                    self.write_line()
                except (OSError, ValueError):  # nobody listens any more
                    return
                last, share = time.monotonic(), done


def _share(task: rich.progress.Task) -> float:
    return task.completed / task.total if task.total else 0.0


def _line(task: rich.progress.Task) -> str:
    """Return what a log says of a task."""
    parts = [Text.from_markup(task.description).plain]
    if task.total:
        parts.append(f"{task.completed:,.0f}/{task.total:,.0f} ({_share(task):.0%})")
    elif task.completed:
        parts.append(f"{task.completed:,.0f}")
    parts.append(Text.from_markup(task.fields.get("info") or "").plain)
    parts.append(duration(task.elapsed or 0.0))
    return " · ".join(filter(None, parts))


def duration(seconds: float) -> str:
    """Return a duration as people say it."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
