"""Studies whose stages run side by side: the same results, errors and signals that end all, nothing made twice."""

from collections import Counter
from pathlib import Path

import kill_study
import pytest
from own_study import is_running, made, results, start, stop_between_attacks


@pytest.mark.slow
def test_two_workers_make_the_same_bytes_as_one_and_find_own_classes(folder: Path) -> None:
    outcomes = []
    for workers in (1, 2):
        study = start(folder, "--workers", str(workers), "--output", f"runs{workers}")
        out, err = study.communicate(timeout=240)
        assert study.returncode == 0, err
        assert err.count("warning:") == 1  # of a worker's, too: LPIPS's on small images
        outcomes.append((dict(results(folder / f"runs{workers}")), made(folder), out))
        assert all((int(process) == study.pid) == (workers == 1) for _, process, _ in made(folder))
        (folder / "made.txt").unlink()
    (one, by_one, _), (two, by_two, _) = outcomes
    assert one == two
    assert len(one) > 50
    assert {threads for _, _, threads in by_one + by_two} == {"1"}
    assert Counter(what for what, *_ in by_one) == Counter(what for what, *_ in by_two)
    done = [sorted(line.rpartition(" · ")[0] for line in out.splitlines() if "✓" in line) for *_, out in outcomes]
    assert done[0] == done[1]
    assert len(done[0]) >= 15


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["error", "bug"])
def test_an_error_stops_the_stages_beside_it(folder: Path, kind: str) -> None:
    (folder / "fail").write_text(kind)
    (folder / "wait for attack").touch()
    study = start(folder, "--workers", "2")
    _, err = study.communicate(timeout=120)
    assert study.returncode == {"error": 2, "bug": 1}[kind]
    lines = [line for line in err.splitlines() if not line.startswith("warning:")]
    assert lines == ["catwalk: error: user: this is wrong"] if kind == "error" else lines[-1] == "ValueError: broken"
    assert "in perturb" in err if kind == "bug" else "Traceback" not in err
    assert not any(is_running(int(process)) for _, process, _ in made(folder))
    assert [path for name in (".partial", ".locks") for path in (folder / "runs/cache" / name).glob("*")] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_workers_end_with_the_study_and_the_same_command_goes_on(folder: Path, name: str) -> None:
    assert len(stop_between_attacks(folder, name, "--workers", "2")) == 2
    before = len(made(folder))
    again = start(folder, "--workers", "2")
    _, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    assert [what for what, *_ in made(folder)].count("classifier") == 1
    assert len(made(folder)) == before + 2 + 6  # both attacks, and the trainings of VBPR
    assert list((folder / "runs/cache/.partial").glob("*")) == []


@pytest.mark.slow
def test_two_studies_on_one_cache_make_nothing_twice(folder: Path) -> None:
    studies = [start(folder, "--workers", "2", "--name", name) for name in ("a", "b")]
    for study in studies:
        out, err = study.communicate(timeout=280)
        assert study.returncode == 0, out + err
    assert Counter(what for what, *_ in made(folder)) == {
        **{"classifier": 1, "attack": 1, "attack by PGD": 1, "recommender": 6},
    }
    assert (folder / "runs/a/table1.csv").read_bytes() == (folder / "runs/b/table1.csv").read_bytes()


@pytest.mark.slow
def test_a_study_killed_at_random_moments_ends_in_the_same_bytes(shop: Path, tmp_path: Path) -> None:
    settings = {**kill_study.small_study(), "dataset": str(shop), "seeds": [0]}
    assert kill_study.kill_study(tmp_path, settings, kills=2, workers=2, seed=0) >= 1
