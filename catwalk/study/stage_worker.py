"""A process that runs stages of a study for another, and computes as that one does."""

import contextlib
import copy
import importlib
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pytorch_lightning as pl
import torch

from catwalk.configuration import notices as known_notices
from catwalk.errors import CatwalkError
from catwalk.results.keys import assume_code, known_code
from catwalk.study.reports import Report, ReportedStream, Reports
from catwalk.study.stages.recommender import RecommenderStage, train_together
from catwalk.study.stages.stage import Stage
from catwalk.terminal import screen_text
from catwalk.terminal.stopping import sigterm_raises

Result = TypeVar("Result")

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Environment variables that say on how many threads a process computes."""

CHANGED = "was changed while the study began; run the same command again"
"""What is said of a module that another process of the same machine finds to read otherwise."""


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


def packed(stages: Sequence[Stage]) -> bytes:
    """Return all that a :class:`StageWorker` must know: the stages, their code, and how this process computes."""
    return pickle.dumps((list(stages), known_code(), Computing.of_this_process()))


class StageWorker:
    """Runs stages of a study in this process, which has no screen of its own, for another that shows what they tell.

    What is printed meanwhile goes there as well.

    Args:
        plan: What :func:`packed` returned there.
        post: Brings a report there.
        changed: What to say of a module of ours that reads otherwise here.

    Attributes:
        stages: All that it may be asked for.
    """

    def __init__(self, plan: bytes, post: Callable[[Report], object], changed: str = CHANGED) -> None:
        screen_text.protect()
        self._reports = Reports(post)
        self._streams = [ReportedStream(self._reports, name) for name in ("stdout", "stderr")]
        known_notices.hide()
        torch.set_num_threads(1)
        self.stages: list[Stage]
        with self._heard():
            self.stages, code, self._computing = pickle.loads(plan)
            for name in dict.fromkeys(name for stage in self.stages for name in stage.modules):
                importlib.import_module(name)
            module = assume_code(code)
        self._refusal = None if module is None else f"the code of {module} {changed}"
        self.stages[0].cache.tell = self._reports.tell

    @contextlib.contextmanager
    def _heard(self) -> Iterator[None]:
        """Send what is printed to where the study is shown."""
        out, err = self._streams
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield

    def run(self, number: int, before: Callable[[Stage], None] | None = None) -> float:
        """Run a stage.

        Args:
            number: Which one.
            before: Called with it first.

        Returns:
            The seconds that it took whoever made it.

        Raises:
            CatwalkError: If code of ours reads otherwise here.
            Exception: What the stage raises.
        """
        stage, reports = self.stages[number], self._reports
        reports.number = number

        def run() -> float:
            if before is not None:
                before(stage)
            return stage.run(reports)

        return self._alone(run)

    def run_together(self, numbers: Sequence[int]) -> list[float]:
        """Train recommenders together.

        Args:
            numbers: Which.

        Returns:
            The seconds that each took.

        Raises:
            CatwalkError: If code of ours reads otherwise here.
            Exception: What one of them raises.
        """
        together, own = [], []
        for number in numbers:
            stage, reports = self.stages[number], copy.copy(self._reports)
            assert isinstance(stage, RecommenderStage)
            reports.number = number
            together.append(stage)
            own.append(reports)
        return self._alone(lambda: train_together(together, own))

    def _alone(self, run: Callable[[], Result]) -> Result:
        """Run something as every stage is run, whoever ran before."""
        if self._refusal is not None:
            raise CatwalkError(self._refusal)
        try:
            with self._heard(), sigterm_raises() as sigterm_came:
                try:
                    with self._computing.applied():
                        return run()
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
