"""Who runs a stage: this process, or one of several that run side by side on this machine."""

import abc
import contextlib
import importlib
import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.progress import TaskID

from catwalk.configuration import notices as known_notices
from catwalk.errors import CatwalkError
from catwalk.limits import free_memory
from catwalk.results.keys import assume_code, known_code
from catwalk.study.progress import StudyDisplay, StudyProgress
from catwalk.study.stages.stage import Stage
from catwalk.terminal import screen_text
from catwalk.terminal.stopping import GRACE, sigterm_raises

MEMORY = 2 * 2**30
"""Bytes of memory that a process needs which trains a small network: half a GiB of it holds PyTorch and Lightning."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Environment variables that say on how many threads a process computes."""

PAUSE = 0.2
"""Seconds between two reports of how far a stage is."""

LONGEST = 1000
"""Characters of a report at most: one that a pipe takes as a whole, or not at all."""


class Executor(abc.ABC):
    """Runs stages of a study whose inputs are there; a context, which stops what is under way when it is left."""

    @abc.abstractmethod
    def submit(self, stage: Stage) -> "Future[float]":
        """Begin a stage; the future has the seconds that it took, or the error with which it ended."""

    @abc.abstractmethod
    def show(self) -> None:
        """Show what stages under way have reported by now."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stop what is under way."""

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def default_workers(stages: Sequence[Stage]) -> int:
    """Return how many stages may run side by side: one where a GPU is used, else one for each free core.

    Fewer where the machine has not 2 GiB of memory left for each.
    """
    if any(_may_use_gpu(stage) for stage in stages):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, free_memory() // MEMORY))


def _may_use_gpu(stage: Stage) -> bool:
    """Return whether a stage runs on a GPU, or uses what was trained on one, where it then runs as well."""
    training = getattr(stage, "training", None)
    accelerator = "cpu" if training is None else str((training.trainer or {}).get("accelerator", "auto"))
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if accelerator not in ("cpu", "auto") or (accelerator == "auto" and has_gpu):
        return True
    return any(map(_may_use_gpu, stage.inputs))


def make_executor(stages: Sequence[Stage], workers: int, display: StudyDisplay) -> Executor:
    """Return who runs the stages.

    Args:
        stages: Those left to do.
        workers: How many may run at a time.
        display: Shows how far they are.
    """
    workers = min(workers, len(stages))
    return WorkerProcesses(stages, workers, display) if workers > 1 else ThisProcess(display)


@dataclass(frozen=True)
class Computing:
    """PyTorch's switches that change the last bits of a result: each stage finds the same, whoever ran before it."""

    deterministic: bool
    warn_only: bool
    precision: str
    benchmark: bool

    @classmethod
    def of_this_process(cls) -> "Computing":
        """Return how they are set."""
        return cls(
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark,
        )

    def set(self) -> None:
        """Set them so."""
        torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        torch.set_float32_matmul_precision(self.precision)
        torch.backends.cudnn.benchmark = self.benchmark

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Compute a stage: on one thread, for that gives the same bits on every machine, from the same random state."""
        threads, before = torch.get_num_threads(), Computing.of_this_process()
        torch.set_num_threads(1)
        self.set()
        pl.seed_everything(0, verbose=False)
        try:
            yield
        finally:
            before.set()
            torch.set_num_threads(threads)


class ThisProcess(Executor):
    """Runs one stage at a time, here.

    Args:
        display: Shows how far it is.
    """

    def __init__(self, display: StudyDisplay) -> None:
        self._display = display
        self._computing = Computing.of_this_process()

    def submit(self, stage: Stage) -> "Future[float]":
        """Run the stage."""
        future: Future[float] = Future()
        with self._computing.applied():
            future.set_result(stage.run(self._display))
        return future

    def show(self) -> None:
        """Show nothing: the stage has done so."""

    def close(self) -> None:
        """Do nothing: nothing is under way."""


class WorkerProcesses(Executor):
    """Runs stages in processes of this machine, which end with this one, however it ends.

    Args:
        stages: All that will be submitted.
        workers: Number of processes.
        display: Shows how far they are.
    """

    def __init__(self, stages: Sequence[Stage], workers: int, display: StudyDisplay) -> None:
        self._numbers = {id(stage): number for number, stage in enumerate(stages)}
        self._display = display
        self._cache = stages[0].cache
        self._bars: dict[int, TaskID] = {}
        self._not_ours = set(multiprocessing.active_children())
        self._futures: list[Future[float]] = []
        context = multiprocessing.get_context("spawn")
        self._reports: SimpleQueue[Any] = context.SimpleQueue()
        with contextlib.ExitStack() as stack:
            stack.enter_context(_one_thread_in_processes())
            plan = stack.enter_context(self._cache.aside()) / "stages.pickle"
            plan.write_bytes(pickle.dumps((list(stages), known_code())))
            arguments = (plan, self._reports, Computing.of_this_process())
            self._pool = ProcessPoolExecutor(workers, context, _begin, arguments)
            self._left = stack.pop_all()

    def submit(self, stage: Stage) -> "Future[float]":
        """Hand the stage to a process."""
        outcome: Future[float] = Future()

        def pass_on(future: "Future[float]") -> None:
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                error = CatwalkError(
                    f"{stage.description}: a process of the study was ended from outside, as the system does where "
                    "memory is short; run the same command again, with fewer workers where memory is short"
                )
            if error is None:
                outcome.set_result(future.result())
            else:
                outcome.set_exception(error)

        future = self._pool.submit(_run, self._numbers[id(stage)])
        self._futures = [*(each for each in self._futures if not each.done()), future]
        future.add_done_callback(pass_on)
        return outcome

    def show(self) -> None:
        """Show what they have reported."""
        while not self._reports.empty():
            number, what, *values = self._reports.get()
            getattr(self, f"_show_{what}")(number, *values)

    def _show_begin(self, number: int, description: str) -> None:
        self._bars[number] = self._display.begin(description)

    def _show_update(self, number: int, done: int, total: int | None, info: str) -> None:
        self._display.move(self._bars[number], done, total, info)

    def _show_end(self, number: int) -> None:
        self._display.end(self._bars.pop(number))

    def _show_done(self, number: int, description: str, outcome: str, seconds: float) -> None:
        self._display.done(description, outcome, seconds)

    def _show_tell(self, number: int, line: str) -> None:
        self._cache.tell(line)

    def _show_write(self, number: int, stream: str, text: str) -> None:
        print(text, end="", file=getattr(sys, stream))

    def close(self) -> None:
        """End the processes: what they are at is given up."""
        is_busy = not all(future.done() for future in self._futures)
        processes = [child for child in multiprocessing.active_children() if child not in self._not_ours]
        self._pool.shutdown(wait=not is_busy, cancel_futures=True)
        if is_busy:
            _end(processes)
        self._left.close()


def _end(processes: Sequence[BaseProcess]) -> None:
    """Ask processes to end, and make them after a while."""
    for process in processes:
        process.terminate()
    latest = time.monotonic() + GRACE
    for process in processes:
        process.join(max(0.0, latest - time.monotonic()))
        process.kill()


@contextlib.contextmanager
def _one_thread_in_processes() -> Iterator[None]:
    """Let processes that are started meanwhile compute on one thread, in libraries that ask the environment, too."""
    saved = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# What follows runs in the processes.


class _Reports(StudyProgress):
    """Sends what a stage tells to the process that shows it.

    Args:
        queue: Leads there.

    Attributes:
        number: Which stage of the plan.
    """

    def __init__(self, queue: "SimpleQueue[Any]") -> None:
        self._queue = queue
        self._reported = 0.0
        self.number = -1

    def send(self, what: str, *values: Any) -> None:
        """Send something."""
        self._queue.put((self.number, what, *values))

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


class _Stream(io.TextIOBase):
    """Sends what is printed to the process that shows it, where it does not run into the bars.

    Args:
        reports: Sends it.
        name: Of the stream in :mod:`sys`.
    """

    def __init__(self, reports: _Reports, name: str) -> None:
        self._reports = reports
        self._name = name

    def write(self, text: str) -> int:
        """Send a text."""
        for first in range(0, len(text), LONGEST):
            self._reports.send("write", self._name, text[first : first + LONGEST])
        return len(text)


@dataclass
class _Worker:
    """What a process knows of the study.

    Attributes:
        stages: All that it may be asked for.
        reports: Whom it tells.
        computing: How it computes.
        changed: A module that was written after the study was planned, before it was imported here.
    """

    stages: list[Stage]
    reports: _Reports
    computing: Computing
    changed: str | None


_worker: _Worker | None = None


def _begin(plan: Path, queue: "SimpleQueue[Any]", computing: Computing) -> None:
    """Make a process ready for stages."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C, which all processes get, the first one thinks
    threading.Thread(target=_end_with_parent, name="catwalk parent", daemon=True).start()
    screen_text.protect()
    reports = _Reports(queue)
    sys.stdout, sys.stderr = _Stream(reports, "stdout"), _Stream(reports, "stderr")
    known_notices.hide()
    torch.set_num_threads(1)
    stages, code = pickle.loads(plan.read_bytes())
    for name in dict.fromkeys(name for stage in stages for name in stage.modules):
        importlib.import_module(name)
    changed = assume_code(code)
    stages[0].cache.tell = lambda line: reports.send("tell", line[:LONGEST])
    _worker = _Worker(stages, reports, computing, changed)


def _end_with_parent() -> None:
    """End the process when the one that started it has ended, which may have been killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(number: int) -> float:
    """Run a stage."""
    assert _worker is not None
    _worker.reports.number = number
    if _worker.changed is not None:
        raise CatwalkError(
            f"the code of {_worker.changed} was changed while the study began; run the same command again"
        )
    try:
        with sigterm_raises() as sigterm_came:
            try:
                with _worker.computing.applied():
                    return _worker.stages[number].run(_worker.reports)
            finally:
                if sigterm_came():  # all is tidied up by now
                    os._exit(128 + signal.SIGTERM)
    except Exception as error:
        raise _portable(error)  # noqa: B904 - the same error


def _portable(error: Exception) -> Exception:
    """Return an error that another process can raise: the same, unless it cannot be pickled and read again."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        kind = CatwalkError if isinstance(error, CatwalkError) else RuntimeError
        return kind(str(error) if kind is CatwalkError else "".join(traceback.format_exception(error)))
    return error
