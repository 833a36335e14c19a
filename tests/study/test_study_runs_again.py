"""Repeated, changed and broken runs of a study."""

import csv
import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageOps

from catwalk.results.store import StageCache
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.labelled_images import LabelledImages
from catwalk.shop.splits import LeaveLastOut, RatioSplit, read_split
from catwalk.study.stages.attack import AttackStage
from catwalk.study.stages.classifier import ClassifierStage
from catwalk.study.stages.features import FeaturesStage
from catwalk.study.stages.recommender import RecommenderStage


def results(output: Path) -> dict[str, int]:
    """Return every result in the cache with the time at which it was written."""
    return {
        f"{path.parent.parent.name}/{path.parent.name}": path.stat().st_mtime_ns for path in output.rglob("stage.json")
    }


def leftovers(output: Path) -> list[Path]:
    return list((output / "cache" / ".partial").glob("*"))


def test_other_runs_recompute_what_has_changed_and_nothing_else(
    finished, settings, run_study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "runs"

    def said() -> str:
        return " ".join(capsys.readouterr().out.split())

    first = run_study(settings, output)
    before = results(output)
    assert before.keys() == results(finished.output).keys()
    assert len(first.tables) == 6
    second = run_study(settings, output)
    assert second.made == ()
    assert results(output) == before
    assert second.tables == first.tables == finished.tables

    settings["attacks"][1]["init_args"]["epsilon"] = 16  # its images, and VBPR's two retrainings on them
    third = run_study(settings, output)
    lists = ["recommendations"] * 2
    assert sorted(third.made) == ["attack", "perceptual", *lists, "recommender", "recommender"]
    assert {name: written for name, written in results(output).items() if name in before} == before
    assert "again, because" not in said()  # another attack

    settings["recommenders"]["BPR-MF"]["model"]["init_args"]["factors"] = 5
    assert sorted(run_study(settings, output).made) == [*lists, "recommender", "recommender"]
    screen = said()
    for seed in (0, 1):
        assert f"BPR-MF on T, No attack, seed {seed}: again, because setting factors changed" in screen
    assert screen.count("again, because setting factors changed") == 2
    settings["seeds"] = [0, 1, 2]
    assert sorted(run_study(settings, output).made) == ["recommendations"] * 4 + ["recommender"] * 4
    settings["accuracy_attack"] = {"class_path": "catwalk.attacks.FGSM", "init_args": {"targeted": False}}
    study = run_study(settings, output)
    assert study.made == ("accuracy",)
    assert (study.folder / "networks.csv").read_text().splitlines()[0] == "cnn,clean,under FGSM (ε = 8)"


def test_a_split_is_part_of_what_a_recommender_depends_on(finished, settings, run_study, tmp_path: Path) -> None:
    output = tmp_path / "runs"
    shutil.copytree(finished.output, output)
    settings["recommenders"] = {"Popularity": {"model": {"class_path": "lightning_modules.Popularity"}}}
    settings["seeds"] = [0]
    by_share = {"class_path": "catwalk.shop.splits.RatioSplit", "init_args": {"test_share": 0.5}}
    hit_rates = []
    for split in (None, by_share):
        study = run_study({**settings, "split": split}, output)
        assert study.made == ("recommender", "recommendations")
        manifest = json.loads((study.folder / "manifest.json").read_text())
        with (study.folder / "cells.csv").open() as file:
            hit_rates.append(float(next(csv.DictReader(file))["hr@20"]))
    assert manifest["dataset"]["split"] == {**by_share, "init_args": {"test_share": 0.5, "validation_share": 0.1}}
    catalogue = Catalogue.read(Path(settings["dataset"]))
    for rule, found in zip((LeaveLastOut(), RatioSplit(0.5)), hit_rates, strict=True):
        split = read_split(catalogue, rule=rule)
        sold = np.bincount(split.items, minlength=len(catalogue))
        hits = []
        for user in range(split.num_users):
            wanted = set(split.test.items[split.test.users == user].tolist())
            seen = set(split.items[split.users == user].tolist())
            order = sorted(set(range(len(catalogue))) - seen, key=lambda item, sold=sold: (-sold[item], item))
            hits += [bool(wanted & set(order[:20]))] if wanted else []
        assert found == pytest.approx(np.mean(hits), rel=1e-6)
    assert hit_rates[0] < hit_rates[1]
    settings["recommenders"]["Popularity"]["data"] = {"split": by_share}
    settings["name"] = "of a recommender"
    with pytest.raises(SystemExit):
        run_study(settings, output)
    assert not (output / "of a recommender").exists()


@pytest.mark.slow
def test_a_study_goes_on_after_a_failure_in_any_stage(
    finished, settings, run_study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "runs"
    write = StageCache.write
    failed: set[str] = set()

    def fail_once(self: StageCache, stage: str, key: str, make, *description: str) -> None:
        """Fail when the stage has made its files."""

        def make_and_fail(folder: Path):
            record = make(folder)
            if key not in failed:
                failed.add(key)
                raise KeyboardInterrupt if len(failed) % 2 else ValueError("broken")
            return record

        write(self, stage, key, make_and_fail, *description)

    monkeypatch.setattr(StageCache, "write", fail_once)
    attempts = 0
    while True:
        attempts += 1
        try:
            study = run_study(settings, output)
            break
        except (ValueError, SystemExit):
            assert leftovers(output) == []
    assert attempts == 1 + len(finished.made)
    assert study.tables == finished.tables


def test_a_failure_of_the_first_stage_leaves_nothing(settings, run_study, tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr("lightning_modules.ProductClassifier.training_step", broken)
    with pytest.raises(ValueError, match="broken"):
        run_study(settings, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


RUN_AND_DIE = """
import os, signal, sys
from catwalk.cli.main import main
from catwalk.results.store import StageCache

write, count = StageCache.write, 0

def write_and_die(self, stage, key, make, *description):
    global count
    count += 1

    def make_and_die(folder):
        record = make(folder)
        if count == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        return record

    write(self, stage, key, make_and_die, *description)

StageCache.write = write_and_die
main(["study", "--config", sys.argv[2], "--output", sys.argv[3], "--workers", "1"])
"""


def test_a_killed_study_goes_on(finished, settings, run_study, tmp_path: Path) -> None:
    output, path = tmp_path / "runs", tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    at = random.randint(1, len(finished.made))  # whichever it is, the outcome must be the same
    killed = subprocess.run([sys.executable, "-c", RUN_AND_DIE, str(at), str(path), str(output)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(leftovers(output)) == 1
    assert len(results(output)) == at - 1, at
    study = run_study(settings, output)
    assert len(study.made) == len(finished.made) - (at - 1), at
    assert study.tables == finished.tables, at
    assert leftovers(output) == []


def damage_one_of_each(cache: Path) -> dict[str, str]:
    """Damage a file of a result of every kind, each in another way; return what the screen is to say of it."""
    folders = {kind: sorted((cache / kind).iterdir())[0] for kind in ("classifier", "accuracy", "features", "attack")}
    classifier, features = folders["classifier"] / "classifier.ckpt", folders["features"] / "features.safetensors"
    recommenders = sorted(path for path in (cache / "recommender").iterdir() if (path / "recommender.ckpt").exists())
    image = sorted(folders["attack"].rglob("*.png"))[0]
    content = bytearray(classifier.read_bytes())
    content[len(content) // 2] ^= 1
    classifier.write_bytes(content)
    with features.open("r+b") as file:
        file.seek(features.stat().st_size // 2)
        file.write(bytes(256))
    ImageOps.invert(Image.open(image).convert("RGB")).save(image)
    record = folders["accuracy"] / "stage.json"
    record.write_text(record.read_text().replace('"accuracy": ', '"accuracy": 1'))
    (recommenders[0] / "stage.json").write_text("")
    shutil.rmtree(recommenders[1])
    recommenders[1].mkdir()
    (sorted((cache / "recommendations").iterdir())[0] / "users.parquet").unlink()
    return {
        "CNN T: classifier.ckpt was changed": "classifier",
        "Accuracy of CNN T under PGD (ε = 8): stage.json was changed": "accuracy",
        "features.safetensors was changed": "features",
        f"{image.relative_to(folders['attack']).as_posix()} was changed": "attack",
        "stage.json is missing or damaged": "recommender",
        "users.parquet is missing": "recommendations",
    }


def test_damaged_results_are_told_and_made_again(
    finished, settings, run_study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "runs"
    shutil.copytree(finished.output, output)
    (output / "tiny").rename(output / "before")
    lines = damage_one_of_each(output / "cache")
    capsys.readouterr()
    study = run_study(settings, output)
    assert study.tables == finished.tables
    assert sorted(study.made) == sorted([*lines.values(), "recommender"])
    screen = " ".join(capsys.readouterr().out.split())
    for line in lines:
        assert line in screen
    assert screen.count("it is set aside in") == len(study.made)
    assert len(list((output / "cache" / "damaged").iterdir())) == len(study.made)
    assert run_study(settings, output).made == ()


def halve(dataset: Path) -> None:
    path = dataset / "interactions.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))


def invert_an_image(dataset: Path) -> None:
    path = dataset / Catalogue.read(dataset).images[3]
    ImageOps.invert(Image.open(path).convert("RGB")).save(path)


def invert_a_labelled_image(dataset: Path) -> None:
    path = dataset / LabelledImages.read(Catalogue.read(dataset)).images[3]
    ImageOps.invert(Image.open(path).convert("RGB")).save(path)


def swap_categories(dataset: Path) -> None:
    path = dataset / "items.csv"
    path.write_text(path.read_text().replace("Sandal", "x").replace("Sneaker", "Sandal").replace("x", "Sneaker"))


@pytest.mark.parametrize(
    ("change", "kind", "name"),
    [
        (halve, RecommenderStage, "interactions.csv"),
        (invert_an_image, FeaturesStage, "images/"),
        (invert_a_labelled_image, ClassifierStage, ".png"),
        (swap_categories, AttackStage, "items.csv"),
    ],
    ids=["purchases", "an image of the features", "an image of the training", "categories"],
)
def test_what_is_read_while_the_dataset_changes_is_not_kept(
    finished, settings, run_study, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, change, kind, name
) -> None:
    dataset, output = tmp_path / "shop", tmp_path / "runs"
    shutil.copytree(settings["dataset"], dataset)
    settings["dataset"] = str(dataset)
    if kind is not ClassifierStage:  # what comes before is as it was
        shutil.copytree(finished.output, output)
        for folder in (output / "cache" / kind.kind).iterdir():
            shutil.rmtree(folder)
    before = results(output)
    make = kind.make

    def change_and_make(self, *arguments):
        change(dataset)
        return make(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "make", change_and_make)
        with pytest.raises(SystemExit) as ended:
            run_study(settings, output)
    assert ended.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert name in error
    assert "was written" in error or "has changed" in error or "another catalogue" in error
    assert results(output) == before
    shutil.rmtree(dataset)
    shutil.copytree(finished.settings["dataset"], dataset)
    assert run_study(settings, output).tables == finished.tables


def test_seconds_are_in_the_cells_and_nowhere_else(finished) -> None:
    for record in finished.output.rglob("stage.json"):
        content = json.loads(record.read_text())
        assert content["seconds"] > 0
        assert "seconds" not in json.dumps(content["settings"])
    assert all(b"second" not in content for content in finished.tables.values())
