"""Where figures and configurations go."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
import yaml

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
        figures = [summary[name] for name in summary if name.startswith("val/chr@20/")]
        assert len(figures) == 6
        assert sum(figures) == pytest.approx(20)
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


@pytest.mark.parametrize(("name", "offline"), [("wandb", False), ("wandb_offline", True)])
def test_wandb_is_online_only_where_asked(work, run, name: str, offline: bool) -> None:
    outcome = run(*VBPR, "--config", f"configs/logger/{name}.yaml", "--print_config")
    assert yaml.safe_load(outcome.out)["trainer"]["logger"]["init_args"]["offline"] is offline


def test_an_attack_is_logged(work, run) -> None:
    pgd = ["--config", "configs/attack/pgd8.yaml", "--config", "configs/logger/csv.yaml"]
    assert run(*VBPR, *SHORT, *pgd).code == 0
    header = Path("runs/csv/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"attack/sr", "attack/feature_loss", "attack/linf_levels", "attack/n_attacked"} <= set(header)


def test_no_warning_is_shown(work) -> None:
    """In a process of its own, where warnings and log lines take the way that they take for a user."""
    environment = {**os.environ, "WANDB_CONSOLE": "off"}
    arguments = [sys.executable, "-m", "catwalk.cli", *VBPR, *SHORT]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    lines = (done.stdout + done.stderr).splitlines()
    for word in ("warn", "deprecat", "tip:", "litlogger"):
        assert not [line for line in lines if word in line.lower()]
