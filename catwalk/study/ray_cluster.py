"""Runs the stages of a study on a Ray cluster: each is a task, which Ray puts where a processor or a GPU is free."""

import contextlib
import os
import platform
import secrets
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from catwalk.configuration.names import OUR_PACKAGES
from catwalk.errors import CatwalkError
from catwalk.results.store import Tell
from catwalk.study.progress import StudyDisplay
from catwalk.study.ray_connection import ANSWER, LOCAL, connected, load_ray
from catwalk.study.reports import Report, ReportedStages
from catwalk.study.stage_worker import THREADS, StageWorker, packed
from catwalk.study.stages.stage import Stage
from catwalk.study.workers import Backend, Executor, check_workers, free_cores, may_use_gpu
from catwalk.terminal.stopping import GRACE

LOSSES = 3
"""How often a stage is run again whose process or machine was lost."""

PATIENCE = 60.0
"""Seconds until a folder that machines share shows on one what another has written: NFS's own limit by default."""

PAUSE = 0.2
"""Seconds between two looks for a result."""


class RayCluster(Backend):
    """A Ray cluster, or one that begins on this machine.

    Args:
        address: ``local`` begins one here, which ends with the study; ``auto`` finds the one that this machine is part
            of, ``HOST:PORT`` is that by its address, and ``ray://HOST:10001`` one that this machine is not part of. By
            default what the environment variable ``RAY_ADDRESS`` says, or else ``local``.
        workers: How many stages run side by side; by default as many as the cluster has processors.
        tell: Called with a line about what the study waits for, or runs again.

    Raises:
        CatwalkError: If Ray is not installed, or there can be no such address or number of workers.
    """

    def __init__(self, address: str | None, workers: int | None, tell: Tell) -> None:
        check_workers(workers)
        load_ray()
        self._address = address or os.environ.get("RAY_ADDRESS") or LOCAL
        self._workers = workers
        self._tell = tell
        self._left = contextlib.ExitStack()
        self._is_connected = False

    def at_once(self, stages: Sequence[Stage]) -> int:
        """Return what the user says, or how many processors there are.

        Raises:
            CatwalkError: If the cluster does not answer.
        """
        if not stages:
            return 1
        if self._address == LOCAL:
            processors = self._workers or free_cores()
        else:
            self._connect()
            processors = self._workers or int(load_ray().cluster_resources().get("CPU", 0))
        return max(1, min(len(stages), processors))

    def executor(self, stages: Sequence[Stage], at_once: int, display: StudyDisplay) -> Executor:
        """Return who hands the stages to Ray.

        Raises:
            CatwalkError: If the cluster does not answer.
        """
        self._connect(at_once)
        there = load_ray().cluster_resources()
        if not there.get("CPU"):
            self._tell(f"no machine of the Ray cluster at {self._address} has a processor yet: stages wait for one")
        if not there.get("GPU") and any(map(may_use_gpu, stages)):
            self._tell(f"no machine of the Ray cluster at {self._address} has a GPU: stages that use one wait for it")
        return RayTasks(stages, display, self._tell)

    @property
    def words(self) -> str:
        """The address."""
        return "on a Ray of this machine" if self._address == LOCAL else f"on the Ray cluster at {self._address}"

    def collect(self, stages: Sequence[Stage]) -> None:
        """Bring the results here, or wait until the shared folder shows them."""
        bring(stages)

    def _connect(self, processors: int | None = None) -> None:
        if not self._is_connected:
            self._left.enter_context(connected(self._address, processors))
            self._is_connected = True

    def close(self) -> None:
        """Leave the cluster, and end it if it began here."""
        self._is_connected = False
        self._left.close()


@dataclass
class _Errand:
    """A stage that was handed to Ray.

    Attributes:
        number: Which stage of the plan.
        stage: The stage.
        outcome: What the study waits for.
        losses: How often the process or the machine was lost that ran it.
        cause: What Ray says of the last loss.
    """

    number: int
    stage: Stage
    outcome: "Future[float]" = field(default_factory=Future)
    losses: int = 0
    cause: str = ""


class RayTasks(Executor):
    """Hands stages to Ray, which puts each where a processor, and a GPU where it uses one, is free.

    A stage whose process or machine is lost is run again, up to three times; what a stage raises ends the study.

    Args:
        stages: All that will be submitted.
        display: Shows how far they are.
        tell: Called with a line about each that is run again.
    """

    def __init__(self, stages: Sequence[Stage], display: StudyDisplay, tell: Tell) -> None:
        self._ray = load_ray()
        self._numbers = {id(stage): number for number, stage in enumerate(stages)}
        self._screen = ReportedStages(display, stages[0].cache.tell)
        self._tell = tell
        self._study = _about_this_study()
        self._plan = self._ray.put(packed(stages))
        self._box = _report_box(self._ray)
        self._on_cpu, self._on_gpu = _tasks(self._ray)
        self._refs: dict[int, Any] = {}
        self._lost: deque[_Errand] = deque()

    def submit(self, stage: Stage) -> "Future[float]":
        """Hand the stage to Ray."""
        errand = _Errand(self._numbers[id(stage)], stage)
        self._begin(errand)
        return errand.outcome

    def _begin(self, errand: _Errand) -> None:
        task = self._on_gpu if may_use_gpu(errand.stage) else self._on_cpu
        # It becomes the name of a process, which the system cuts after 15 bytes, whatever character that hits.
        name = errand.stage.description.encode("ascii", "replace").decode()
        ref = task.options(name=name).remote(errand.number, self._study, [self._plan], self._box)
        self._refs[errand.number] = ref
        ref.future().add_done_callback(partial(self._arrived, errand))

    def _arrived(self, errand: _Errand, future: "Future[float]") -> None:
        """Take what became of a stage, in a thread of Ray's, in which nothing may be asked of it."""
        known, error = self._ray.exceptions, future.exception()
        if error is None:
            errand.outcome.set_result(future.result())
        elif isinstance(error, known.RayTaskError):
            errand.outcome.set_exception(_own_error(error))
        elif isinstance(error, _losses(known)):
            errand.losses += 1
            errand.cause = _in_short(error)
            if errand.losses <= LOSSES:
                self._lost.append(errand)
            else:
                errand.outcome.set_exception(
                    CatwalkError(
                        f"{errand.stage.description}: {errand.losses} processes of the cluster that ran it were lost, "
                        f"the last because {errand.cause}; run the same command again, on machines with more memory "
                        "where that is short"
                    )
                )
        else:
            errand.outcome.set_exception(CatwalkError(f"{errand.stage.description}: Ray: {_in_short(error)}"))

    def show(self) -> None:
        """Show what has been reported, and run again what was lost."""
        for report in self._reports():
            self._screen.show(report)
        while self._lost:
            errand = self._lost.popleft()
            self._screen.end(errand.number)
            self._tell(
                f"{errand.stage.description}: the process that ran it was lost ({errand.cause}); "
                f"it is run again, {errand.losses} of {LOSSES} times"
            )
            self._begin(errand)

    def _reports(self) -> list[Report]:
        """Return what has been reported since the last time."""
        known = self._ray.exceptions
        try:
            return list(self._ray.get(self._box.take.remote(), timeout=ANSWER))
        except (known.RayActorError, known.GetTimeoutError):  # it begins again on another machine, or is busy
            return []
        except Exception as error:
            raise CatwalkError(
                f"executor: the Ray cluster no longer answers: {_in_short(error)}; the same command goes on with what "
                "is left to do"
            ) from error

    def close(self) -> None:
        """End the tasks that are left: what they are at is given up."""
        busy = [ref for ref in self._refs.values() if not self._is_done(ref)]
        for ref in busy:
            self._ray.cancel(ref)  # as Ctrl-C, so that they tidy up
        if busy:
            _, left = self._ray.wait(busy, num_returns=len(busy), timeout=GRACE)
            for ref in left:
                self._ray.cancel(ref, force=True)
        self._ray.kill(self._box)

    def _is_done(self, ref: Any) -> bool:
        return bool(self._ray.wait([ref], timeout=0)[0])


def _losses(known: Any) -> tuple[type[Exception], ...]:
    """Return the errors by which Ray says that a process or a machine was lost, of its module of exceptions."""
    return known.WorkerCrashedError, known.OutOfMemoryError, known.NodeDiedError, known.LocalRayletDiedError


def _own_error(error: Any) -> BaseException:
    """Return what a stage raised, with the traceback of its process behind it, of what Ray makes of it."""
    cause = error.cause
    if isinstance(cause, ModuleNotFoundError) and (cause.name or "").partition(".")[0] in OUR_PACKAGES:
        return CatwalkError(
            f"executor: a machine of the Ray cluster has no {cause.name}; install Catwalk there as it is here, or "
            "share its folder under the same path"
        )
    if not isinstance(cause, BaseException):
        return CatwalkError(f"Ray: {_in_short(error)}")
    cause.__cause__ = RuntimeError(str(error))
    return cause


def _in_short(error: BaseException) -> str:
    """Return the first sentence of what Ray says."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.partition(". ")[0].rstrip(".")


def _about_this_study() -> dict[str, Any]:
    """Return what a process of the cluster must know before it can read the stages, as plain values.

    They are the study's own name, the working folder, where Python looks for modules, and the version of PyTorch.
    """
    folder = os.getcwd()
    path = [os.path.join(folder, entry) for entry in sys.path]  # "" is the working folder
    return {"name": secrets.token_hex(8), "folder": folder, "path": path, "torch": torch.__version__}


def _tasks(ray: Any) -> tuple[Any, Any]:
    """Return what Ray runs for a stage that uses no GPU, and for one that does."""

    def run_stage(number: int, study: dict[str, Any], plan: list[Any], box: Any) -> float:
        """Pickled by value, so that our packages are looked for where the study found them."""
        import sys

        sys.path[:] = [*study["path"], *(entry for entry in sys.path if entry not in study["path"])]
        from catwalk.study.ray_cluster import run_here

        return run_here(number, study, plan, box)

    threads = dict.fromkeys(THREADS, "1")
    # A process that began without a GPU never sees one, so the two kinds share none; Ray ends one that has used a GPU,
    # whose memory it would keep.
    without = ray.remote(num_cpus=1, max_retries=0, runtime_env={"env_vars": {**threads, "CUDA_VISIBLE_DEVICES": ""}})
    with_gpu = ray.remote(num_cpus=1, num_gpus=1, max_calls=1, max_retries=0, runtime_env={"env_vars": threads})
    return without(run_stage), with_gpu(run_stage)


def _report_box(ray: Any) -> Any:
    """Return an actor that keeps reports until they are taken, on the machine where the study began if it can."""

    class ReportBox:
        """Pickled by value, so that it needs none of our packages."""

        def __init__(self) -> None:
            self._reports: list[Any] = []

        def put(self, report: Any) -> None:
            self._reports.append(report)

        def take(self) -> list[Any]:
            reports, self._reports = self._reports, []
            return reports

    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=True
    )
    return ray.remote(ReportBox).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()


def bring(stages: Sequence[Stage], patience: float = PATIENCE) -> None:
    """Have results here that other machines have made: from the store's URL, or when the shared folder shows them.

    Args:
        stages: Stages that have run.
        patience: Seconds to wait for each; whoever needs one that is not there then says so.
    """
    seen: set[tuple[str, str]] = set()
    pending = list(reversed(stages))
    while pending:  # inputs first: of some stages nobody knows the place before
        stage = pending[-1]
        waiting = [each for each in stage.inputs if (each.kind, each.key) not in seen]
        if waiting:
            pending.extend(waiting)
            continue
        pending.pop()
        if (stage.kind, stage.key) not in seen:
            seen.add((stage.kind, stage.key))
            _await(stage, patience)


def _await(stage: Stage, patience: float) -> None:
    latest = time.monotonic() + patience
    while not stage.is_done and time.monotonic() < latest:
        with contextlib.suppress(OSError):
            os.listdir(stage.cache.path(stage.kind, stage.key).parent)  # NFS asks its server anew for it
        time.sleep(PAUSE)


# What follows runs in the cluster.


_worker: tuple[str, StageWorker] | None = None


def run_here(number: int, study: Mapping[str, Any], plan: list[Any], box: Any) -> float:
    """Run a stage in this process of the cluster.

    Args:
        number: Which one.
        study: Name, working folder and version of PyTorch of the study.
        plan: A reference to its stages, which are read once.
        box: Takes what is to be shown.

    Returns:
        The seconds that it took.

    Raises:
        CatwalkError: If this machine is not as the one on which the study began.
        Exception: What the stage raises.
    """
    global _worker
    ray = load_ray()

    def post(report: Report) -> None:
        with contextlib.suppress(Exception):  # what is only shown
            box.put.remote(report)

    if _worker is None or _worker[0] != study["name"]:
        machine = platform.node()
        if not os.path.isdir(study["folder"]):
            raise CatwalkError(
                f"executor: the machine {machine} of the Ray cluster has no folder {study['folder']}, in which the "
                "study began; share it, or put the dataset there on all machines, and give the results a --store"
            )
        os.chdir(study["folder"])
        if study["torch"] != torch.__version__:
            raise CatwalkError(
                f"executor: the machine {machine} has PyTorch {torch.__version__}, and the study began with "
                f"{study['torch']}; install the same on all machines of the cluster"
            )
        changed = f"reads otherwise on the machine {machine}; install the same on all machines of the cluster"
        _worker = study["name"], StageWorker(ray.get(plan[0]), post, changed)
    _worker[1].stages[0].cache.remove_leftovers()  # of processes that were lost here
    try:
        return _worker[1].run(number, lambda stage: bring(stage.inputs))
    finally:
        with contextlib.suppress(Exception):
            ray.get(box.put.remote((number, "end")), timeout=PATIENCE)  # all before it has arrived
