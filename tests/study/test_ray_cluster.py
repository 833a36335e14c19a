"""Stages on a Ray cluster: what is run again and what is not, and one line where there is no cluster.

Ray itself is in the tests of ``test_studies_on_ray.py``, which take a minute; here a small stand-in has its place.
"""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from test_executor import Step

from catwalk.errors import CatwalkError
from catwalk.results.store import StageCache
from catwalk.study.durations import Durations
from catwalk.study.executor import Schedule, backend_of, run_stages
from catwalk.study.progress import StudyDisplay
from catwalk.study.ray_cluster import LOSSES, RayCluster, RayTasks, bring
from catwalk.study.stages.stage import Stage


class RayError(Exception):
    """What Ray raises, as are those below."""


class RayTaskError(RayError):
    def __init__(self, cause: BaseException) -> None:
        super().__init__("ray::stage() (pid=1)\n  in perturb")
        self.cause = cause


class WorkerCrashedError(RayError):
    pass


class Ref(Future):  # type: ignore[type-arg]
    """A reference to what a task returns."""

    def future(self) -> "Future[Any]":
        return self


class StandIn:
    """Ray as far as it is used, whose tasks end as it is told, in order: seconds, or an error."""

    def __init__(self, *ends: float | Exception) -> None:
        self.ends = list(ends)
        self.begun: list[tuple[str, bool]] = []
        self.cancelled: list[tuple[Any, bool]] = []
        names = ("OutOfMemoryError", "NodeDiedError", "LocalRayletDiedError", "RayActorError", "GetTimeoutError")
        self.exceptions = SimpleNamespace(
            RayTaskError=RayTaskError,
            WorkerCrashedError=WorkerCrashedError,
            **{name: type(name, (RayError,), {}) for name in names},
        )
        self.util = SimpleNamespace(
            scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=lambda *_, **__: None)
        )

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "here")

    def put(self, value: Any) -> Any:
        return value

    def get(self, ref: Ref, timeout: float | None = None) -> Any:
        return ref.result(timeout)

    def remote(self, what: Any = None, **options: Any) -> Any:
        if isinstance(what, type):
            actor = what()
            take = SimpleNamespace(remote=lambda: ended(actor.take()))
            return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: SimpleNamespace(take=take)))
        uses_gpu = options.get("num_gpus", 0) == 1

        def begin(name: str) -> Ref:
            self.begun.append((name, uses_gpu))
            return ended(self.ends.pop(0)) if self.ends else Ref()

        return lambda function: SimpleNamespace(options=lambda name: SimpleNamespace(remote=lambda *_: begin(name)))

    def wait(self, refs: list[Ref], num_returns: int = 1, timeout: float | None = None) -> Any:
        done = [ref for ref in refs if ref.done()]
        return done, [ref for ref in refs if ref not in done]

    def cancel(self, ref: Ref, force: bool = False) -> None:
        self.cancelled.append((ref, force))

    def kill(self, actor: Any) -> None:
        """Do nothing."""


def ended(end: Any) -> Ref:
    ref = Ref()
    if isinstance(end, Exception):
        ref.set_exception(end)
    else:
        ref.set_result(end)
    return ref


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., StandIn]:
    def make(*ends: float | Exception) -> StandIn:
        ray = StandIn(*ends)
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray

    return make


@pytest.fixture
def tasks(tmp_path: Path, told: list[str]) -> Iterator[Callable[..., RayTasks]]:
    """Return a function that hands stages to Ray."""
    with StudyDisplay(Console(quiet=True), 1) as display:
        yield lambda *stages: RayTasks(stages, display, told.append)


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return Step(StageCache(tmp_path / "cache"), "classifier", "CNN T")


def run(tasks: RayTasks, *steps: Stage) -> None:
    run_stages(Schedule(steps, Durations(steps[0].cache, steps), 2), tasks)


def test_a_stage_whose_process_is_lost_is_run_again(stand_in, tasks, step: Step, told: list[str]) -> None:
    ray = stand_in(WorkerCrashedError("The worker died. More of it."), WorkerCrashedError("Again."), 2.0)
    run(tasks(step), step)
    assert ray.begun == [("CNN T", False)] * 3
    assert told == [
        "CNN T: the process that ran it was lost (The worker died); it is run again, 1 of 3 times",
        "CNN T: the process that ran it was lost (Again); it is run again, 2 of 3 times",
    ]


def test_not_more_often_than_three_times(stand_in, tasks, step: Step, told: list[str]) -> None:
    ray = stand_in(*[WorkerCrashedError("It died.")] * 10)
    with pytest.raises(CatwalkError, match=r"^CNN T: 4 processes .* were lost, the last because It died"):
        run(tasks(step), step)
    assert len(ray.begun) == 1 + LOSSES
    assert len(told) == LOSSES


def test_what_a_stage_raises_is_raised_and_not_run_again(stand_in, tasks, step: Step, told: list[str]) -> None:
    ray = stand_in(RayTaskError(ValueError("broken")))
    with pytest.raises(ValueError, match=r"^broken$") as caught:
        run(tasks(step), step)
    assert "in perturb" in str(caught.value.__cause__)
    assert (len(ray.begun), told) == (1, [])


def test_a_machine_without_our_packages_is_told_in_a_line(stand_in, tasks, step: Step) -> None:
    stand_in(RayTaskError(ModuleNotFoundError("No module named 'catwalk'", name="catwalk")))
    with pytest.raises(CatwalkError, match=r"^executor: a machine .* has no catwalk; install"):
        run(tasks(step), step)


def test_other_errors_of_ray_are_told_in_a_line(stand_in, tasks, step: Step) -> None:
    stand_in(RayError("Failed to set up\nthe environment"))
    with pytest.raises(CatwalkError, match=r"^CNN T: Ray: Failed to set up the environment$"):
        run(tasks(step), step)


def test_what_is_under_way_is_stopped_gently_and_then_at_once(stand_in, tasks, step: Step) -> None:
    ray = stand_in()
    executor = tasks(step)
    executor.submit(step)
    executor.close()
    assert [force for _, force in ray.cancelled] == [False, True]


def test_a_stage_whose_training_uses_a_gpu_asks_for_one(stand_in, tasks, step: Step) -> None:
    ray = stand_in(1.0, 1.0, 1.0)
    trained = Step(step.cache, "classifier", "on a GPU")
    trained.training = SimpleNamespace(trainer={"accelerator": "gpu"})  # type: ignore[attr-defined]
    attack = Step(step.cache, "attack", "attack on it", trained)
    run(tasks(step, trained, attack), step, trained, attack)
    assert dict(ray.begun) == {"CNN T": False, "on a GPU": True, "attack on it": True}


def test_without_ray_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CatwalkError, match=r"^executor: .*pip install 'catwalk\[cluster\]'"):
        backend_of("ray", None, None, print)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:{closed}", r"^address: no Ray cluster answers at 127\.0\.0\.1:\d+: Connection refused"),
        ("ray://127.0.0.1:{closed}", r"^address: no Ray cluster answers at ray://127\.0\.0\.1:\d+: Connection refused"),
        ("somewhere", r"^address: must be local, auto, HOST:PORT or ray://HOST:PORT, got 'somewhere'"),
        ("host:70000", r"^address: must be local, .* got 'host:70000'"),
    ],
)
def test_an_address_that_nobody_answers_is_told_in_a_line(stand_in, step: Step, address: str, message: str) -> None:
    stand_in().is_initialized = lambda: False
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    with pytest.raises(CatwalkError, match=message) as caught:
        RayCluster(address.format(closed=closed), None, print).at_once([step])
    assert "\n" not in str(caught.value)


def test_as_many_stages_at_once_as_the_cluster_has_processors(
    stand_in, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = stand_in()
    ray.is_initialized = lambda: True  # by who called us
    ray.cluster_resources = lambda: {"CPU": 3.0}
    steps = [step] * 5
    with RayCluster("auto", None, print) as cluster:
        assert cluster.at_once(steps) == 3
        assert cluster.at_once(steps[:2]) == 2
        assert cluster.words == "on the Ray cluster at auto"
    with RayCluster("auto", 4, print) as cluster:
        assert cluster.at_once(steps) == 4
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert RayCluster(None, None, print).words == "on the Ray cluster at ray://head:10001"
    monkeypatch.delenv("RAY_ADDRESS")
    assert RayCluster(None, None, print).words == "on a Ray of this machine"


def test_results_of_other_machines_are_waited_for_inputs_first(tmp_path: Path) -> None:
    here, there = StageCache(tmp_path / "cache"), StageCache(tmp_path / "cache")

    def chain(cache: StageCache) -> list[Step]:
        first = Step(cache, "features", "first")
        second = Step(cache, "attack", "second", first)
        return [Step(cache, "recommender", "third", second, first), second, first]

    ours, theirs = chain(here), chain(there)

    def write() -> None:
        time.sleep(0.3)
        for step in reversed(theirs):
            there.write(step.kind, step.key, lambda folder: {"seconds": 1.0})

    assert not any(step.is_done for step in ours)
    writing = threading.Thread(target=write)
    writing.start()
    bring(ours[:1], patience=30)
    writing.join()
    assert all(step.is_done for step in ours)


def test_nobody_waits_for_ever(step: Step) -> None:
    bring([step], patience=0.1)
    assert not step.is_done
