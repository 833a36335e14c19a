"""A study of defended networks beside the traditional one."""

import copy
import csv

import pytest


@pytest.fixture
def defended(settings):
    """Return a study with T, AT, FAT and fast AT, one attack and one recommender."""
    del settings["recommenders"]["BPR-MF"]
    del settings["attacks"][1]
    settings["seeds"] = [0]
    traditional = settings["extractors"]["T"]
    for name, cls, arguments in (
        ("AT", "AdversarialClassifier", {"iterations": 3}),
        ("FAT", "FreeAdversarialClassifier", {"replays": 2}),
        ("Fast AT", "FastAdversarialClassifier", {}),
    ):
        extractor = copy.deepcopy(traditional)
        extractor["model"]["class_path"] = f"lightning_modules.{cls}"
        extractor["model"]["init_args"] |= {"epsilon": 16, **arguments}
        settings["extractors"][name] = extractor
    settings["accuracy_attack"] = {"class_path": "catwalk.attacks.PGD", "init_args": {"epsilon": 16, "targeted": False}}
    return settings


@pytest.mark.slow
def test_every_network_has_its_own_columns_and_cells(defended, run_study, tmp_path):
    study = run_study(defended, tmp_path / "runs")
    names = ["T", "AT", "FAT", "Fast AT"]
    assert {kind: study.made.count(kind) for kind in set(study.made)} == {
        "classifier": 4,
        "accuracy": 4,
        "features": 4,
        "attack": 4,
        "perceptual": 4,
        "recommender": 8,
        "recommendations": 8,
    }
    with (study.folder / "cells.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert [(cell["extractor"], cell["attack"]) for cell in cells] == [
        (name, attack) for name in names for attack in ("No attack", "FGSM (ε = 32)")
    ]
    with (study.folder / "networks.csv").open() as file:
        networks = {row["cnn"]: float(row["under PGD (ε = 16)"]) for row in csv.DictReader(file)}
    assert list(networks) == names
    assert all(networks[name] > networks["T"] for name in names[1:])
    with (study.folder / "table1.csv").open() as file:
        header = next(csv.reader(file))
    assert [column for column in header if column.endswith("CHR@20")] == [f"{name} CHR@20" for name in names]


def test_settings_of_another_training_are_refused(defended, run_study, tmp_path, capfd):
    defended["extractors"]["FAT"]["model"]["init_args"]["iterations"] = 3
    with pytest.raises(SystemExit):
        run_study(defended, tmp_path / "runs")
    assert "extractors.FAT.model" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("trainer", "words"),
    [({"gradient_clip_val": 1.0}, "clipping"), ({"accumulate_grad_batches": 2}, "accumul")],
)
def test_what_free_at_cannot_do_is_told_in_one_line(defended, run_study, tmp_path, capfd, trainer, words):
    defended["extractors"] = {"FAT": defended["extractors"]["FAT"]}
    defended["extractors"]["FAT"]["trainer"] |= trainer
    with pytest.raises(SystemExit) as info:
        run_study(defended, tmp_path / "runs")
    assert info.value.code == 2
    error = capfd.readouterr().err
    assert error.startswith("catwalk: error: CNN FAT: ")
    assert words in error
    assert len(error.splitlines()) == 1
