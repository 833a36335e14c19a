"""A recommender in a study that is trained against shifts which images can reach."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from pytorch_lightning import seed_everything

from catwalk.cli.main import main
from catwalk.networks.classifier import load_classifier
from catwalk.networks.features import FeatureTable
from catwalk.poisoning.reachable_shifts import find_shifts, shifts_of_attacked
from catwalk.poisoning.records import read_attacked_items
from catwalk.recommenders.reachable_shifts import ReachableShifts, ShiftSettings
from catwalk.shop.catalogue import Catalogue
from datamodules import InteractionTriplets
from lightning_modules import ImageRobustVBPR

pytestmark = pytest.mark.slow

SEARCH = {"epsilon": 8.0, "directions": 2, "iterations": 2}


def robust(**arguments):
    model = {"class_path": "lightning_modules.ImageRobustVBPR", "init_args": {"factors": 4, "visual_factors": 4}}
    return {"model": model, "trainer": {"max_epochs": 1, "accelerator": "cpu"}, "shifts": SEARCH} | arguments


@pytest.fixture(scope="module")
def study(study_settings, run_study, tmp_path_factory):
    settings = study_settings | {"name": "robust", "seeds": [0], "recommenders": {"robust": robust()}}
    settings |= {"attacks": study_settings["attacks"][:1], "controls": {"noise": [], "other_seeds": False}}
    return run_study(settings, tmp_path_factory.mktemp("robust") / "runs")


@pytest.fixture(scope="module")
def folders(study):
    manifest = json.loads((study.folder / "manifest.json").read_text())
    return {name: study.output / "cache" / place for name, place in manifest["stages"].items()}


def test_shifts_are_found_once_for_clean_images_and_once_for_those_of_an_attack(study, folders):
    assert study.made.count("shifts") == 2
    with (study.folder / "cells.csv").open(encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    assert [(cell["attack"], cell["scenario"]) for cell in cells] == [
        ("No attack", ""),
        ("FGSM (ε = 32)", "poisoning"),
        ("FGSM (ε = 32)", "evasion"),
    ]
    assert len([name for name in folders if name.startswith("Shifts within ε = 8")]) == 2


def test_they_are_those_of_the_images_that_the_shop_has(shop, folders):
    catalogue, classifier = Catalogue.read(shop), load_classifier(folders["CNN T"] / "classifier.ckpt")
    table = FeatureTable.read(folders["Features of 90 items by T"], catalogue)
    clean = find_shifts(classifier, catalogue, table, ShiftSettings(**SEARCH))
    attack = folders["FGSM (ε = 32), Sandal → Sneaker, CNN T"]
    poisoned = shifts_of_attacked(clean, classifier, *read_attacked_items(attack, catalogue), attack)
    names = {"clean images": clean, "FGSM (ε = 32), Sandal → Sneaker, CNN T": poisoned}
    for images, expected in names.items():
        found = ReachableShifts.read(folders[f"Shifts within ε = 8, {images}, CNN T"], table)
        assert torch.equal(found.shifts, expected.shifts)


def test_the_recommender_is_the_one_that_fit_trains_against_them(shop, folders, make_trainer):
    attack = "FGSM (ε = 32)"
    seed_everything(0, verbose=False)
    shifts = folders[f"Shifts within ε = 8, {attack}, Sandal → Sneaker, CNN T, CNN T"]
    model = ImageRobustVBPR(factors=4, visual_factors=4, shifts=shifts)
    data = InteractionTriplets(shop, folders[f"{attack}, Sandal → Sneaker, CNN T"], seed=0)
    make_trainer(max_epochs=1).fit(model, data)
    path = folders[f"robust on T, {attack}, seed 0"] / "recommender.ckpt"
    weights = torch.load(path, weights_only=True)["state_dict"]
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("recommender", "changes", "message"),
    [
        ({"shifts": SEARCH | {"epsilon": 0}}, {}, "recommenders.robust.shifts.epsilon must be at least 0.5, got 0"),
        ({"shifts": {"eps": 8}}, {}, "recommenders.robust.shifts: must be numbers called epsilon, directions, iter"),
        (
            {},
            {"protocol": {"feature_scale": "own_matrix"}},
            "protocol: ImageRobustVBPR is trained on the features of one",
        ),
        (
            {"model": {"class_path": "lightning_modules.VBPR"}},
            {},
            "recommenders.robust.shifts: is for ImageRobustVBPR; VBPR is not trained against shifts",
        ),
        (
            {"model": {"class_path": "lightning_modules.ImageRobustVBPR", "init_args": {"shifts": "x"}}},
            {},
            "recommenders.robust.model.shifts: leave it out, the study finds its own",
        ),
    ],
)
def test_says_what_is_wrong(study_settings, tmp_path: Path, monkeypatch, capsys, recommender, changes, message):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study_settings | {"recommenders": {"robust": robust(**recommender)}} | changes))
    monkeypatch.setattr("sys.argv", ["catwalk"])
    with pytest.raises(SystemExit) as exit_code:
        main(["study", "--config", str(path), "--output", str(tmp_path / "runs"), "--workers", "1"])
    assert exit_code.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_dry_run_says_that_it_cannot_measure_them(study_settings, tmp_path: Path, monkeypatch, capsys):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study_settings | {"recommenders": {"robust": robust()}}))
    monkeypatch.setattr("sys.argv", ["catwalk"])
    main(["study", "--config", str(path), "--output", str(tmp_path / "runs"), "--dry-run"])
    assert "Not known: shifts, recommender; nothing of that kind" in " ".join(capsys.readouterr().out.split())
