"""Recommenders that begin with another's parameters, and floors that have none, in the grid of a study."""

import copy
import csv
import json

import numpy as np
import pytest
import torch

from catwalk.shop.catalogue import Catalogue
from catwalk.shop.splits import read_split

SMALL = {"factors": 4, "visual_factors": 4}


@pytest.fixture(scope="module")
def study(study_settings, run_study, tmp_path_factory):
    """Return the study when it has run. Do not write into its folders."""
    settings = copy.deepcopy(study_settings) | {"name": "warm", "seeds": [0], "attacks": study_settings["attacks"][1:]}
    settings["recommenders"] = {
        "VBPR": settings["recommenders"]["VBPR"],
        "AMR": {
            "model": {"class_path": "lightning_modules.AMR", "init_args": SMALL},
            "trainer": {"max_epochs": 0, "accelerator": "cpu"},
            "warm_start": "VBPR",
        },
        "Popularity": {"model": {"class_path": "lightning_modules.Popularity"}, "trainer": {"accelerator": "cpu"}},
        "Random": {"model": {"class_path": "lightning_modules.Random"}, "trainer": {"accelerator": "cpu"}},
    }
    return run_study(settings, tmp_path_factory.mktemp("warm") / "runs")


@pytest.fixture(scope="module")
def cells(study):
    with (study.folder / "cells.csv").open(encoding="utf-8") as file:
        return {(row["recommender"], row["attack"]): row for row in csv.DictReader(file)}


def test_every_recommender_begins_with_the_one_of_its_own_images(study, cells) -> None:
    manifest = json.loads((study.folder / "manifest.json").read_text())
    weights = {}
    for description, place in manifest["stages"].items():
        path = study.output / "cache" / place / "recommender.ckpt"
        if path.is_file():
            weights[description] = torch.load(path, weights_only=True)["state_dict"]
    for attack in ("No attack", "PGD (ε = 32)"):
        amr, vbpr = (weights[f"{name} on T, {attack}, seed 0"] for name in ("AMR", "VBPR"))
        assert all(torch.equal(amr[name], vbpr[name]) for name in vbpr)  # none of it has been trained further
    clean, poisoned = (weights[f"AMR on T, {attack}, seed 0"] for attack in ("No attack", "PGD (ε = 32)"))
    assert not torch.equal(clean["model.projection"], poisoned["model.projection"])
    values = ("chr@20", "hr@20", "ndcg@20", "auc")
    for attack in ("No attack", "PGD (ε = 32)"):
        assert [cells["AMR", attack][name] for name in values] == [cells["VBPR", attack][name] for name in values]


def test_floors_are_not_trained_and_know_no_attack(study, cells, shop) -> None:
    assert study.made.count("recommender") == study.made.count("recommendations") == 2 * 2 + 2
    for name in ("Popularity", "Random"):
        assert cells[name, "No attack"]["chr@20"] == cells[name, "PGD (ε = 32)"]["chr@20"]
    split = read_split(Catalogue.read(shop))
    counts = np.bincount(split.items, minlength=90)
    hits = []
    for user, target in zip(split.test.users.tolist(), split.test.items.tolist(), strict=True):
        seen = set(split.items[split.users == user].tolist())
        order = sorted((item for item in range(90) if item not in seen), key=lambda item: (-counts[item], item))
        hits.append(target in order[:20])
    assert float(cells["Popularity", "No attack"]["hr@20"]) == pytest.approx(np.mean(hits), rel=1e-6)


def test_the_second_run_finds_everything(study, run_study) -> None:
    assert run_study(study.settings, study.output).made == ()


def test_more_epochs_of_the_first_train_the_second_again(study, run_study) -> None:
    settings = copy.deepcopy(study.settings)
    settings["attacks"] = []
    settings["recommenders"]["VBPR"]["trainer"]["max_epochs"] = 4
    assert sorted(run_study(settings, study.output).made) == ["recommendations"] * 2 + ["recommender"] * 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"AMR": {"warm_start": "BPR"}}, "recommenders.AMR.warm_start: must name a recommender that stands before it"),
        ({"VBPR": {"warm_start": "AMR"}}, "recommenders.VBPR.warm_start: must name"),
        ({"Popularity": {"warm_start": "VBPR"}}, "recommenders.Popularity.warm_start: Popularity has nothing to begin"),
        (
            {"AMR": {"model": {"class_path": "lightning_modules.AMR", "init_args": {"factors": 5}}}},
            "AMR.warm_start: VBPR has other parameters: they differ in model.items.weight, model.projection",
        ),
        (
            {"AMR": {"model": {"class_path": "lightning_modules.AMR", "init_args": {"warm_start": "x.ckpt"}}}},
            "recommenders.AMR.warm_start: is 'VBPR', so leave model.warm_start out",
        ),
    ],
)
def test_what_cannot_be_begun_with(study, tmp_path, run_study, capfd, change, words) -> None:
    settings = copy.deepcopy(study.settings)
    for name, values in change.items():
        settings["recommenders"][name] |= values
    with pytest.raises(SystemExit) as caught:
        run_study(settings, tmp_path / "runs")
    assert caught.value.code == 2
    assert words in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_floor_is_nothing_to_begin_with(study, tmp_path, run_study, capfd) -> None:
    settings = copy.deepcopy(study.settings)
    recommenders = settings["recommenders"]
    recommenders["VBPR"], recommenders["AMR"]["warm_start"] = recommenders["Popularity"], "VBPR"
    with pytest.raises(SystemExit):
        run_study(settings, tmp_path / "runs")
    assert "recommenders.AMR.warm_start: VBPR has no parameters to begin with" in capfd.readouterr().err
