"""Where metrics and configurations go."""

import dataclasses
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import offline_runs
import pytest
import torch
import wandb
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from catwalk import __version__
from catwalk.networks.features import FeatureTable
from catwalk.poisoning.protocol import AttackProtocol
from catwalk.shop.catalogue import Catalogue
from catwalk.study.cells import SETTINGS
from catwalk.terminal import progress

VBPR = ["fit", "--config", "configs/recommender/vbpr.yaml", "--config", "configs/data/synthetic.yaml"]
SHORT = ["--trainer.max_epochs=1", "--data.validation=true", "--trainer.enable_progress_bar=false"]


@pytest.fixture
def summaries(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Return a list to which every W&B run adds its summary and its configuration as it ends."""
    collected: list[dict] = []
    finish = wandb.finish

    def finish_and_tell() -> None:
        assert wandb.run is not None
        collected.append({"id": wandb.run.id, **wandb.run.summary, "config": dict(wandb.run.config)})
        finish()

    monkeypatch.setattr(wandb, "finish", finish_and_tell)
    for name in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    return collected


def test_the_default_is_wandb_offline_with_a_folder_for_each_run(
    work, run, read_when_written, summaries: list[dict]
) -> None:
    for factors in (4, 8):
        outcome = run(*VBPR, *SHORT, f"--model.factors={factors}")
        assert outcome.code == 0, outcome.err
    assert len(summaries) == 2
    assert summaries[0]["id"] != summaries[1]["id"]
    for summary, factors in zip(summaries, (4, 8), strict=True):
        values = [summary[name] for name in summary if name.startswith("val/chr@20/")]
        assert len(values) == 6
        assert sum(values) == pytest.approx(20)
        (folder,) = Path("runs/wandb").glob(f"offline-run-*-{summary['id']}")
        awaited = b"val/chr@20/Sandal"
        assert awaited in read_when_written(folder, awaited)
        configuration = yaml.safe_load(Path("runs/catwalk", summary["id"], "configuration.yaml").read_text())
        assert configuration["model"]["init_args"]["factors"] == factors
        assert summary["config"]["model"]["init_args"]["factors"] == factors
    assert wandb.run is None


def test_the_saved_configuration_repeats_the_run(work, run, summaries: list[dict]) -> None:
    assert run(*VBPR, *SHORT, "--model.factors=4").code == 0
    configuration = f"runs/catwalk/{summaries[0]['id']}/configuration.yaml"
    assert run("fit", "--config", configuration).code == 0
    assert [summaries[0][name] == summaries[1][name] for name in summaries[0] if name.startswith("val/")] == [True] * 15


def test_csv(work, run) -> None:
    assert run(*VBPR, *SHORT, "--config", "configs/logger/csv.yaml").code == 0
    assert "val/chr@20/Sandal" in Path("runs/csv/version_0/metrics.csv").read_text()
    assert Path("runs/csv/version_0/configuration.yaml").is_file()
    assert not Path("runs/wandb").exists()
    logged = yaml.safe_load(Path("runs/csv/version_0/hparams.yaml").read_text())
    assert logged["model"]["class_path"] == "lightning_modules.VBPR"
    assert logged["provenance"]["catwalk"] == __version__


@pytest.mark.parametrize(("name", "offline"), [("wandb", False), ("wandb_offline", True)])
def test_wandb_is_online_only_where_asked(work, run, name: str, offline: bool) -> None:
    outcome = run(*VBPR, "--config", f"configs/logger/{name}.yaml", "--print_config")
    assert yaml.safe_load(outcome.out)["trainer"]["logger"]["init_args"]["offline"] is offline


def test_a_log_has_lines_instead_of_a_bar(work, run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TICK", 0.01)
    monkeypatch.setattr(progress, "LATEST", 0.05)
    cnn = ["fit", "--config", "configs/cnn/traditional.yaml", "--config", "configs/data/synthetic.yaml"]
    small = ["--model.backbone_args={width: 8}", "--data.batch_size=32", "--trainer.max_epochs=3"]
    outcome = run(*cnn, *small, "--trainer.logger=false")
    assert outcome.code == 0, outcome.err
    assert not set("\r\x1b") & set(outcome.out)
    lines = outcome.out.splitlines()
    assert any(re.fullmatch(r"catwalk fit · \d+ s", line) for line in lines)
    batches = [
        match for line in lines if (match := re.fullmatch(r"fit · (\d+)/(\d+) \(\d+%\) · epoch [123]/3.*", line))
    ]
    assert batches
    assert {int(match[2]) for match in batches} == {3 * -(-216 // 32)}
    last = next(line for line in lines if "epoch 3, train/loss" in line)
    assert re.fullmatch(r"fit · (\d+)/\1 \(100%\) · epoch 3, train/loss \S+, val/accuracy \S+.* · \d+ s", last)


def test_a_bar_that_was_asked_for_stays(work, run) -> None:
    bar = "--trainer.callbacks+={class_path: pytorch_lightning.callbacks.TQDMProgressBar}"
    outcome = run(*VBPR, "--trainer.max_epochs=1", "--trainer.logger=false", bar)
    assert outcome.code == 0, outcome.err
    assert "Epoch 0: 100%" in outcome.out + outcome.err


def test_an_attack_is_logged(work, run) -> None:
    pgd = ["--config", "configs/attack/pgd8.yaml", "--config", "configs/logger/csv.yaml"]
    assert run(*VBPR, *SHORT, *pgd).code == 0
    header = Path("runs/csv/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"attack/sr", "attack/feature_loss", "attack/linf_levels", "attack/n_attacked"} <= set(header)


def test_no_warning_is_shown_and_the_network_is_not_asked(work) -> None:
    """In a process of its own, where warnings and log lines take the way that they take for a user."""
    arguments = [sys.executable, "-m", "catwalk.cli.main", *VBPR, *SHORT]
    with offline_runs.proxy() as (settings, asked):
        environment = {**os.environ, "WANDB_CONSOLE": "off", **settings}
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    assert asked == []
    lines = (done.stdout + done.stderr).splitlines()
    for word in ("warn", "deprecat", "tip:", "litlogger"):
        assert not [line for line in lines if word in line.lower()]


@pytest.fixture
def poisoned(work, run, monkeypatch: pytest.MonkeyPatch) -> offline_runs.OfflineRun:
    """Return a run with the shipped configuration of W&B, in which PGD's images come with the epoch 1."""
    monkeypatch.setenv("WANDB_MODE", "online")  # the configuration is what counts
    shipped = ["--config", "configs/logger/wandb_offline.yaml", "--config", "configs/attack/pgd8.yaml"]
    settings = ["--poison.from_epoch=1", "--trainer.max_epochs=3", "--data.validation=true"]
    outcome = run(*VBPR, *shipped, *settings, "--trainer.enable_progress_bar=false")
    assert outcome.code == 0, outcome.err
    (read,) = offline_runs.read_runs(Path("runs"))
    return read


def test_a_dashboard_needs_no_clicks(poisoned: offline_runs.OfflineRun) -> None:
    """All of this is read back from W&B's file."""
    assert (poisoned.about.project, poisoned.about.job_type) == ("catwalk", "fit")
    assert (poisoned.about.display_name, poisoned.about.run_group) == ("PGD (ε = 8) · VBPR · seed 0", "Synthetic")
    cell = {"dataset": "Synthetic", "protocol": "corrected", "extractor": "runs/traditional/features"}
    cell |= {"attack": "PGD (ε = 8)", "epsilon": 8.0, "recommender": "VBPR", "seed": 0}
    cell |= {"source": "Sandal", "target": "Sneaker"}
    cell |= {"differences": "", "scenario": "poisoning", "control": None}
    cell |= dict.fromkeys(("known_recommender", "defence", "pipeline", "crafted_on"))
    assert {name: poisoned.config[name] for name in cell} == cell
    assert set(cell) == set(SETTINGS)
    epochs = [row for row in poisoned.history if "val/hr@20" in row]
    assert [row["epoch"] for row in epochs] == [0, 1, 2]
    values = [name for name in epochs[0] if name.startswith("val/")]
    assert len(values) == 3 + 2 * 6
    assert {poisoned.axes[name] for name in values} == {"epoch"}
    sorted_by = {"val/hr@20", "val/ndcg@20", "val/chr@20/Sandal"}
    assert {name for name in poisoned.summary if name.startswith("max")} == {"max/" + name for name in sorted_by}
    for name in sorted_by:
        assert poisoned.summary[f"max/{name}"] == max(row[name] for row in epochs)
        assert poisoned.summary[name] == epochs[-1][name]
    assert {"attack/sr", "attack/feature_loss"} <= poisoned.summary.keys()


def test_a_run_knows_what_it_was_made_of(poisoned: offline_runs.OfflineRun) -> None:
    shop = Path("data/synthetic")
    stamp = FeatureTable.read("runs/traditional/features", Catalogue.read(shop))
    known = poisoned.config["provenance"]
    lists = [(shop / name).read_bytes() for name in ("dataset.json", "items.csv", "labelled_images.csv")]
    checkpoint = Path("runs/traditional/classifier.ckpt")
    assert known == {
        "catwalk": __version__,
        "dataset": "Synthetic",
        "lists": sha256(b"".join(hashlib.sha256(content).digest() for content in lists)),
        "purchases": known["purchases"],
        "catalogue": Catalogue.read(shop).fingerprint,
        "network": stamp.network,
        "classifier": sha256(checkpoint.read_bytes()),
        "protocol": dataclasses.asdict(AttackProtocol()),
    }
    saved = torch.load("runs/vbpr/recommender.ckpt", weights_only=True)
    assert known["purchases"] == saved["trained_on"]
    assert poisoned.config["poison"]["attack"]["init_args"]["epsilon"] == 8
    assert poisoned.config["data"]["init_args"]["dataset"] == "data/synthetic"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_free_adversarial_training_is_drawn_over_replays(work, run) -> None:
    cnn = ["fit", "--config", "configs/cnn/free_adversarial.yaml", "--config", "configs/data/synthetic.yaml"]
    small = ["--model.backbone_args={width: 8}", "--data.batch_size=32", "--trainer.max_epochs=8"]
    often = ["--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"]
    outcome = run(*cnn, *small, *often, "--config", "configs/logger/wandb_offline.yaml")
    assert outcome.code == 0, outcome.err
    (read,) = offline_runs.read_runs(Path("runs"))
    names = {name.split("/")[0] for name in read.axes.keys() | read.summary.keys()}
    assert {"train", "val", "max", "replays"} <= names
    assert {axis for name, axis in read.axes.items() if name.startswith(("train/", "val/"))} == {"replays"}
    batches = [row for row in read.history if "train/loss" in row]
    assert [row["replays"] for row in batches] == [4 * (batch + 1) for batch in range(len(batches))]
    assert batches[-1]["trainer/global_step"] == len(batches) - 1  # Lightning's own count
    epochs = [row for row in read.history if "val/accuracy" in row]
    assert [row["replays"] for row in epochs] == [len(batches) * 2, len(batches) * 4]
    assert read.summary["max/val/accuracy"] == max(row["val/accuracy"] for row in epochs)


@pytest.mark.parametrize("how", ["WANDB_MODE", "logger"])
def test_without_a_logger_nothing_is_written_but_checkpoints(
    work, run, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "WANDB_MODE":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    before = set(work.rglob("*"))
    assert run(*VBPR, *SHORT, *(["--trainer.logger=false"] if how == "logger" else [])).code == 0
    written = {path.relative_to(work).as_posix() for path in set(work.rglob("*")) - before}
    assert {path for path in written if not path.startswith("runs/vbpr/")} == set()


def test_online_without_an_account_is_said_in_one_line(work, run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(work))
    monkeypatch.setenv("NETRC", str(work / "none"))
    outcome = run(*VBPR, *SHORT, "--config", "configs/logger/wandb.yaml")
    assert outcome.code == 2
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("catwalk: error:"))
    assert line.startswith("catwalk: error: W&B: ")
    assert "wandb_offline.yaml" in line
    assert "Traceback" not in outcome.err


def test_tensorboard_or_one_line_that_says_what_to_install(work, run) -> None:
    outcome = run(*VBPR, *SHORT, "--config", "configs/logger/tensorboard.yaml")
    if importlib.util.find_spec("tensorboard") or importlib.util.find_spec("tensorboardX"):
        assert outcome.code == 0, outcome.err
        (folder,) = Path("runs/tensorboard").iterdir()
        assert {"hparams.yaml", "configuration.yaml"} <= {path.name for path in folder.iterdir()}
        assert list(folder.glob("events.out.tfevents.*"))
    else:
        assert outcome.code == 2
        assert "pip install" in outcome.err
        assert "tensorboard" in outcome.err
        assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("attack", "recommender", "seed", "poisons"),
    [("configs/data/demo.yaml", "VBPR", 0, None), ("configs/attack/cw.yaml", "AMR", 2, "CarliniWagner")],
)
def test_a_command_of_the_sweep_trains_what_it_says(
    work, run, attack: str, recommender: str, seed: int, poisons: str | None
) -> None:
    """The command is the one that W&B's own agent would make."""
    shipped = files("configs")
    sweep = yaml.safe_load(shipped.joinpath("sweep", "study.yaml").read_text(encoding="utf-8"))
    choice = {"config": attack, "model": recommender, "seed_everything": seed}
    assert all(value in sweep["parameters"][name]["values"] for name, value in choice.items())
    assert all(Path(str(shipped)).parent.joinpath(path).is_file() for path in sweep["parameters"]["config"]["values"])
    made = create_sweep_command_args({"args": {name: {"value": value} for name, value in choice.items()}})
    program, *parts = create_sweep_command(sweep["command"])
    assert program == sweep["program"] == "catwalk"
    arguments = [argument for part in parts for argument in (made["args"] if part == "${args}" else [str(part)])]
    outcome = run(*arguments, "--print_config")
    assert outcome.code == 0, outcome.err
    settings = yaml.safe_load(outcome.out)
    assert settings["model"]["class_path"].split(".")[-1] == recommender
    assert settings["seed_everything"] == seed
    assert settings["trainer"]["logger"]["init_args"]["offline"] is False
    attack = settings["poison"]["attack"]
    assert (attack and attack["class_path"].split(".")[-1]) == poisons
