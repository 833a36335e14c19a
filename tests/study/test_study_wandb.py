"""A study's runs on W&B, read back from the files that W&B writes."""

import base64
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import offline_runs
import pytest
import yaml
from offline_runs import OfflineRun
from PIL import Image

NAMES = (
    *("dataset", "protocol", "differences", "extractor", "attack", "scenario", "control", "epsilon", "recommender"),
    *("seed", "source", "target"),
)


@pytest.fixture(autouse=True)
def own_wandb_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End W&B's service with every test, and leave its settings as they were."""
    monkeypatch.setenv("WANDB_MODE", "online")
    yield
    if sys.modules.get("wandb") is not None:
        sys.modules["wandb"].teardown()


@pytest.fixture(scope="module")
def written(finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the finished study has been asked for W&B's runs and artifacts, in a process of its own."""
    output = tmp_path_factory.mktemp("wandb") / "runs"
    shutil.copytree(finished.output, output)
    path = output.parent / "study.yaml"
    path.write_text(yaml.safe_dump(finished.settings, sort_keys=False))
    arguments = [
        sys.executable,
        "-m",
        "catwalk.cli.main",
        "study",
        "--config",
        str(path),
        f"--output={output}",
        "--workers=1",
    ]
    with offline_runs.proxy() as (settings, asked):
        environment = {**os.environ, **settings, "WANDB_MODE": "online"}
        subprocess.run([*arguments, "--wandb=offline", "--wandb_artifacts=true"], env=environment, check=True)
    assert asked == []
    return output


@pytest.fixture(scope="module")
def runs(written: Path) -> list[OfflineRun]:
    return offline_runs.read_runs(written)


@pytest.fixture(scope="module")
def rows(finished) -> list[dict[str, str]]:
    return read(finished.folder / "cells.csv")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_cell_is_a_run_that_sorts_by_its_figures(runs, rows) -> None:
    cells = {run.about.display_name: run for run in runs if run.about.job_type == "cell"}
    assert {run.about.run_group for run in runs} == {"tiny"}
    assert len(cells) == len(rows) == 12
    for row in rows:
        run = cells[f"{row['extractor']} · {row['attack']} · {row['recommender']} · seed {row['seed']}"]
        assert {name: "" if run.config[name] is None else str(run.config[name]) for name in NAMES} == {
            name: row[name] for name in NAMES
        }
        measured = {name: value for name, value in row.items() if name not in NAMES and value}
        texts = {"users", "taken_from"}
        values = {name: value if name in texts else float(value) for name, value in measured.items()}
        assert {name: run.summary[name] for name in values} == values
        assert {name for name in run.summary if not name.startswith("_")} == values.keys()


def test_a_run_holds_the_settings_of_its_stages(runs, finished) -> None:
    (run,) = (run for run in runs if run.about.display_name == "T · PGD (ε = 32) · VBPR · seed 1")
    stages = run.config["stages"]
    assert stages["attack"]["attack"] == finished.settings["attacks"][1] | {
        "init_args": stages["attack"]["attack"]["init_args"]
    }
    assert stages["attack"]["attack"]["init_args"]["epsilon"] == 32
    assert stages["recommender"]["model"]["init_args"]["visual_factors"] == 4
    for kind, settings in stages.items():
        assert (finished.output / "cache" / kind / settings["key"] / "stage.json").is_file()


def test_one_run_holds_the_tables_and_the_manifest(runs, finished) -> None:
    (study,) = (run for run in runs if run.about.job_type == "study")
    assert study.config["manifest"] == json.loads((finished.folder / "manifest.json").read_text())
    for name in ("table1", "table2", "networks", "cells"):
        table = study.table(name)
        rows = read(finished.folder / f"{name}.csv")
        assert table["columns"] == list(rows[0])
        for shown, row in zip(table["data"], rows, strict=True):
            for value, text in zip(shown, row.values(), strict=True):
                if value is None:
                    assert text == ""
                else:
                    assert value == (text if isinstance(value, str) else float(text))
        assert any(isinstance(value, float) for value in table["data"][-1])


def test_the_study_has_a_gallery_of_each_attack(runs, finished) -> None:
    (study,) = (run for run in runs if run.about.job_type == "study")
    galleries = {name: shown for name, shown in study.summary.items() if name.startswith("gallery/")}
    assert galleries.keys() == {"gallery/T/FGSM (ε = 32)", "gallery/T/PGD (ε = 32)"}
    for name, shown in galleries.items():
        assert shown["_type"] == "image-file"
        with Image.open(study.folder / "files" / shown["path"]) as image:
            assert image.size == (shown["width"], shown["height"])
            assert np.asarray(image.convert("RGB")).std() > 10
        assert shown["caption"].startswith(f"{name.split('/')[-1]}, Sandal → Sneaker, CNN T: success rate")
    assert len({shown["sha256"] for shown in galleries.values()}) == 2


def test_what_a_run_is_to_send_lies_in_its_folder_or_in_the_cache(runs, written: Path) -> None:
    paths = [
        Path(entry.local_path) for run in runs for artifact in run.artifacts for entry in artifact.manifest.contents
    ]
    assert len(paths) > 4 + 3
    for path in paths:
        assert path.is_file()
        assert path.is_relative_to(written / "wandb") or path.is_relative_to(written / "cache"), path


def test_artifacts_are_the_files_of_the_study(runs, written: Path) -> None:
    (study,) = (run for run in runs if run.about.job_type == "study")
    artifacts = {artifact.name: artifact for artifact in study.artifacts if artifact.type != "run_table"}
    assert sorted(artifact.type for artifact in artifacts.values()) == ["classifier", "features", "study"]
    for artifact in artifacts.values():
        folder = written / (
            artifact.name.replace("study-", "")
            if artifact.type == "study"
            else f"cache/{artifact.name.replace('-', '/')}"
        )
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert {entry.path for entry in artifact.manifest.contents} == files
        for entry in artifact.manifest.contents:
            content = (folder / entry.path).read_bytes()
            assert entry.digest == base64.b64encode(hashlib.md5(content).digest()).decode()


def test_runs_that_are_there_are_not_doubled(written: Path, finished, run_study, settings, tmp_path, capfd) -> None:
    output = tmp_path / "runs"
    shutil.copytree(written, output)
    settings |= {"wandb": "offline", "wandb_artifacts": True}

    def written_by(settings) -> int:
        before = set(output.glob("wandb/offline-run-*"))
        assert run_study(settings, output).made == ()
        return len(set(output.glob("wandb/offline-run-*")) - before)

    assert written_by(settings) == 0
    next(output.glob("wandb/offline-run-*/complete")).unlink()  # as if W&B had been killed
    assert written_by(settings) == 1
    del settings["attacks"][0]
    assert written_by(settings) == 1  # other tables, of cells that are there
    assert "1 runs written, 8 were there" in capfd.readouterr().out
    assert written_by({**settings, "name": "another"}) == 8 + 1


@pytest.mark.parametrize("how", [None, "disabled"])
def test_wandb_is_not_even_imported_when_it_is_not_wanted(
    finished, run_study, settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str | None
) -> None:
    output = tmp_path / "runs"
    shutil.copytree(finished.output, output)
    if how == "disabled":
        monkeypatch.setenv("WANDB_MODE", how)
        settings["wandb"] = "offline"
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it raises an ImportError
    run_study(settings, output)
    assert {path.name for path in output.iterdir()} == {"cache", "tiny"}


def test_online_without_an_account_ends_before_anything_is_made(
    run_study, settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(SystemExit) as raised:
        run_study({**settings, "wandb": "online"}, tmp_path / "runs")
    assert raised.value.code == 2
    assert capfd.readouterr().err.startswith("catwalk: error: wandb: online needs an account")
    assert not (tmp_path / "runs").exists()
