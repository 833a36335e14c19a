"""Detectors in a study: judged by every attack on each network, by items that nothing was fitted to."""

import csv
import shutil
from pathlib import Path

import pytest

from catwalk.detection.clean_items import CleanItems
from catwalk.detection.judging import judge
from catwalk.detectors import DeclaredCategory, ItemRoles
from catwalk.networks.classifier import load_classifier
from catwalk.shop.catalogue import Catalogue
from catwalk.study.report.tables import page_tables
from catwalk.study.results import StudyResults

FGSM, PGD = "FGSM (ε = 32)", "PGD (ε = 32)"
LEARNT = {
    "model": {"class_path": "lightning_modules.PoisoningDetector", "init_args": {"width": 8}},
    "data": {"attacked": [FGSM], "batch_size": 16},
    "trainer": {"max_epochs": 5, "accelerator": "cpu"},
}


@pytest.fixture
def with_detectors(settings):
    settings |= {
        "recommenders": {},
        "detectors": {"declared": {"model": {"class_path": "catwalk.detectors.DeclaredCategory"}}, "learnt": LEARNT},
        "detection": {"false_positives": 0.1, "roles": {"fit": 0.35, "calibrate": 0.3}},
    }
    return settings


def test_every_detector_is_judged_by_every_attack(finished, with_detectors, run_study, tmp_path: Path, capfd) -> None:
    output = tmp_path / "runs"
    shutil.copytree(finished.output, output)
    study = run_study(with_detectors, output)
    assert sorted(study.made) == ["detection"] * 4 + ["detector"]
    with (study.folder / "detectors.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["detector"], row["attack"]) for row in rows] == [
        *(("declared", FGSM), ("declared", PGD), ("learnt", f"{FGSM} (trained)"), ("learnt", PGD)),
    ]
    (table,) = (each for each in page_tables(StudyResults.read(study.folder)) if each.key == "detectors")
    assert [row.about.attack for row in table.rows] == [FGSM, PGD] * 2
    names = [column.name for column in table.columns]
    for row, shown in zip(rows, table.rows, strict=True):
        entries = dict(zip(names, shown.entries, strict=True))
        assert (entries["attack"].text, entries["AUROC"].order) == (row["attack"], float(row["AUROC"]))
        low, high = (f"{float(row[f'TPR {end}']):.1%}" for end in ("low", "high"))
        assert entries["TPR"].text == f"{float(row['TPR']):.1%} ({low} to {high})"
        assert entries["Attacked"].text == row["Attacked"]
    assert "Detectors: attacked images that detectors flag" in " ".join(capfd.readouterr().out.split())
    (checkpoint,) = output.glob("cache/classifier/*/classifier.ckpt")
    catalogue = Catalogue.read(with_detectors["dataset"])
    clean = CleanItems.see(load_classifier(checkpoint), catalogue, ItemRoles(0.35, 0.3))
    folders = list(output.glob("cache/attack/*/"))
    judged = judge([DeclaredCategory()], clean, folders, false_positives=0.1)
    expected = {each.detection.attack: each.detection for each in judged}
    for row in rows[:2]:
        own = expected[row["attack"]]
        assert float(row["AUROC"]) == own.auroc
        assert (float(row["TPR"]), float(row["TPR low"]), float(row["TPR high"])) == (
            own.tpr,
            own.tpr_low,
            own.tpr_high,
        )
    assert run_study(with_detectors, output).made == ()
    with_detectors["detection"]["false_positives"] = 0.2
    assert run_study(with_detectors, output).made == ("detection",) * 4


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        (
            LEARNT | {"data": {}},
            "detectors.it.data.attacked: must name attacks of the study",
        ),
        (LEARNT | {"data": {"attacked": ["C&W"]}}, "got C&W"),
        (LEARNT | {"data": {"attacked": [FGSM], "seed": 1}}, "detectors.it.data.seed: the study gives it itself"),
        ({"model": {"class_path": "catwalk.detectors.DeclaredCategory"}, "trainer": {}}, "is not trained"),
        (
            {"model": {"class_path": "catwalk.detectors.TrainedDetector", "init_args": {"checkpoint": "x"}}},
            "a study trains its detectors itself",
        ),
        ({"model": {"class_path": "catwalk.attacks.PGD"}}, "detectors.it.model"),
    ],
)
def test_detectors_that_make_no_sense(settings, run_study, tmp_path: Path, capfd, detector, message) -> None:
    settings["detectors"] = {"it": detector}
    with pytest.raises(SystemExit):
        run_study(settings, tmp_path / "runs")
    assert message in " ".join(capfd.readouterr().err.split())
