"""``catwalk tune``: a search, what it leaves, how it goes on, and what it refuses."""

import contextlib
import csv
import errno
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import wandb
import yaml
from optuna.storages.journal import JournalFileBackend, JournalStorage
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

from catwalk.cli.main import main
from catwalk.errors import CatwalkError
from catwalk.files.locks import locked
from catwalk.networks.features import FeatureTable
from catwalk.networks.prediction import Predictions
from catwalk.recommenders.bpr_mf import BPRMFSettings
from catwalk.shop.catalogue import Catalogue
from catwalk.tuning.training import SearchedTraining
from datamodules import InteractionTriplets
from lightning_modules import BPRMF, VBPR

Row = dict[str, str]
ADAGRAD = {"class_path": "torch.optim.Adagrad", "init_args": {"initial_accumulator_value": 0.1}}
SEARCH = {
    "name": "small",
    "dataset": "shop",
    "features": "features",
    "model": {"class_path": "lightning_modules.VBPR", "init_args": {"visual_factors": 3, "optimizer": ADAGRAD}},
    "trainer": {"max_epochs": 4, "accelerator": "cpu"},
    "search": {
        "model.factors": {"low": 2, "high": 9},
        "model.regularization": {"low": 1.0e-4, "high": 1, "log": True},
        "model.optimizer.lr": {"low": 0.05, "high": 1, "log": True},
        "data.batch_size": {"choices": [64, 128]},
    },
    "trials": 3,
    "patience": 2,
    "pruning": False,
    "seed": 3,
}
"""A search; change a copy."""

CHEAP = {
    "name": "cheap",
    "dataset": "shop",
    "model": {"class_path": "lightning_modules.BPRMF", "init_args": {"factors": 2}},
    "trainer": {"max_epochs": 3, "accelerator": "cpu"},
    "search": {"model.regularization": {"low": 0.001, "high": 10, "log": True}, "data.batch_size": {"choices": [256]}},
    "trials": 13,  # three beyond those that the sampler draws blindly
    "patience": 1,
}


@pytest.fixture
def here(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, in which there are a shop and features of it that are noise."""
    prepare(shop, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def whole(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the finished search :data:`CHEAP`. Do not write into it."""
    folder = tmp_path_factory.mktemp("whole")
    prepare(shop, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["catwalk"])
        Path("search.yaml").write_text(yaml.safe_dump(CHEAP))
        main(["tune", "--config", "search.yaml", "--output", "out"])
    return folder / "out/cheap"


def prepare(shop: Path, folder: Path) -> None:
    shutil.copytree(shop, folder / "shop", ignore=shutil.ignore_patterns(".cache"))
    catalogue = Catalogue.read(folder / "shop")
    noise = torch.randn(len(catalogue), 8, generator=torch.Generator().manual_seed(0))
    categories, ones = torch.zeros(len(catalogue), dtype=torch.int64), torch.ones(len(catalogue))
    predictions = Predictions(noise, categories, ones)
    FeatureTable.from_predictions(predictions, ("all",), catalogue.fingerprint, "none").write(
        folder / "features", catalogue
    )


def tune(run: Any, settings: dict[str, Any], *options: str) -> Any:
    Path("search.yaml").write_text(yaml.safe_dump(settings))
    return run("tune", "--config", "search.yaml", "--output", "out", *options)


def rows_of(name: str | Path) -> list[Row]:
    with Path("out", name, "trials.csv").open() as file:
        return list(csv.DictReader(file))


def journal_of(name: str | Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(Path("out", name, "journal.log"))))


def without_seconds(rows: list[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


class Figures(Callback):
    """Collects a metric of every validation."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.values.append(float(trainer.callback_metrics["val/ndcg@20"]))


def test_a_search_measures_what_plain_training_does_and_its_best_can_be_trained(here, run, make_trainer) -> None:
    outcome = tune(run, SEARCH)
    assert outcome.code == 0, outcome.err
    rows = rows_of("small")
    assert [row["number"] for row in rows] == ["0", "1", "2"]
    for row in rows:
        factors, batch_size = int(row["model.factors"]), int(row["data.batch_size"])
        weight, rate = float(row["model.regularization"]), float(row["model.optimizer.lr"])
        assert 2 <= factors <= 9
        assert 1e-4 <= weight <= 1
        assert 0.05 <= rate <= 1
        seed_everything(3, verbose=False)
        model = VBPR(
            factors=factors,
            visual_factors=3,
            regularization=weight,
            optimizer=lambda parameters, lr=rate: torch.optim.Adagrad(parameters, lr, initial_accumulator_value=0.1),
        )
        data = InteractionTriplets(Path("shop"), Path("features"), batch_size=batch_size, validation=True, seed=3)
        values = Figures()
        make_trainer(max_epochs=4, callbacks=[values], deterministic=True).fit(model, data)
        best = next(
            epoch for epoch in range(4) if all(value <= values.values[epoch] for value in values.values[: epoch + 3])
        )
        assert float(row["val/ndcg@20"]) == values.values[best]
        assert int(row["best_epoch"]) == best + 1
        assert int(row["epochs"]) == min(4, best + 3)  # patience is 2
        assert row["state"] == "complete"
    winner = max(rows, key=lambda row: float(row["val/ndcg@20"]))
    best_configuration = yaml.safe_load(Path("out/small/best.yaml").read_text())
    assert best_configuration == {
        "seed_everything": 3,
        "model": {
            "class_path": "lightning_modules.VBPR",
            "init_args": {
                "factors": int(winner["model.factors"]),
                "visual_factors": 3,
                "regularization": float(winner["model.regularization"]),
                "optimizer": {
                    "class_path": "torch.optim.Adagrad",
                    "init_args": {"initial_accumulator_value": 0.1, "lr": float(winner["model.optimizer.lr"])},
                },
            },
        },
        "data": {
            "class_path": "datamodules.InteractionTriplets",
            "init_args": {
                "dataset": "shop",
                "features": "features",
                "seed": 3,
                "batch_size": int(winner["data.batch_size"]),
            },
        },
        "trainer": {"max_epochs": int(winner["best_epoch"]), "accelerator": "cpu"},
    }
    quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.default_root_dir=fit"]
    outcome = run("fit", "--config", "out/small/best.yaml", *quiet)
    assert outcome.code == 0, outcome.err
    (checkpoint,) = Path("fit").rglob("*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["epoch"] == int(winner["best_epoch"]) - 1


@pytest.mark.slow
def test_a_search_that_was_killed_ends_with_the_trials_of_one_that_was_not(
    here, run, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows_of(whole)
    assert {row["state"] for row in expected} == {"complete", "pruned"}
    assert len({row["model.regularization"] for row in expected}) == 13
    stopped = {**CHEAP, "name": "stopped"}
    assert tune(run, stopped, "--trials=3").code == 0
    count = 0

    def interrupt(*_: object) -> None:
        nonlocal count
        count += 1
        if count == 9 * 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BPRMF, "on_train_batch_end", interrupt, raising=False)
        outcome = tune(run, stopped)
    assert outcome.code == 130
    so_far = rows_of("stopped")
    assert 3 < len(so_far) < 13
    journal = Path("out/stopped/journal.log")
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"06')
    Path("out/stopped/journal.log.lock").symlink_to(journal)
    outcome = tune(run, stopped)
    assert outcome.code == 0, outcome.err
    assert f"{len(so_far)} of them done before" in outcome.out
    assert without_seconds(rows_of("stopped")) == without_seconds(expected)


def test_a_search_that_is_done_trains_nothing_and_tells_again(here, run, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {**CHEAP, "trials": 2}
    first = tune(run, few)
    before = Path("out/cheap/trials.csv").read_bytes()

    def refuse(*_: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(SearchedTraining, "run", refuse)
    again = tune(run, few)
    assert again.code == 0, again.err
    assert "2 of them done before" in again.out
    assert "recommenders are trained on the future" in " ".join(again.out.split())
    table = first.out[first.out.index("Best of 2 trials") :]
    assert "out/cheap/best.yaml" in table
    assert again.out.endswith(table)
    assert Path("out/cheap/trials.csv").read_bytes() == before


def test_a_trial_is_pruned_below_the_median_of_the_completed_ones_alone(whole: Path) -> None:
    trials = optuna.load_study(study_name="cheap", storage=journal_of(whole)).get_trials()
    pruned = 0
    for place, trial in enumerate(trials):
        completed = [other for other in trials[:place] if other.state.name == "COMPLETE"]
        was_pruned = False
        for epoch in sorted(trial.intermediate_values):
            others = sorted(
                other.intermediate_values[epoch] for other in completed if epoch in other.intermediate_values
            )
            best = max(value for step, value in trial.intermediate_values.items() if step <= epoch)
            middle = (others[(len(others) - 1) // 2] + others[len(others) // 2]) / 2 if others else -math.inf
            was_pruned = len(completed) >= 5 and best < middle
            assert not was_pruned or epoch == trial.last_step
        assert was_pruned == (trial.state.name == "PRUNED")
        pruned += was_pruned
    assert 0 < pruned < len(trials)


def test_the_test_items_make_no_difference(here, run, whole: Path) -> None:
    few = {**CHEAP, "trials": 3}
    path = Path("shop/interactions.csv")
    rows = list(csv.DictReader(path.open()))
    bought: dict[str, set[str]] = {}
    last: dict[str, int] = {}
    for place, row in enumerate(rows):
        bought.setdefault(row["user_id"], set()).add(row["item_id"])
        if row["user_id"] not in last or float(row["timestamp"]) >= float(rows[last[row["user_id"]]]["timestamp"]):
            last[row["user_id"]] = place
    sold = sorted(set.union(*bought.values()))
    for user, place in last.items():
        if len(bought[user]) > 1:
            rows[place]["item_id"] = next(item for item in sold if item not in bought[user])
    with path.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert tune(run, {**few, "name": "other"}).code == 0
    assert without_seconds(rows_of("other")) == without_seconds(rows_of(whole))[:3]


def test_the_lowest_figure_wins_where_it_is_asked_for(here, run) -> None:
    assert tune(run, {**CHEAP, "trials": 3, "mode": "min", "monitor": "val/auc"}).code == 0
    rows = rows_of("cheap")
    lowest = min(rows, key=lambda row: float(row["val/auc"]))
    best = yaml.safe_load(Path("out/cheap/best.yaml").read_text())
    assert best["model"]["init_args"]["regularization"] == float(lowest["model.regularization"])


def test_a_trial_that_diverges_fails_and_the_search_goes_on(here, run) -> None:
    sgd = {"class_path": "torch.optim.SGD"}
    model = {"class_path": "lightning_modules.BPRMF", "init_args": {"factors": 2, "optimizer": sgd}}
    search = {"model.optimizer.lr": {"choices": [1.0e30, 0.1]}}
    settings = {**CHEAP, "name": "wild", "model": model, "search": search, "trials": 6}
    assert tune(run, settings).code == 0
    states = {(row["model.optimizer.lr"], row["state"]) for row in rows_of("wild")}
    assert states == {("1e+30", "fail"), ("0.1", "complete")}
    assert len(rows_of("wild")) == 6


def test_a_trial_whose_scores_overflow_fails_and_says_why(here, run) -> None:
    """Minus infinity for a held-out item is no purchase of it, for which the search would end at the trial."""
    sgd = {"class_path": "torch.optim.SGD"}
    model = {"class_path": "lightning_modules.BPRMF", "init_args": {"factors": 1, "optimizer": sgd}}
    search = {"model.optimizer.lr": {"choices": [1.0e30]}}  # one batch: the loss is finite, and no score is
    settings = {**CHEAP, "model": model, "search": search, "data": {"batch_size": 100_000}}
    for trials in (1, 2):  # goes on after the trial
        outcome = tune(run, {**settings, "trials": trials})
        assert outcome.code == 2
        assert "failed (BPRMF: a score is" in outcome.out
        assert "no trial has been completed" in outcome.err
        assert "(the last failure: BPRMF: a score is" in outcome.err
        assert [row["state"] for row in rows_of("cheap")] == ["fail"] * trials


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_a_trial_for_which_the_memory_does_not_suffice_fails(here, run, monkeypatch, error: Exception) -> None:
    build, tried = BPRMF.build, []

    def too_large(self: BPRMF, num_users: int, num_items: int, num_features: int) -> None:
        if num_users > 1:
            tried.append(num_users)
            if len(tried) == 2:
                raise error
        build(self, num_users, num_items, num_features)

    monkeypatch.setattr(BPRMF, "build", too_large)
    outcome = tune(run, {**CHEAP, "trials": 3})
    assert outcome.code == 0, outcome.err
    assert [row["state"] for row in rows_of("cheap")] == ["complete", "fail", "complete"]


def test_a_trial_whose_class_refuses_what_was_drawn_fails(here, run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ends of the range are fine."""

    def picky(self: BPRMFSettings) -> None:
        if self.regularization not in (0.001, 10):
            raise CatwalkError("regularization: not this one")

    monkeypatch.setattr(BPRMFSettings, "__post_init__", picky)
    outcome = tune(run, {**CHEAP, "trials": 2})
    assert outcome.code == 2
    assert "regularization: not this one" in outcome.err.partition("the last failure: ")[2]
    assert [row["state"] for row in rows_of("cheap")] == ["fail", "fail"]


def test_after_a_bug_the_search_goes_on_with_the_next_trial(here, run, monkeypatch: pytest.MonkeyPatch) -> None:
    step, trained = BPRMF.training_step, SearchedTraining.run

    def broken(self: SearchedTraining, trial: optuna.Trial, *others: Any) -> None:
        def training_step(model: BPRMF, *batch: Any) -> Any:
            if trial.number == 1:
                raise ZeroDivisionError("a bug")
            return step(model, *batch)

        monkeypatch.setattr(BPRMF, "training_step", training_step)
        trained(self, trial, *others)

    monkeypatch.setattr(SearchedTraining, "run", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        tune(run, {**CHEAP, "trials": 3})
    assert [row["state"] for row in rows_of("cheap")] == ["complete", "fail"]
    assert tune(run, {**CHEAP, "trials": 3}).code == 0
    assert [row["state"] for row in rows_of("cheap")] == ["complete", "fail", "complete"]


def test_what_is_wrong_with_the_search_or_the_machine_is_no_failed_trial(
    here, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (CatwalkError("the shop is gone"), OSError("the disk is gone")):

        def gone(self: InteractionTriplets, stage: str, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(InteractionTriplets, "setup", gone)
        with pytest.raises(OSError, match="gone") if isinstance(error, OSError) else contextlib.nullcontext():
            assert tune(run, {**CHEAP, "trials": 3}).code == 2
        assert not Path("out/cheap/trials.csv").exists()


def test_no_trial_begins_after_the_timeout(here, run) -> None:
    outcome = tune(run, CHEAP, "--timeout=1e-9")
    assert outcome.code == 2
    assert "no trial has been completed" in outcome.err
    assert rows_of("cheap") == []


@pytest.mark.parametrize("how", ["off", "offline"])
def test_wandb_has_a_run_for_each_trial_where_asked(
    here, run, read_when_written, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    for name in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    outcome = tune(run, {**CHEAP, "trials": 2}, f"--wandb={how}")
    assert outcome.code == 0, outcome.err
    assert [line for line in outcome.err.splitlines() if "anonymous" not in line] == []  # Lightning's own
    runs = sorted(Path("out/cheap").glob("wandb/offline-run-*"))
    assert len(runs) == (2 if how == "offline" else 0)
    assert [path.name for path in Path().iterdir() if path.name == "wandb"] == []
    for path in runs:
        content = read_when_written(path, b"val/ndcg@20")
        assert b"cheap" in content
        assert b"val/ndcg@20" in content
        assert b"model.regularization" in content
    assert wandb.run is None


def test_a_login_that_is_missing_is_one_line(here, run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "init", refuse)
    outcome = tune(run, CHEAP, "--wandb=online")
    assert (outcome.code, outcome.err) == (2, "catwalk: error: wandb: No API key configured.\n")
    assert rows_are_none(Path("out/cheap"))


def changed(**settings: Any) -> dict[str, Any]:
    return {**CHEAP, **settings}


def searching(path: str, limits: Any, **settings: Any) -> dict[str, Any]:
    return changed(search={path: limits}, **settings)


VBPR_MODEL = {"class_path": "lightning_modules.VBPR", "init_args": {"optimizer": ADAGRAD}}
REFUSED = {
    "unknown key": (changed(bogus=1), ["bogus"]),
    "no search": (changed(search={}), ["search", "at least one argument"]),
    "path of nothing": (searching("factors", {"choices": [2]}), ["search.factors", "model.factors"]),
    "path of the trainer": (searching("trainer.max_epochs", {"choices": [2]}), ["search.trainer.max_epochs"]),
    "unknown argument": (searching("model.bogus", {"choices": [2]}), ["model: ", "bogus", "regularization"]),
    "unknown argument of the data": (searching("data.bogus", {"choices": [2]}), ["data: ", "bogus", "batch_size"]),
    "unknown argument of the optimizer": (
        searching("model.optimizer.bogus", {"choices": [2]}, model=VBPR_MODEL, features="features"),
        ["model.optimizer", "bogus"],
    ),
    "optimizer without a class": (searching("model.optimizer.lr", {"low": 0.1, "high": 1}), ["model.optimizer"]),
    "path through a number": (searching("model.factors.many", {"choices": [2]}), ["search.model.factors.many", "2"]),
    "unknown group": (searching("model.learning_rates.Z", {"low": 0.1, "high": 1}), ["learning_rates", "'Z'"]),
    "validation in the search": (searching("data.validation", {"choices": [True, False]}), ["data.validation"]),
    "validation in the data": (changed(data={"validation": False}), ["data.validation", "leave it out"]),
    "features in the data": (changed(data={"features": "features"}), ["data.features", "leave it out"]),
    "no range": (searching("model.factors", 3), ["search.model.factors", "low and high"]),
    "half a range": (searching("model.factors", {"low": 3}), ["search.model.factors", "low and high"]),
    "unknown key of a range": (
        searching("model.factors", {"low": 3, "high": 4, "step": 1}),
        ["search.model.factors", "step"],
    ),
    "no choices": (searching("model.factors", {"choices": []}), ["search.model.factors", "at least one"]),
    "choices that are settings": (searching("model.optimizer", {"choices": [ADAGRAD]}), ["search.model.optimizer"]),
    "low above high": (searching("model.factors", {"low": 4, "high": 3}), ["low 4", "high 3"]),
    "low equal to high": (searching("model.factors", {"low": 4, "high": 4}), ["low 4", "high 4"]),
    "low that is no number": (searching("model.factors", {"low": "a", "high": 4}), ["low a"]),
    "infinite high": (searching("model.regularization", {"low": 1, "high": math.inf}), ["high inf"]),
    "logarithm of nothing": (
        searching("model.regularization", {"low": 0, "high": 1, "log": True}),
        ["search.model.regularization", "log", "got 0"],
    ),
    "log that is neither": (searching("model.factors", {"low": 1, "high": 4, "log": "e"}), ["log", "got e"]),
    "fractions of an int": (searching("model.factors", {"low": 1.5, "high": 4.5}), ["model.factors", "int", "1.5"]),
    "fractions at the other end": (searching("model.factors", {"low": 1, "high": 4.5}), ["model.factors", "4.5"]),
    "range of words": (searching("model.regularizer", {"low": 1, "high": 2}), ["regularizer", "linear"]),
    "choice of another type": (searching("model.factors", {"choices": [2, "many"]}), ["model.factors", "int", "many"]),
    "value that the class refuses": (searching("model.factors", {"low": 0, "high": 4}), ["factors", "at least 1"]),
    "value that the data refuses": (searching("data.batch_size", {"choices": [64, 0]}), ["batch_size", "at least 1"]),
    "value that the optimizer refuses": (
        searching("model.optimizer.lr", {"low": -1, "high": 1}, model=VBPR_MODEL, features="features"),
        ["model.optimizer", "-1"],
    ),
    "unknown monitor": (changed(monitor="val/ndcg@7"), ["monitor", "val/ndcg@7", "val/auc, ", "val/ndcg@20"]),
    "metric of the training": (changed(monitor="train/loss"), ["monitor", "train/loss"]),
    "unknown mode": (changed(mode="middle"), ["mode", "max, min", "middle"]),
    "no trials": (changed(trials=0), ["trials", "got 0"]),
    "no patience": (changed(patience=0), ["patience", "got 0"]),
    "negative seed": (changed(seed=-1), ["seed must be at least 0, got -1"]),
    "seed beyond what generators take": (changed(seed=2**32), ["seed must be at most 4294967295", "4294967296"]),
    "factors that fit in no memory": (
        searching("model.factors", {"choices": [2, 10**12]}),
        ["factors 1000000000000", "GiB"],
    ),
    "no time": (changed(timeout=0), ["timeout", "got 0"]),
    "unknown wandb": (changed(wandb="sometimes"), ["wandb", "off, offline or online", "sometimes"]),
    "no name": (changed(name="."), ["name", "'.'"]),
    "missing dataset": (changed(dataset="nowhere"), ["nowhere"]),
    "missing features": (changed(features="nowhere"), ["features in nowhere", "catwalk predict"]),
    "no features": (changed(model=VBPR_MODEL), ["features", "VBPR"]),
    "no recommender": (changed(model={"class_path": "lightning_modules.ProductClassifier"}), ["model", "Recommender"]),
    "nothing to train": (
        searching("data.batch_size", {"choices": [64]}, model={"class_path": "lightning_modules.Popularity"}),
        ["model", "Popularity", "nothing to train"],
    ),
    "unknown option of the trainer": (changed(trainer={"bogus": 1}), ["trainer", "bogus"]),
    "several devices": (changed(trainer={"accelerator": "cpu", "devices": 2}), ["trainer", "one process"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_searched_is_one_line_before_any_trial(here, run, name: str) -> None:
    settings, words = REFUSED[name]
    outcome = tune(run, settings)
    assert outcome.code == 2, outcome.err
    assert outcome.err.startswith("catwalk: error: ")
    assert outcome.err.count("\n") == 1
    for word in words:
        assert word in outcome.err, outcome.err
    assert not Path("out").exists() or rows_are_none(Path("out/cheap"))


def rows_are_none(folder: Path) -> bool:
    """Whether a search's folder holds nothing but the journal's beginning, and is free for other settings."""
    return {path.name for path in folder.iterdir()} == {"journal.log", "journal.log.sha256"} and all(
        json.loads(line)["op_code"] in (0, 2) for line in (folder / "journal.log").open()
    )


def test_settings_may_change_until_a_trial_is_done(here, run) -> None:
    assert tune(run, changed(monitor="val/ndcg@7", mode="min")).code == 2
    assert tune(run, changed(trials=1)).code == 0
    (study,) = optuna.get_all_study_summaries(journal_of("cheap"))
    assert study.direction.name == "MAXIMIZE"


def test_a_dataset_without_validation_items_is_refused(here, run) -> None:
    path = Path("shop/interactions.csv")
    rows = list(csv.DictReader(path.open()))
    counts: dict[str, int] = {}
    kept = []
    for row in rows:
        counts[row["user_id"]] = counts.get(row["user_id"], 0) + 1
        if counts[row["user_id"]] <= 2:
            kept.append(row)
    with path.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)
    outcome = tune(run, CHEAP)
    assert outcome.code == 2
    assert "dataset: shop has no validation items" in outcome.err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            changed(search={**CHEAP["search"], "model.regularization": {"low": 0.01, "high": 10, "log": True}}),
            ["search.model.regularization.low was 0.001 and is 0.01"],
        ),
        (
            searching("model.factors", {"choices": [2]}),
            ["model.regularization.high was 10 and is not given", "; and 3 more; give"],
        ),
        (
            changed(model={"class_path": "lightning_modules.BPRMF", "init_args": {"factors": 3}}),
            ["model", "was 2", "is 3"],
        ),
        (changed(data={"batch_size": 99}), ["data.batch_size was not given and is 99"]),
        (changed(trainer={"max_epochs": 2, "accelerator": "cpu"}), ["trainer.max_epochs was 3 and is 2"]),
        (changed(seed=1), ["seed was 0 and is 1"]),
        (changed(mode="min"), ["mode was max and is min"]),
        (changed(features="features"), ["features was not given and is "]),
    ],
)
def test_another_search_by_the_same_name_is_refused_and_nothing_is_lost(here, run, settings, words) -> None:
    assert tune(run, {**CHEAP, "trials": 1}).code == 0
    before = {path.name: path.read_bytes() for path in Path("out/cheap").iterdir()}
    outcome = tune(run, settings)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    for word in ("out/cheap holds another search", "give another name, or remove the folder", *words):
        assert word in outcome.err, outcome.err
    assert {path.name: path.read_bytes() for path in Path("out/cheap").iterdir()} == before


def test_two_processes_at_one_search_are_refused(here, run) -> None:
    with locked(Path("out/cheap/.lock")):
        outcome = tune(run, CHEAP)
    assert outcome.code == 2
    assert f"out/cheap: another process is at this search (process {os.getpid()})" in outcome.err


@pytest.mark.parametrize("refusal", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_and_links(here, run, monkeypatch: pytest.MonkeyPatch, refusal: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr("os.symlink", refuse)
    with locked(Path("out/cheap/.lock")):
        outcome = tune(run, CHEAP)
    assert outcome.code == 2
    assert f"out/cheap: another process is at this search (process {os.getpid()})" in outcome.err
    for trials in (1, 2):
        outcome = tune(run, {**CHEAP, "trials": trials})
        assert outcome.code == 0, outcome.err
    assert len(rows_of("cheap")) == 2
    names = {"journal.log", "journal.log.sha256", "trials.csv", "best.yaml"}
    assert {path.name for path in Path("out/cheap").iterdir()} == names


def test_a_full_disk_names_the_journal_and_the_search_goes_on(here, run, monkeypatch: pytest.MonkeyPatch) -> None:
    count, write = 0, JournalFileBackend.append_logs

    def full(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        nonlocal count
        count += 1
        if count > 4:
            with Path(self._file_path).open("ab") as file:
                file.write(b'{"op_code":4,"worker')
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, logs)

    with monkeypatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", full)
        outcome = tune(run, {**CHEAP, "trials": 3})
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].startswith("catwalk: error: out/cheap/journal.log: No space left on device")
    outcome = tune(run, {**CHEAP, "trials": 3})
    assert outcome.code == 0, outcome.err
    assert len(rows_of("cheap")) == 3


@pytest.mark.parametrize("name", ["bpr_mf", "vbpr", "amr"])
def test_the_shipped_searches_run(here, run, name: str) -> None:
    options = ["--trials=1", "--dataset=shop", "--features=features", "--output=out", "--trainer={max_epochs: 1}"]
    outcome = run("tune", "--config", f"configs/tune/{name}.yaml", *options)
    assert outcome.code == 0, outcome.err
    assert len(rows_of(name)) == 1


def test_help(run) -> None:
    outcome = run("tune", "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("usage: catwalk tune ")
    assert "class '" not in outcome.out
