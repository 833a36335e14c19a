"""Studies on Ray itself: the same bytes as on this machine, whatever process is killed, and nothing left running."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from own_study import cells, is_running, made, results, start, stop_between_attacks, until
from rich.console import Console
from test_executor import Step

from catwalk.results.remote import RemoteStore
from catwalk.results.store import StageCache
from catwalk.study.executor import run_waiting
from catwalk.study.ray_cluster import RayCluster

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

RAY = ("--executor", "ray", "--workers", "2")


@pytest.fixture(autouse=True)
def own_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep out of a cluster that whoever runs the tests is in."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_DISABLE_IMPORT_WARNING", "1")


def test_a_study_on_ray_makes_the_same_bytes_as_on_this_machine(folder: Path) -> None:
    outcomes = []
    for name, options in (("here", ("--workers", "2")), ("ray", RAY)):
        study = start(folder, *options, "--output", f"runs_{name}")
        out, err = study.communicate(timeout=300)
        assert study.returncode == 0, err
        assert err.count("warning:") == 1  # of a worker's, too: LPIPS's on small images
        assert len(err.splitlines()) == 1, err  # nothing of Ray's own
        output = folder / f"runs_{name}"
        outcomes.append((dict(results(output)), cells(output), made(folder), out))
        assert study.pid not in {int(process) for _, process, _ in made(folder)}
        (folder / "made.txt").unlink()
    (here, here_cells, by_here, _), (there, there_cells, by_ray, _) = outcomes
    assert here == there
    assert here_cells == there_cells
    assert len(here) > 50
    assert len(here_cells) == 12
    assert {threads for _, _, threads in by_ray} == {"1"}
    assert Counter(what for what, *_ in by_here) == Counter(what for what, *_ in by_ray)
    done = [sorted(line.rpartition(" · ")[0] for line in out.splitlines() if "✓" in line) for *_, out in outcomes]
    assert done[0] == done[1]


def test_a_stage_whose_process_is_killed_is_run_again(folder: Path) -> None:
    whole = start(folder, "--workers", "2", "--output", "runs_whole")
    assert whole.wait(300) == 0
    (folder / "made.txt").unlink()
    (folder / "wait for attack").touch()
    study = start(folder, *RAY)
    until(lambda: "attack" in {what for what, *_ in made(folder)})
    (process,) = {int(process) for what, process, _ in made(folder) if what == "attack"}
    os.kill(process, signal.SIGKILL)
    (folder / "wait for attack").unlink()
    out, err = study.communicate(timeout=300)
    assert study.returncode == 0, err
    (line,) = [line for line in out.splitlines() if "was lost" in line]
    assert "FGSM" in line
    assert line.endswith("it is run again, 1 of 3 times")
    assert [what for what, *_ in made(folder)].count("attack") == 2
    assert dict(results(folder / "runs")) == dict(results(folder / "runs_whole"))
    assert cells(folder / "runs") == cells(folder / "runs_whole")
    assert [
        path for name in (".partial", ".locks", "damaged") for path in (folder / "runs/cache" / name).glob("*")
    ] == []


@pytest.mark.parametrize("kind", ["error", "bug"])
def test_an_error_ends_the_study_and_is_not_run_again(folder: Path, kind: str) -> None:
    (folder / "fail").write_text(kind)
    (folder / "wait for attack").touch()
    study = start(folder, *RAY)
    _, err = study.communicate(timeout=180)
    assert study.returncode == {"error": 2, "bug": 1}[kind], err
    lines = [line for line in err.splitlines() if not line.startswith("warning:")]
    assert lines == ["catwalk: error: user: this is wrong"] if kind == "error" else lines[-1] == "ValueError: broken"
    assert "in perturb" in err if kind == "bug" else "Traceback" not in err
    assert [what for what, *_ in made(folder)].count("attack by PGD") == 1
    assert not any(is_running(int(process)) for _, process, _ in made(folder))
    assert [path for name in (".partial", ".locks") for path in (folder / "runs/cache" / name).glob("*")] == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_tasks_end_with_the_study_and_the_same_command_goes_on(folder: Path, name: str) -> None:
    stop_between_attacks(folder, name, *RAY)
    again = start(folder, "--workers", "2")  # and on this machine
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert [what for what, *_ in made(folder)].count("classifier") == 1
    assert list((folder / "runs/cache/.partial").glob("*")) == []


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Begin a cluster of two machines with a processor each, which are this one, and which no study begins or ends."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.second = cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def test_a_cluster_that_is_there_takes_a_store_at_a_url(folder: Path, cluster: Any, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/elsewhere/store"
    options = ("--executor", "ray", "--address", cluster.address, "--store", url)
    dry = start(folder, *options, "--dry-run")
    out, err = dry.communicate(timeout=300)
    assert dry.returncode == 0, err
    assert f"up to 2 stages side by side on the Ray cluster at {cluster.address}; nothing was run" in out
    study = start(folder, *options)
    _, err = study.communicate(timeout=300)
    assert study.returncode == 0, err
    # Another machine has nothing but the store.
    (folder / "made.txt").unlink()
    other = start(folder, "--store", url, "--output", "runs_other")
    _, err = other.communicate(timeout=300)
    assert other.returncode == 0, err
    assert made(folder) == []
    assert cells(folder / "runs_other") == cells(folder / "runs")
    assert {"classifier", "recommender"} <= {path.name for path in (tmp_path / "elsewhere/store").iterdir()}


def test_stages_of_a_machine_that_is_lost_run_on_another(folder: Path, cluster: Any) -> None:
    for what in ("attack", "attack by PGD"):
        (folder / f"wait for {what}").touch()
    study = start(folder, "--executor", "ray", "--address", cluster.address)
    until(lambda: {"attack", "attack by PGD"} <= {what for what, *_ in made(folder)})
    cluster.remove_node(cluster.second, allow_graceful=False)
    for path in folder.glob("wait for *"):
        path.unlink()
    out, err = study.communicate(timeout=300)
    assert study.returncode == 0, err
    assert len([line for line in out.splitlines() if "it is run again, 1 of 3 times" in line]) == 1
    attacks = Counter(what for what, *_ in made(folder) if "attack" in what)
    assert sorted(attacks.values()) == [1, 2]


class Told(Step):
    """A stage that tells what it was given."""

    def make(self, folder: Path, progress: Any) -> dict[str, Any]:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return {"visible": visible, "folder": os.getcwd(), "threads": torch.get_num_threads()}


def test_gpus_are_given_to_stages_that_use_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    cache = StageCache(Path("cache"), remote=RemoteStore(f"file://{tmp_path}/store"))
    without, using = Told(cache, "accuracy", "without"), Told(cache, "classifier", "using")
    ray.init("local", num_cpus=2, num_gpus=1, log_to_driver=False, include_dashboard=False)
    try:
        monkeypatch.setattr("catwalk.study.ray_cluster.may_use_gpu", lambda stage: stage is using)
        with RayCluster("local", 2, print) as backend:
            run_waiting([without, using], cache, Console(quiet=True), backend)
        assert ray.is_initialized()  # it was ours
    finally:
        ray.shutdown()
    assert (without.record["visible"], using.record["visible"]) == ("", "0")
    assert {without.record["folder"], using.record["folder"]} == {str(tmp_path)}
    assert {without.record["threads"], using.record["threads"]} == {1}
