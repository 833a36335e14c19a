"""Signals that end a run: Ctrl-C (SIGINT), and SIGTERM of a scheduler or of ``docker stop``."""

import contextlib
import functools
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

REPEATS = 5.0
"""Seconds within which another SIGTERM is the same request again: schedulers send several."""

GRACE = 5.0
"""Seconds that the other processes of a run have to end by themselves."""


class Stopped(BaseException):
    """The process has been asked to end.

    Attributes:
        number: The signal.
        advice: How to go on, for the line that the user sees; empty where nothing is known.
    """

    def __init__(self, number: int, advice: str = "") -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.advice = advice


class _Handler:
    """What is called when SIGTERM comes."""

    def __init__(self) -> None:
        self.came: float | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.came is None or now > self.came + REPEATS:
            self.came = now
            raise Stopped(number)


@contextlib.contextmanager
def sigterm_raises() -> Iterator[Callable[[], bool]]:
    """Let SIGTERM raise :class:`Stopped` in the main thread meanwhile, as Ctrl-C raises KeyboardInterrupt.

    Yields:
        Returns whether SIGTERM has come: what it raises may have been swallowed, or turned into another error.
    """
    handler, earlier = _Handler(), signal.getsignal(signal.SIGTERM)
    # Who has SIGTERM ignored, as of a process of his own, wants it ignored.
    if threading.current_thread() is not threading.main_thread() or earlier is signal.SIG_IGN:
        yield lambda: False
        return
    signal.signal(signal.SIGTERM, handler)
    try:
        yield lambda: handler.came is not None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if earlier is None else earlier)


def keep_sigterm(trainer: Any) -> None:
    """Keep a Lightning Trainer from handling SIGTERM in the place of :func:`sigterm_raises`.

    Lightning would end the training after the next batch as if all were done, with exit code 0. What it does about
    SLURM's other signals stays.
    """
    connector = trainer._signal_connector
    # A function of this module can be pickled, for processes that are spawned.
    connector.register_signal_handlers = functools.partial(_register_others, connector.register_signal_handlers)


def _register_others(register: Callable[[], None]) -> None:
    """Let a Trainer register its handlers, and put back :func:`sigterm_raises`' own."""
    handler = signal.getsignal(signal.SIGTERM)
    register()
    if isinstance(handler, _Handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def advising(advice: Callable[[], str]) -> Iterator[None]:
    """Say how to go on, where the block is left because the process was asked to end."""
    try:
        yield
    except BaseException as error:
        number = stopped_by(error)
        if number is None:
            raise
        raise Stopped(number, advice()) from error


def stopped_by(error: BaseException | None) -> int | None:
    """Return the signal behind what was raised, or behind what it was raised over; None where there is none.

    After Ctrl-C Lightning shuts down and then exits with code 1; and what is shut down may fail in its own ways.
    """
    pending, seen = [error], set[int]()
    while pending:
        error = pending.pop()
        if error is None or id(error) in seen:  # one may be raised from itself
            continue
        seen.add(id(error))
        if isinstance(error, Stopped):
            return error.number
        if isinstance(error, KeyboardInterrupt):
            return signal.SIGINT
        pending += [error.__context__, error.__cause__]
    return None


def end_processes(processes: "list[subprocess.Popen[Any]]", patience: float = 0.0) -> None:
    """Ask processes to end, and make them after a while: in a collective they hear nothing.

    Args:
        processes: The list is emptied first, for who looks after them and would take their end for an accident.
        patience: Seconds that they have before they are asked.
    """
    ours = list(processes)
    processes.clear()
    _wait_for(ours, patience)
    for process in ours:
        process.terminate()
    for process in _wait_for(ours, GRACE):
        process.kill()
        process.wait()


def _wait_for(processes: "list[subprocess.Popen[Any]]", seconds: float) -> "list[subprocess.Popen[Any]]":
    """Wait for processes to end, so long in all, and return those that have not."""
    latest = time.monotonic() + seconds
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, latest - time.monotonic()))
    return [process for process in processes if process.returncode is None]
