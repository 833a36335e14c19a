"""Studies without recommenders, and of networks that know little of the category under attack."""

import copy
import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

TABLES = {f"{stem}.{kind}" for stem in ("table2", "networks") for kind in ("csv", "md", "tex")}


@pytest.fixture(scope="module")
def images_only(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the shop without what anybody bought."""
    folder = tmp_path_factory.mktemp("images_only") / "shop"
    shutil.copytree(shop, folder, ignore=shutil.ignore_patterns(".cache", "interactions.*", "splits"))
    return folder


@pytest.mark.parametrize("recommenders", [{}, None, "left out"])
def test_without_recommenders_networks_and_attacks_are_measured(
    finished, images_only, settings, run_study, tmp_path: Path, capfd, recommenders
) -> None:
    output = tmp_path / "runs"
    shutil.copytree(finished.output, output)
    settings |= {"dataset": str(images_only), "recommenders": recommenders, "top_k": 1000}
    if recommenders == "left out":
        del settings["recommenders"]
    study = run_study(settings, output)
    assert study.made == ()  # the results of the same stages
    assert {path.name for path in study.folder.iterdir()} == TABLES | {
        "cells.csv",
        "effects.csv",
        "findings.json",
        "manifest.json",
        "study.yaml",
        "plots",
        "report",
    }
    for name in TABLES:
        assert (study.folder / name).read_bytes() == (finished.folder / name).read_bytes(), name
    with (study.folder / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["attack"] for row in rows] == ["No attack", "FGSM (ε = 32)", "PGD (ε = 32)"]
    assert {row["recommender"] + row["seed"] + row["chr@1000"] + row["auc"] for row in rows} == {""}
    with (finished.folder / "cells.csv").open() as file:
        before = {row["attack"]: row["sr"] for row in csv.DictReader(file)}
    assert {row["attack"]: row["sr"] for row in rows} == before
    manifest = json.loads((study.folder / "manifest.json").read_text())
    assert {place.split("/")[0] for place in manifest["stages"].values()} == {
        *("classifier", "accuracy", "features", "attack", "perceptual")
    }
    shown = " ".join(capfd.readouterr().out.split())
    assert (
        "with another grid (recommender VBPR, BPR-MF, now none; seed 0, 1, now none), which this one replaces" in shown
    )
    assert "Table 1" not in shown
    assert (study.folder / "effects.csv").read_text() == ""


def test_an_attack_that_knows_purchases_needs_some(images_only, settings, tmp_path, run_study, capfd) -> None:
    settings |= {"dataset": str(images_only), "recommenders": {}}
    settings["attacks"][0] = {"class_path": "catwalk.attacks.FeatureMatching", "init_args": {"epsilon": 8}}
    with pytest.raises(SystemExit):
        run_study(settings, tmp_path / "runs")
    assert "interactions" in capfd.readouterr().err


def test_recommenders_need_purchases(images_only, settings, tmp_path, run_study, capfd) -> None:
    with pytest.raises(SystemExit):
        run_study(settings | {"dataset": str(images_only)}, tmp_path / "runs")
    assert "interactions" in capfd.readouterr().err


def test_what_is_replaced_is_said_and_nothing_else(finished, settings, run_study, tmp_path: Path, capfd) -> None:
    output = tmp_path / "runs"
    shutil.copytree(finished.output, output)

    def said(changed: dict) -> str:
        capfd.readouterr()
        run_study(changed, output)
        out = " ".join(capfd.readouterr().out.split())
        return out[out.index("prevents that") + 14 : out.index(" Table ")]

    assert said(settings) == ""
    assert said(settings | {"name": "another"}) == ""
    fewer = copy.deepcopy(settings)
    del fewer["attacks"][0]
    del fewer["recommenders"]["BPR-MF"]
    fewer["seeds"] = [1]
    line = said(fewer)
    assert f"{output / 'tiny'} holds the tables of a study with another grid (" in line
    for difference in ("attack No attack, FGSM (ε = 32), PGD (ε = 32), now No attack, PGD", "seed 0, 1, now 1"):
        assert difference in line
    assert line.endswith("which this one replaces; another name keeps them")
    assert said(fewer) == ""
    (output / "tiny" / "manifest.json").write_text("{")  # no study's
    assert said(fewer) == ""
    other = copy.deepcopy(fewer)
    other["accuracy_attack"] = {"class_path": "catwalk.attacks.FGSM", "init_args": {"targeted": False}}
    run_study(fewer, output)
    assert "with other settings, data or code, which this one replaces" in said(other)


@pytest.fixture(scope="module")
def untrained(study_settings, images_only, run_study, tmp_path_factory: pytest.TempPathFactory):
    """Return a study of a network that has learnt next to nothing."""
    settings = copy.deepcopy(study_settings)
    settings |= {"name": "untrained", "dataset": str(images_only), "protocol": {"source_items": "dataset"}}
    del settings["recommenders"], settings["attacks"][1]
    settings["extractors"]["T"]["trainer"] |= {"max_epochs": 1, "limit_train_batches": 1}
    return run_study(settings, tmp_path_factory.mktemp("untrained") / "runs")


def predictions(study) -> Counter[str]:
    """Return how often the network sees each category."""
    (path,) = study.output.glob("cache/features/*/predictions.csv")
    with path.open() as file:
        return Counter(row["category"] for row in csv.DictReader(file))


def test_a_network_near_chance_is_called_out(untrained, images_only: Path) -> None:
    with (images_only / "labelled_images.csv").open() as file:
        test = Counter(row["category"] for row in csv.DictReader(file) if row["split"] == "test")
    chance = max(test.values()) / test.total()
    manifest = json.loads((untrained.folder / "manifest.json").read_text())
    accuracy = manifest["classifiers"]["T"]["accuracy"]
    assert accuracy < 2 * chance
    sentence = f"CNN T is near chance: its accuracy on the test images is {accuracy:.2%}"
    for stem in ("table2", "networks"):
        assert sentence in (untrained.folder / f"{stem}.md").read_text()
        assert sentence.replace("%", r"\%") in (untrained.folder / f"{stem}.tex").read_text()
    assert f"always naming the most frequent category has {chance:.2%}" in (untrained.folder / "table2.md").read_text()


def test_a_network_that_disagrees_with_the_dataset_is_called_out(untrained, images_only: Path) -> None:
    (path,) = untrained.output.glob("cache/features/*/predictions.csv")
    with (images_only / "items.csv").open() as items, path.open() as seen:
        labelled = {row["item_id"] for row in csv.DictReader(items) if row["category"] == "Sandal"}
        sees = {row["item_id"] for row in csv.DictReader(seen) if row["category"] == "Sandal"}
    both = len(labelled & sees)
    assert 2 * both < max(len(labelled), len(sees))
    text = (untrained.folder / "table2.md").read_text()
    share = f"only {both}" if both else "none"
    missed = f"CNN T sees Sandal in {share} of the {len(labelled)} items that the dataset labels so"
    others = f"Of the {len(sees)} items that CNN T sees as Sandal the dataset labels {len(sees) - both} otherwise"
    assert (missed in text) == (2 * both < len(labelled) and len(sees) > 0)  # it is near chance besides
    assert (others in text) == (2 * both < len(sees))


def test_a_source_that_no_network_sees_is_told_with_the_remedy(untrained, images_only, run_study, capfd) -> None:
    settings = copy.deepcopy(untrained.settings)
    seen = predictions(untrained)
    names = json.loads((images_only / "dataset.json").read_text())["categories"]
    source, target = [name for name in names if not seen[name]][:2]
    accuracy = json.loads((untrained.folder / "manifest.json").read_text())["classifiers"]["T"]["accuracy"]
    settings |= {"name": "unseen", "source": source, "target": target, "protocol": {"source_items": "network"}}
    with pytest.raises(SystemExit):
        run_study(settings, untrained.output)
    error = capfd.readouterr().err
    assert error.startswith(
        f"catwalk: error: CNN T, accuracy {accuracy:.4f} on test images: source: no item of Synthetic"
    )
    (most, count), *_ = seen.most_common()
    assert f"sees most often {most} ({count})" in error
    assert "protocol.source_items: dataset" in error
    assert len(error.splitlines()) == 1


def test_a_sound_network_is_not_called_out(finished) -> None:
    for stem in ("table1", "table2", "networks"):
        text = (finished.folder / f"{stem}.md").read_text()
        assert "near chance" not in text
        assert "labels so" not in text
        assert "otherwise" not in text
