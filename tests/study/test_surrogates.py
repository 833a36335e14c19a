"""Attacks that are crafted on one recommender, and judged on others."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from catwalk.attacks import RankAttack
from catwalk.cli.main import main
from catwalk.networks.classifier import load_classifier
from catwalk.networks.features import FeatureTable
from catwalk.poisoning.poison import poison
from catwalk.recommenders.checkpoints import read_visual_model
from catwalk.recommenders.sensitivity import visual_sensitivity
from catwalk.shop.catalogue import Catalogue

pytestmark = pytest.mark.slow


def rank(**arguments):
    return {"class_path": "catwalk.attacks.RankAttack", "init_args": {"epsilon": 32, "iterations": 5, **arguments}}


ON_VBPR, ON_BOTH = rank(surrogates=["VBPR@5"]), rank(surrogates=["VBPR", "AMR@1"])
NAMES = ["Rank attack (ε = 32) · surrogates = ['VBPR@5']", "Rank attack (ε = 32) · surrogates = ['VBPR', 'AMR@1']"]


@pytest.fixture(scope="module")
def settings(study_settings):
    small = study_settings["recommenders"]["VBPR"]
    vbpr = small | {"trainer": {"max_epochs": 1, "accelerator": "cpu"}}
    amr = vbpr | {"model": small["model"] | {"class_path": "lightning_modules.AMR"}}
    return study_settings | {"name": "surrogates", "recommenders": {"VBPR": vbpr, "AMR": amr}, "seeds": [0]}


@pytest.fixture(scope="module")
def study(settings, run_study, tmp_path_factory):
    return run_study(settings | {"attacks": [ON_VBPR, ON_BOTH]}, tmp_path_factory.mktemp("surrogates") / "runs")


@pytest.fixture(scope="module")
def cells(study):
    with (study.folder / "cells.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folders(study):
    manifest = json.loads((study.folder / "manifest.json").read_text())
    return {name: study.output / "cache" / place for name, place in manifest["stages"].items()}


def test_every_cell_says_on_which_recommenders_its_images_were_crafted(cells):
    found = {(cell["recommender"], cell["attack"], cell["known_recommender"]) for cell in cells}
    known = ["VBPR, seed 5", "VBPR, seed 0 + AMR, seed 1"]
    expected = {
        (name, *row) for name in ("VBPR", "AMR") for row in [("No attack", ""), *zip(NAMES, known, strict=True)]
    }
    assert found == expected
    assert len(cells) == 6


def test_images_are_crafted_once_for_all_whom_they_meet(study, cells, folders):
    assert study.made.count("attack") == 2
    # Those of the study on clean images, and two that the attacker alone has trained.
    clean = [name for name in folders if ", No attack, seed" in name and not name.startswith("Lists")]
    assert sorted(clean) == [f"{name} on T, No attack, seed {seed}" for name, seed in OF_CLEAN]
    for name in NAMES:
        assert len({cell["feature_loss"] for cell in cells if cell["attack"] == name}) == 1


OF_CLEAN = [("AMR", 0), ("AMR", 1), ("VBPR", 0), ("VBPR", 5)]


def test_the_images_are_those_of_the_same_checkpoints(shop, folders, tmp_path: Path):
    catalogue = Catalogue.read(shop)
    clean = FeatureTable.read(folders["Features of 90 items by T"], catalogue)
    classifier = load_classifier(folders["CNN T"] / "classifier.ckpt")
    known = [("VBPR", 0), ("AMR", 1)]
    paths = [folders[f"{name} on T, No attack, seed {seed}"] / "recommender.ckpt" for name, seed in known]
    attack = RankAttack(32.0, iterations=5, recommender=paths)
    poison(classifier, attack, catalogue, clean, tmp_path, source="Sandal", target=None)
    folder = folders[f"{NAMES[1]}, Sandal in VBPR, seed 0 + AMR, seed 1, CNN T"]
    images = list(folder.rglob("*.png"))
    assert len(images) > 5
    for image in images:
        assert (tmp_path / image.relative_to(folder)).read_bytes() == image.read_bytes()
    items = torch.from_numpy(clean.categories == clean.category_names.index("Sandal")).nonzero()[:, 0]
    after, before = (
        sum(
            scorer.scores_of_images(table.features[items], items).logsumexp(1) / visual_sensitivity(scorer)
            for scorer in map(read_visual_model, paths)
        )
        for table in (FeatureTable.read(folder, catalogue), clean)
    )
    assert (after > before).all()


@pytest.mark.parametrize(
    ("surrogates", "message"),
    [
        (["NCF"], r"surrogates must be recommenders of the study \(AMR, BPR-MF, VBPR\), got 'NCF'"),
        (["BPR-MF"], "surrogates must look at images and be trained, which BPR-MF does not"),
    ],
)
def test_refuses_other_surrogates(settings, study_settings, tmp_path, monkeypatch, capsys, surrogates, message):
    others = settings["recommenders"] | {"BPR-MF": study_settings["recommenders"]["BPR-MF"]}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(settings | {"recommenders": others, "attacks": [rank(surrogates=surrogates)]}))
    monkeypatch.setattr("sys.argv", ["catwalk"])
    with pytest.raises(SystemExit) as exit_code:
        main(["study", "--config", str(path), "--output", str(tmp_path / "runs"), "--workers", "1"])
    assert exit_code.value.code == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
