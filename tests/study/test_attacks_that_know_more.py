"""Attacks that know what sells, or a recommender, in the grid beside one that knows the network alone."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from catwalk.attacks import FeatureMatching, RankAttack
from catwalk.cli.main import main
from catwalk.networks.classifier import load_classifier
from catwalk.networks.features import FeatureTable
from catwalk.poisoning.poison import poison
from catwalk.recommenders.checkpoints import read_visual_model
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.splits import read_split

PGD = {"class_path": "catwalk.attacks.PGD", "init_args": {"epsilon": 32}}
MATCHING = {"class_path": "catwalk.attacks.FeatureMatching", "init_args": {"epsilon": 32, "iterations": 10}}
RANK = {"class_path": "catwalk.attacks.RankAttack", "init_args": {"epsilon": 32, "iterations": 10}}
CLEAN = "No attack"
NAMES = [CLEAN, "PGD (ε = 32)", "Feature matching (ε = 32)", "Rank attack (ε = 32)"]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def study(study_settings, run_study, tmp_path_factory: pytest.TempPathFactory):
    """Return the study when it has run. Do not write into its folders."""
    settings = study_settings | {"name": "knowing", "attacks": [PGD, MATCHING, RANK]}
    return run_study(settings, tmp_path_factory.mktemp("knowing") / "runs")


@pytest.fixture(scope="module")
def cells(study) -> list[dict[str, str]]:
    return read(study.folder / "cells.csv")


def stages(study) -> dict[str, Path]:
    """Return the folder of each stage by its description."""
    manifest = json.loads((study.folder / "manifest.json").read_text())
    return {description: study.output / "cache" / place for description, place in manifest["stages"].items()}


def test_the_grid_has_every_cell_that_can_be(cells) -> None:
    visual = [("VBPR", attack, seed) for attack in NAMES for seed in "01"]
    # Nobody can know by its features a recommender that has none.
    blind = [("BPR-MF", attack, seed) for attack in NAMES[:3] for seed in "01"]
    assert sorted((c["recommender"], c["attack"], c["seed"]) for c in cells) == sorted(visual + blind)


def test_there_is_a_rank_attack_for_each_recommender_that_was_trained(study, cells) -> None:
    made = {kind: study.made.count(kind) for kind in study.made}
    recommenders = 2 * 4 + 2
    assert made == {
        "classifier": 1,
        "accuracy": 1,
        "features": 1,
        "attack": 4,
        "perceptual": 4,
        "recommender": recommenders,
        "recommendations": recommenders,
    }
    descriptions = list(stages(study))  # in the order in which they run
    attacks = [f"Rank attack (ε = 32), Sandal in VBPR, seed {seed}, CNN T" for seed in (0, 1)]
    for seed, attack in enumerate(attacks):
        known = descriptions.index(f"VBPR on T, No attack, seed {seed}")
        aimed_at = descriptions.index(f"VBPR on T, Rank attack (ε = 32), seed {seed}")
        assert known < descriptions.index(attack) < aimed_at
    keys = [stages(study)[attack].name for attack in attacks]
    assert len(set(keys)) == 2
    losses = [c["feature_loss"] for c in cells if c["attack"] == NAMES[3]]
    assert len(set(losses)) == 2, "each has images of its own"
    assert len({c["feature_loss"] for c in cells if c["attack"] == NAMES[2]}) == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_a_rank_attack_is_on_the_recommender_of_its_seed(study, shop, tmp_path: Path, seed: int) -> None:
    catalogue, folders = Catalogue.read(shop), stages(study)
    clean = FeatureTable.read(folders["Features of 90 items by T"], catalogue)
    classifier = load_classifier(folders["CNN T"] / "classifier.ckpt")
    folder = folders[f"Rank attack (ε = 32), Sandal in VBPR, seed {seed}, CNN T"]
    for known in (0, 1):
        path = folders[f"VBPR on T, No attack, seed {known}"] / "recommender.ckpt"
        attack = RankAttack(32.0, iterations=10, recommender=path)
        poison(classifier, attack, catalogue, clean, tmp_path, source="Sandal", target=None)
        same = [
            (tmp_path / image.relative_to(folder)).read_bytes() == image.read_bytes() for image in folder.rglob("*.png")
        ]
        assert all(same) if known == seed else not any(same)
    items = np.flatnonzero(clean.categories == clean.category_names.index("Sandal"))
    assert len(same) == len(items) > 5
    scorer = read_visual_model(folders[f"VBPR on T, No attack, seed {seed}"] / "recommender.ckpt")
    tables = FeatureTable.read(folder, catalogue), clean
    after, before = (
        scorer.scores_of_images(table.features[items], torch.from_numpy(items)).exp().sum(1) for table in tables
    )
    assert (after > before).all()


def test_feature_matching_imitates_what_sells_best_in_the_training_data(study, shop, tmp_path: Path) -> None:
    catalogue, folders = Catalogue.read(shop), stages(study)
    clean = FeatureTable.read(folders["Features of 90 items by T"], catalogue)
    sold = np.bincount(read_split(catalogue).items, minlength=90)
    sneakers = np.flatnonzero(clean.categories == clean.category_names.index("Sneaker"))
    best = max(sneakers, key=lambda item: (sold[item], -item))
    attack = FeatureMatching(32.0, iterations=10, item=catalogue.item_ids[best])
    classifier = load_classifier(folders["CNN T"] / "classifier.ckpt")
    poison(classifier, attack, catalogue, clean, tmp_path, source="Sandal", target="Sneaker")
    folder = folders["Feature matching (ε = 32), Sandal → Sneaker, CNN T"]
    images = list(folder.rglob("*.png"))
    assert len(images) > 5
    for image in images:
        assert (tmp_path / image.relative_to(folder)).read_bytes() == image.read_bytes()


def test_other_purchases_concern_the_attack_that_knows_them(settings, shop, run_study, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    settings |= {"dataset": str(folder), "seeds": [0], "attacks": [PGD, MATCHING]}
    del settings["recommenders"]["VBPR"]
    run_study(settings, tmp_path / "runs")
    path = folder / "interactions.csv"
    header, *purchases = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *purchases[5:]]))
    again = run_study(settings, tmp_path / "runs")
    assert sorted(again.made) == ["attack", "perceptual", "recommendations", "recommender"]
    (made,) = [path for name, path in stages(again).items() if name.startswith("Feature matching")]
    assert made.stat().st_mtime_ns == max(path.stat().st_mtime_ns for path in made.parent.iterdir())


def test_tables_have_no_empty_rows(study, cells) -> None:
    assert {path.name for path in study.folder.glob("table*")} == {
        f"table{number}.{kind}" for number in (1, 2) for kind in ("csv", "md", "tex")
    }
    first = read(study.folder / "table1.csv")
    expected = [("VBPR", name) for name in NAMES] + [("BPR-MF", name) for name in NAMES[:3]]
    assert [(row["model"], row["attack"]) for row in first] == expected
    for row in first:
        its_cells = [c for c in cells if (c["recommender"], c["attack"]) == (row["model"], row["attack"])]
        values = [float(cell["chr@20"]) for cell in its_cells]
        assert float(row["T CHR@20"]) == pytest.approx(sum(values) / 2)
        assert float(row["T CHR@20 sd"]) == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    second = read(study.folder / "table2.csv")
    assert [row["attack"] for row in second] == NAMES[1:]
    for row in second:
        its_cells = [c for c in cells if c["recommender"] == "VBPR" and c["attack"] == row["attack"]]
        for value, column in (("T SR", "sr"), ("T FL", "feature_loss")):
            values = [float(cell[column]) for cell in its_cells]
            assert float(row[value]) == pytest.approx(sum(values) / 2)
            if value == "T FL":  # one attack for all seeds has none
                spread = abs(values[0] - values[1]) / 2**0.5
                assert (row["T FL sd"] == "") == (spread == 0)
                assert spread == 0 or float(row["T FL sd"]) == pytest.approx(spread)
    for kind in ("md", "tex"):
        for number in (1, 2):
            text = (study.folder / f"table{number}.{kind}").read_text()
            assert "–" not in text
            assert "nan" not in text.lower()
    assert "or raise the scores of Sandal." in (study.folder / "table2.md").read_text()
    assert {c["target"] for c in cells if c["attack"] == NAMES[3]} == {""}


def test_again_nothing_is_made_and_a_seed_more_makes_its_own(study, run_study, tmp_path: Path) -> None:
    again = run_study(study.settings, study.output)
    assert again.made == ()
    assert again.tables == study.tables
    less = run_study(study.settings | {"seeds": [1], "name": "less"}, study.output)
    assert less.made == ()
    more = run_study(study.settings | {"seeds": [0, 1, 2], "name": "more"}, study.output)
    made = {kind: more.made.count(kind) for kind in more.made}
    assert made == {"attack": 1, "perceptual": 1, "recommender": 4 + 1, "recommendations": 4 + 1}


def test_another_recommender_is_attacked_anew(settings, study, run_study) -> None:
    settings |= {"name": "other", "seeds": [0], "attacks": [RANK, MATCHING]}
    del settings["recommenders"]["BPR-MF"]
    settings["recommenders"]["VBPR"]["model"]["init_args"]["visual_factors"] = 5
    other = run_study(settings, study.output)
    # Trained clean, and after either attack; feature matching does not ask who recommends.
    made = {kind: other.made.count(kind) for kind in other.made}
    assert made == {"attack": 1, "perceptual": 1, "recommender": 3, "recommendations": 3}


def test_without_a_recommender_that_looks_at_images_there_is_no_rank_attack(settings, run_study, tmp_path) -> None:
    settings |= {"seeds": [0], "attacks": [RANK]}
    del settings["recommenders"]["VBPR"]
    study = run_study(settings, tmp_path / "runs")
    assert [cell["attack"] for cell in read(study.folder / "cells.csv")] == [CLEAN]
    assert "attack" not in study.made
    assert "Nothing was attacked." in study.tables["table2.md"].decode()


def test_the_papers_own_way_to_mean_a_budget(settings, run_study, tmp_path: Path) -> None:
    fgsm = {"class_path": "catwalk.attacks.FGSM", "init_args": {"epsilon": 8}}
    settings |= {"seeds": [0], "attacks": [fgsm, MATCHING]}
    del settings["recommenders"]["VBPR"]
    corrected = run_study(settings, tmp_path / "runs")
    protocol = {"name": "as published", "epsilon_space": "normalised", "clip": False, "quantise": "truncate"}
    published = run_study(settings | {"name": "published", "protocol": protocol}, tmp_path / "runs")
    assert sorted(published.made) == ["attack", "attack", "perceptual", "perceptual"]
    levels = [[int(c["linf_levels"]) for c in read(s.folder / "cells.csv")[1:]] for s in (corrected, published)]
    assert levels[0] == [8, 32]
    # 8 · 0.229 levels and 32 · 0.229, which truncating raises to the next whole number.
    assert levels[1] == [2, 8]
    assert {c["protocol"] for c in read(published.folder / "cells.csv")} == {"as published"}


ERRORS = {
    "a recommender of one's own": (
        {"attacks": [{"class_path": RANK["class_path"], "init_args": {"recommender": "runs/vbpr/recommender.ckpt"}}]},
        ["attacks: Rank attack (ε = 8)", "the study's own recommenders", "leave recommender out"],
    ),
    "an objective that is none": (
        {"attacks": [{"class_path": RANK["class_path"], "init_args": {"objective": "max"}}]},
        ["attacks.objective", "exponential", "max"],
    ),
    "accuracy under a rank attack": (
        {"accuracy_attack": {"class_path": RANK["class_path"]}},
        ["accuracy_attack", "must lead away from an image's category, which Rank attack (ε = 8) does not"],
    ),
    "accuracy under feature matching": (
        {"accuracy_attack": {"class_path": MATCHING["class_path"]}},
        ["accuracy_attack", "must lead away from an image's category, which Feature matching (ε = 8) does not"],
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_is_told_before_anything_is_written(settings, tmp_path: Path, capfd, name: str) -> None:
    changes, words = ERRORS[name]
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(settings | changes))
    with pytest.raises(SystemExit):
        main(["study", "--config", str(path), "--output", str(tmp_path / "runs"), "--workers", "1"])
    error = capfd.readouterr().err
    assert re.fullmatch(r"catwalk: error: [^\n]{10,600}\n", error), error
    for word in words:
        assert word in error
    assert not (tmp_path / "runs").exists()
