"""Who runs a stage: this process, or one of several that run side by side on this machine."""

import abc
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch

from catwalk.errors import CatwalkError
from catwalk.limits import check_count, free_memory
from catwalk.study.progress import StudyDisplay
from catwalk.study.reports import ReportedStages
from catwalk.study.stage_worker import THREADS, Computing, StageWorker, packed
from catwalk.study.stages.recommender import RecommenderStage, train_together
from catwalk.study.stages.stage import Stage
from catwalk.terminal.stopping import GRACE

MEMORY = 2 * 2**30
"""Bytes of memory that a process needs which trains a small network: half a GiB of it holds PyTorch and Lightning."""


class Executor(abc.ABC):
    """Runs stages of a study whose inputs are there; a context, which stops what is under way when it is left."""

    @abc.abstractmethod
    def submit(self, stage: Stage) -> "Future[float]":
        """Begin a stage; the future has the seconds that it took, or the error with which it ended."""

    def submit_together(self, stages: Sequence[RecommenderStage]) -> "Future[list[float]]":
        """Begin recommenders that are trained together; the future has the seconds that each took, or an error."""
        raise NotImplementedError(f"{type(self).__name__} trains each recommender alone")

    trains_together = False
    """Whether recommenders may be trained together."""

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


class Backend(abc.ABC):
    """Where the stages of a study run; a context, which leaves the machines when it is left."""

    @abc.abstractmethod
    def at_once(self, stages: Sequence[Stage]) -> int:
        """Return how many of the stages that are left to do may run side by side, at least 1.

        Raises:
            CatwalkError: If the machines cannot be asked.
        """

    @abc.abstractmethod
    def executor(self, stages: Sequence[Stage], at_once: int, display: StudyDisplay) -> Executor:
        """Return who runs the stages.

        Args:
            stages: Those left to do.
            at_once: How many of them run side by side.
            display: Shows how far they are.
        """

    @property
    @abc.abstractmethod
    def words(self) -> str:
        """Where that is, such as ``on this machine``."""

    @abc.abstractmethod
    def collect(self, stages: Sequence[Stage]) -> None:
        """Have the results of stages that have run in the store of this machine; inputs come first."""

    @abc.abstractmethod
    def close(self) -> None:
        """Leave the machines."""

    def __enter__(self) -> "Backend":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ThisMachine(Backend):
    """This machine: one stage runs in this process, several in processes of their own.

    Args:
        workers: How many run side by side; see :func:`default_workers`.

    Raises:
        CatwalkError: If that is below 1.
    """

    words = "on this machine"

    def __init__(self, workers: int | None = None) -> None:
        check_workers(workers)
        self._workers = workers

    def at_once(self, stages: Sequence[Stage]) -> int:
        """Return what the user says, or what the machine is good for."""
        return max(1, min(len(stages), self._workers or default_workers(stages)))

    def executor(self, stages: Sequence[Stage], at_once: int, display: StudyDisplay) -> Executor:
        """Return this process for one at a time, or several."""
        return WorkerProcesses(stages, at_once, display) if at_once > 1 else ThisProcess(display)

    def collect(self, stages: Sequence[Stage]) -> None:
        """Do nothing: they are here."""

    def close(self) -> None:
        """Do nothing."""


def check_workers(workers: int | None) -> None:
    """Raise a CatwalkError if a number of workers is below 1."""
    if workers is not None:
        check_count(workers, "workers")


def default_workers(stages: Sequence[Stage]) -> int:
    """Return how many stages may run side by side: one where a GPU is used, else one for each free core.

    Fewer where the machine has not 2 GiB of memory left for each.
    """
    return 1 if any(map(may_use_gpu, stages)) else free_cores()


def free_cores() -> int:
    """Return how many cores this process may use for which there are 2 GiB of memory each, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, free_memory() // MEMORY))


def may_use_gpu(stage: Stage) -> bool:
    """Return whether a stage runs on a GPU, or uses what was trained on one, where it then runs as well."""
    training = getattr(stage, "training", None)
    accelerator = "cpu" if training is None else str((training.trainer or {}).get("accelerator", "auto"))
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if accelerator not in ("cpu", "auto") or (accelerator == "auto" and has_gpu):
        return True
    return any(map(may_use_gpu, stage.inputs))


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

    trains_together = True

    def submit_together(self, stages: Sequence[RecommenderStage]) -> "Future[list[float]]":
        """Train the recommenders."""
        future: Future[list[float]] = Future()
        with self._computing.applied():
            future.set_result(train_together(stages, [self._display.beside() for _ in stages]))
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
        cache = stages[0].cache
        self._screen = ReportedStages(display, cache.tell)
        self._not_ours = set(multiprocessing.active_children())
        self._futures: list[Future[Any]] = []
        context = multiprocessing.get_context("spawn")
        self._reports: SimpleQueue[Any] = context.SimpleQueue()
        with contextlib.ExitStack() as stack:
            stack.enter_context(_one_thread_in_processes())
            plan = stack.enter_context(cache.aside()) / "stages.pickle"
            plan.write_bytes(packed(stages))
            self._pool = ProcessPoolExecutor(workers, context, _begin, (plan, self._reports))
            self._left = stack.pop_all()

    def submit(self, stage: Stage) -> "Future[float]":
        """Hand the stage to a process."""
        return self._submit(stage, _run, self._numbers[id(stage)])

    trains_together = True

    def submit_together(self, stages: Sequence[RecommenderStage]) -> "Future[list[float]]":
        """Hand the recommenders to a process."""
        return self._submit(stages[0], _run_together, [self._numbers[id(stage)] for stage in stages])

    def _submit(self, stage: Stage, run: Callable[..., Any], what: Any) -> "Future[Any]":
        outcome: Future[Any] = Future()

        def pass_on(future: "Future[Any]") -> None:
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

        future = self._pool.submit(run, what)
        self._futures = [*(each for each in self._futures if not each.done()), future]
        future.add_done_callback(pass_on)
        return outcome

    def show(self) -> None:
        """Show what they have reported."""
        while not self._reports.empty():
            self._screen.show(self._reports.get())

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


_worker: StageWorker | None = None


def _begin(plan: Path, queue: "SimpleQueue[Any]") -> None:
    """Make a process ready for stages."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C, which all processes get, the first one thinks
    threading.Thread(target=_end_with_parent, name="catwalk parent", daemon=True).start()
    _worker = StageWorker(plan.read_bytes(), queue.put)


def _end_with_parent() -> None:
    """End the process when the one that started it has ended, which may have been killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(number: int) -> float:
    """Run a stage."""
    assert _worker is not None
    return _worker.run(number)


def _run_together(numbers: list[int]) -> list[float]:
    """Train recommenders together."""
    assert _worker is not None
    return _worker.run_together(numbers)
