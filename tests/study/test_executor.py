"""In which order stages run, how long they are expected to take, and that they compute alike whoever runs them."""

import json
import pickle
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from catwalk.errors import CatwalkError
from catwalk.results.store import StageCache
from catwalk.study.durations import Cost, Durations
from catwalk.study.executor import Schedule, backend_of, run_stages
from catwalk.study.progress import StudyProgress
from catwalk.study.stage_worker import Computing
from catwalk.study.stages.stage import Stage
from catwalk.study.workers import Executor, ThisMachine


class Step(Stage):
    """A stage that does nothing."""

    dataset = "Shop"

    def __init__(self, cache: StageCache, kind: str, name: str, *inputs: Stage) -> None:
        super().__init__(cache)
        self.kind, self.description = kind, name
        self.inputs, self.modules = inputs, ()
        self.settings = {"name": name, "inputs": [each.key for each in inputs]}

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        return {"random": torch.rand(1).item(), "threads": torch.get_num_threads()}

    @property
    def outcome(self) -> str:
        return "made"


class Recorded(Executor):
    """Ends the stages that it was given in the order in which they came, one at each look."""

    def __init__(self, workers: int) -> None:
        self.began: list[str] = []
        self.most = 0
        self._under_way: list[tuple[Future[float], Stage]] = []
        self._workers = workers

    def submit(self, stage: Stage) -> "Future[float]":
        future: Future[float] = Future()
        self.began.append(stage.description)
        self._under_way.append((future, stage))
        self.most = max(self.most, len(self._under_way))
        if len(self._under_way) == self._workers or len(self.began) >= 4:
            self._end_first()
        return future

    def _end_first(self) -> None:
        if self._under_way:
            self._under_way.pop(0)[0].set_result(1.0)

    def show(self) -> None:
        self._end_first()

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def cache(tmp_path: Path) -> StageCache:
    return StageCache(tmp_path / "cache")


@pytest.fixture
def steps(cache: StageCache) -> list[Step]:
    """Return a chain of three, and two stages beside it of which one takes longest."""
    first = Step(cache, "classifier", "first")
    second = Step(cache, "features", "second", first)
    third = Step(cache, "recommender", "third", second)
    return [Step(cache, "accuracy", "short"), Step(cache, "attack", "long"), first, second, third]


def schedule(steps: list[Step], workers: int = 2, **seconds: float) -> Schedule:
    durations = Durations(steps[0].cache, steps)
    for step in steps:
        durations.learn(step, Cost(seconds.get(step.description, 1.0)))
    return Schedule(steps, durations, workers)


def test_the_longest_chain_begins_first(steps: list[Step]) -> None:
    plan = schedule(steps, long=4.0, short=0.5, third=7.0)
    executor = Recorded(2)
    run_stages(plan, executor)
    assert executor.began[:2] == ["first", "long"]
    assert sorted(executor.began) == sorted(step.description for step in steps)
    assert executor.most == 2
    order = executor.began.index
    assert order("first") < order("second") < order("third")
    assert plan.left() == ""


def test_what_lies_behind_a_result_that_is_there_comes_first(cache: StageCache) -> None:
    first = Step(cache, "classifier", "first")
    there = Step(cache, "features", "there", first)
    last = Step(cache, "attack", "last", there)
    plan = schedule([last, first])  # `there` is not among those left to do
    stage = plan.next()
    assert stage is first
    assert plan.next() is None
    plan.end(first, 1.0)
    assert plan.next() is last


def test_the_time_that_remains(steps: list[Step]) -> None:
    assert schedule(steps, 2, long=600.0).left() == "about 10 min 0 s left"  # of one alone
    assert schedule(steps, 2, long=600.0, short=600.0, first=600.0).left() == "about 15 min 1 s left"
    nothing = Schedule(steps, Durations(steps[0].cache, steps), 1)
    assert nothing.left() == ""
    nothing.durations.learn(steps[0], Cost(90.0))
    assert nothing.left() == "more than 1 min 30 s left"


def test_durations_come_from_the_same_stage_then_the_same_work_then_the_kind(cache: StageCache) -> None:
    def stage(name: str, **settings: Any) -> Step:
        step = Step(cache, "attack", name)
        step.settings |= settings
        return step

    pgd, fgsm = {"class_path": "PGD"}, {"class_path": "FGSM"}
    for name, attack, seconds in (("a", pgd, 10.0), ("b", pgd, 30.0), ("c", fgsm, 2.0)):
        made = stage(name, attack=attack)
        with cache.making("attack", made.key, name) as new:
            assert new is not None
            (new.folder / "images").write_bytes(bytes(1000))
            new.values = {"seconds": seconds, "title": made.title_in_store, "settings": made.settings}
    durations = Durations(cache, [stage("a")])
    assert durations.of_same_work(stage("a", attack=fgsm)) == Cost(10.0, 1000)
    assert durations.of_same_work(stage("new", attack=pgd)) == Cost(20.0, 1000)
    assert durations.of_same_work(stage("new", attack={"class_path": "other"})) is None
    assert durations.measured(stage("new", attack={"class_path": "other"})) == 14.0
    assert durations.measured(Step(cache, "features", "new")) is None
    assert durations.expected(Step(cache, "classifier", "new")) > durations.expected(Step(cache, "features", "new"))


def test_a_stage_computes_alike_whatever_ran_before(cache: StageCache) -> None:
    computing = Computing.of_this_process()
    threads = torch.get_num_threads()
    found = []
    for number in range(2):
        torch.set_num_threads(threads + number)
        torch.use_deterministic_algorithms(not computing.deterministic)
        torch.rand(number)
        with computing.applied():
            found.append((torch.rand(1).item(), torch.get_num_threads(), Computing.of_this_process()))
        assert torch.get_num_threads() == threads + number
    computing.set()
    torch.set_num_threads(threads)
    assert found[0] == found[1]
    assert found[0][1:] == (1, computing)


def test_a_cache_and_a_stage_can_be_pickled(cache: StageCache) -> None:
    told: list[str] = []
    cache.tell = told.append
    step = Step(cache, "features", "of it", Step(cache, "classifier", "first"))
    read = pickle.loads(pickle.dumps([step, *step.inputs]))
    assert [each.key for each in read] == [step.key, step.inputs[0].key]
    assert read[0].inputs[0] is read[1]
    assert read[0].cache is read[1].cache
    read[0].cache.tell("nobody hears it")
    assert told == []


@pytest.mark.parametrize(
    ("accelerator", "has_gpu", "workers"), [("auto", True, 1), ("auto", False, 3), ("cpu", True, 3), ("gpu", False, 1)]
)
def test_a_gpu_is_not_shared_unless_asked(
    cache: StageCache, monkeypatch: pytest.MonkeyPatch, accelerator: str, has_gpu: bool, workers: int
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(3), raising=False)
    monkeypatch.setattr("catwalk.study.workers.free_memory", lambda: 100 * 2**30)
    trained = Step(cache, "classifier", "T")
    trained.training = SimpleNamespace(trainer={"accelerator": accelerator})  # type: ignore[attr-defined]
    attacks = [Step(cache, "attack", str(number), trained) for number in range(4)]  # the network is there already
    assert ThisMachine().at_once(attacks) == workers
    assert ThisMachine(2).at_once(attacks) == 2
    monkeypatch.setattr("catwalk.study.workers.free_memory", lambda: 3 * 2**30)
    assert ThisMachine().at_once(attacks) == 1


def test_workers_are_at_least_one(steps: list[Step]) -> None:
    with pytest.raises(CatwalkError, match="workers"):
        ThisMachine(0)
    assert ThisMachine(100).at_once(steps) == len(steps)
    assert ThisMachine().at_once([]) == 1


def test_an_address_is_of_ray() -> None:
    with pytest.raises(CatwalkError, match=r"^address: auto .*--executor ray"):
        backend_of("local", "auto", None, print)


def test_recommenders_are_trained_together_on_this_machine() -> None:
    with pytest.raises(CatwalkError, match=r"^together must be at least 1, got 0"):
        backend_of("local", None, None, print, together=0)
    with pytest.raises(CatwalkError, match=r"^together: on a Ray cluster every .* alone, got 8"):
        backend_of("ray", None, None, print, together=8)


@pytest.fixture
def main() -> Any:
    from catwalk.cli.main import main

    return main


@pytest.mark.slow
def test_a_dry_run_measures_and_writes_nothing(
    settings: dict[str, Any], run_study: Any, main: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "study.json", tmp_path / "runs"
    path.write_text(json.dumps(settings))
    arguments = ["study", "--config", str(path), "--output", str(output), "--dry-run"]
    main(arguments)
    before = capsys.readouterr().out
    assert not output.exists()
    rows = {line.split()[0]: line.split() for line in before.splitlines() if "a measured batch" in line}
    assert {"classifier", "accuracy", "features", "attack", "perceptual", "recommender"} <= rows.keys()
    assert rows["attack"][1:4] == [rows["attack"][1], "0", rows["attack"][1]]
    study = run_study(settings, output)
    states = {file: file.stat().st_mtime_ns for file in output.rglob("*") if file.is_file()}
    settings["attacks"][1]["init_args"]["epsilon"] = 16
    path.write_text(json.dumps(settings))
    capsys.readouterr()
    main(arguments)
    after = capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in output.rglob("*") if file.is_file()} == states
    attack = next(line.split() for line in after.splitlines() if line.startswith("attack"))
    assert int(attack[2]) + int(attack[3]) == int(attack[1])
    assert int(attack[2]) >= 1
    assert "earlier results" in after
    assert "on this machine; nothing was run or written" in after
    assert study.folder.exists()
