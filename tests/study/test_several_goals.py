"""Studies whose attacks share a class and a budget, or want different things, or which attack nothing."""

import csv
from pathlib import Path

import pytest

from catwalk.errors import CatwalkError
from catwalk.study.grid import _distinct_names


def test_names_tell_what_differs_and_nothing_else() -> None:
    names = ["PGD (ε = 8)", "FGSM (ε = 8)", "PGD (ε = 8)"]
    settings = [
        {"epsilon": 8, "iterations": 10, "seed": 0},
        {"epsilon": 8},
        {"epsilon": 8, "iterations": 50, "seed": 0},
    ]
    assert _distinct_names(names, settings) == [
        "PGD (ε = 8) · iterations = 10",
        "FGSM (ε = 8)",
        "PGD (ε = 8) · iterations = 50",
    ]
    with pytest.raises(CatwalkError, match=r"PGD \(ε = 8\) occurs twice with the same settings"):
        _distinct_names(names[:1] * 2, settings[:1] * 2)


def test_a_targeted_and_an_untargeted_attack_stand_side_by_side(settings, run_study, tmp_path: Path) -> None:
    pgd = {"class_path": "catwalk.attacks.PGD", "init_args": {"epsilon": 32}}
    untargeted = {**pgd, "init_args": {"epsilon": 32, "targeted": False}}
    del settings["recommenders"]["BPR-MF"]
    settings |= {"attacks": [pgd, untargeted], "seeds": [0]}
    study = run_study(settings, tmp_path / "runs")
    with (study.folder / "cells.csv").open() as file:
        cells = {cell["attack"]: cell for cell in csv.DictReader(file)}
    assert list(cells) == ["No attack", "PGD (ε = 32) · targeted = True", "PGD (ε = 32) · targeted = False"]
    assert [cell["target"] for cell in cells.values()] == ["Sneaker", "Sneaker", ""]
    (folder,) = [
        path.parent
        for path in study.output.rglob("attacked_items.csv")
        if '"target": null' in (path.parent / "attack.json").read_text()
    ]
    with (folder / "attacked_items.csv").open() as file:
        left = [row["category_after"] != "Sandal" for row in csv.DictReader(file)]
    assert float(cells["PGD (ε = 32) · targeted = False"]["sr"]) == pytest.approx(sum(left) / len(left))
    notes = study.tables["table2.md"].decode()
    assert "Attacks make the CNN see Sneaker, or make the CNN see anything but Sandal." in notes

    settings["attacks"] = []
    nothing = run_study(settings, study.output)
    assert nothing.made == ()
    assert "Nothing was attacked." in nothing.tables["table2.md"].decode()
    assert "SR:" not in nothing.tables["table2.md"].decode()
