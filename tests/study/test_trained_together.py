"""Recommenders of a study that are trained together: the bytes in the store that each has alone."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catwalk.errors import DivergedError
from catwalk.recommenders.stacked_step import StackedStep
from lightning_modules import VBPR

TRAINED = ("recommender", "recommendations")
MEASURED = ("seconds", "memory_mib", "gpu_memory_mib", "sha256")


def trained(output: Path) -> Iterator[tuple[str, Any]]:
    """Yield what a study has in its store of recommenders, less how long it took and how much memory."""
    for path in sorted(path for kind in TRAINED for path in (output / "cache" / kind).rglob("*") if path.is_file()):
        name = str(path.relative_to(output))
        if path.name == "stage.json":
            record = json.loads(path.read_text())
            yield name, {key: value for key, value in record.items() if key not in MEASURED}
        else:
            yield name, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def without_recommenders(finished, tmp_path: Path) -> Path:
    """Return a copy of a finished study's store, from which its recommenders are gone."""
    shutil.copytree(finished.output / "cache", tmp_path / "runs" / "cache", ignore=shutil.ignore_patterns(*TRAINED))
    return tmp_path / "runs"


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many models each step in closed form was of."""
    found: list[int] = []
    take = StackedStep.take

    def take_and_tell(self: StackedStep, users: Any, *columns: Any) -> Any:
        found.append(len(users))
        return take(self, users, *columns)

    monkeypatch.setattr(StackedStep, "take", take_and_tell)
    return found


@pytest.fixture
def of_many_batches(settings) -> dict[str, Any]:
    """Return the settings of a study whose trainings have batches between the first and the last of an epoch."""
    for training in settings["recommenders"].values():
        training["data"] = {"batch_size": 64}
    return settings


@pytest.mark.slow
def test_the_bytes_that_each_has_alone(of_many_batches, without_recommenders, run_study, sizes, tmp_path: Path) -> None:
    found = []
    for together in (1, 4):
        output = tmp_path / str(together) / "runs"
        shutil.copytree(without_recommenders, output)
        sizes.clear()
        study = run_study({**of_many_batches, "together": together}, output)
        assert study.made.count("recommender") == 8
        assert max(sizes) == together
        found.append((dict(trained(output)), study.tables))
    assert found[0] == found[1]
    assert len(found[0][0]) > 20


@pytest.mark.slow
def test_one_that_fails_leaves_the_others_their_results(
    of_many_batches, without_recommenders, run_study, monkeypatch, capsys
) -> None:
    fit_start = VBPR.on_fit_start

    def fail(self: VBPR) -> None:
        fit_start(self)
        data: Any = self.trainer.datamodule
        if data.seed == 1 and "attack" in str(data.features):
            raise DivergedError("the training of VBPR has diverged")

    with monkeypatch.context() as patch:
        patch.setattr(VBPR, "on_fit_start", fail)
        with pytest.raises(SystemExit):
            run_study(of_many_batches, without_recommenders)
    assert "has diverged" in capsys.readouterr().err
    before = dict(trained(without_recommenders))
    assert before
    study = run_study(of_many_batches, without_recommenders)
    assert 2 <= study.made.count("recommender") < 8
    assert before.items() <= dict(trained(without_recommenders)).items()


def test_at_least_one(settings, run_study, without_recommenders, capsys) -> None:
    with pytest.raises(SystemExit):
        run_study({**settings, "together": 0}, without_recommenders)
    assert "together must be at least 1, got 0" in capsys.readouterr().err
