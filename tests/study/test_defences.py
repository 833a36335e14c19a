"""Defences, pipelines and transfers of a study: which network sees what, and who crafted it."""

import copy
import csv
import dataclasses
import io
import json

import pytest
import torch
from rich.console import Console

from catwalk.attacks import PGD
from catwalk.networks.classifier import load_classifier
from catwalk.networks.defended import defended
from catwalk.processing import JPEG
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.images import load_images
from catwalk.study.findings import Findings
from catwalk.study.plots import defended as plots
from catwalk.study.report.tables import page_tables
from catwalk.study.results import StudyResults

JPEG_30 = {"class_path": "catwalk.processing.JPEG", "init_args": {"quality": 30}}
SMALLER = {"class_path": "catwalk.processing.BitDepth", "init_args": {"bits": 3}}


@pytest.fixture(scope="module")
def study(study_settings, run_study, tmp_path_factory):
    settings = copy.deepcopy(study_settings)
    settings["attacks"] = settings["attacks"][1:]
    del settings["recommenders"]["BPR-MF"]
    settings["seeds"] = [0]
    other = copy.deepcopy(settings["extractors"]["T"])
    settings["extractors"]["other"] = {**other, "seed": 1}
    settings["transfers"] = {"other": ["T"]}
    settings["defences"] = {"fewer bits": {"network": "T", "input": [SMALLER]}}
    settings["pipelines"] = {"JPEG 30": {"operations": [JPEG_30], "networks": ["T", "fewer bits"]}}
    return run_study(settings, tmp_path_factory.mktemp("defences") / "runs")


def cells_of(study, **values):
    cells = StudyResults.read(study.folder).cells
    return [cell for cell in cells if all(cell[name] == value for name, value in values.items())]


def test_each_cell_says_what_stands_in_front_and_on_what_its_attack_was_crafted(study):
    columns = ("extractor", "defence", "pipeline", "attack", "crafted_on")
    found = [tuple(cell[name] for name in columns) for cell in cells_of(study)]
    pgd = "PGD (ε = 32)"
    expected = []
    for network, defence, pipeline, further in (
        ("T", None, None, []),
        ("other", None, None, [(f"{pgd}, from T", "T")]),
        ("fewer bits", "fewer bits", None, [(f"{pgd}, plain", "T")]),
        ("T behind JPEG 30", None, "JPEG 30", [(f"{pgd}, plain", "T")]),
        ("fewer bits behind JPEG 30", "fewer bits", "JPEG 30", [(f"{pgd}, plain", "fewer bits")]),
    ):
        rows = [("No attack", None), (pgd, None), *further]
        expected += [(network, defence, pipeline, *row) for row in rows]
    assert found == expected


def test_success_rates_are_those_of_the_operations_in_front_of_the_network_by_hand(study, shop):
    catalogue = Catalogue.read(shop)
    networks = [load_classifier(path) for path in (study.output / "cache" / "classifier").glob("*/classifier.ckpt")]
    (cell,) = cells_of(study, extractor="T behind JPEG 30", attack="PGD (ε = 32), plain")
    images = torch.tensor(load_images(shop, catalogue.images, None)).float() / 255
    matched = 0
    for classifier in (each for each in networks if not each.network.input_operations):
        behind = defended(classifier, [JPEG(quality=30)])
        with torch.no_grad():
            seen = classifier.network(images).argmax(1)
            items = (seen == classifier.category_names.index("Sandal")).nonzero()[:, 0]
            target = classifier.category_names.index("Sneaker")
            attacked = PGD(epsilon=32)(
                classifier.network,
                images[items],
                torch.full_like(items, target),
                keys=torch.tensor(catalogue.keys)[items],
            )
            levels = (attacked.images * 255).round() / 255
            rate = float((behind.network(levels).argmax(1) == target).double().mean())
        matched += cell["n_attacked"] == len(items) and cell["sr"] == pytest.approx(rate)
    assert matched == 1, "T's rate, and not the other network's"


def test_the_same_items_are_attacked_with_and_without_what_stands_in_front(study):
    numbers = {cell["n_attacked"] for cell in cells_of(study) if cell["extractor"] != "other" and cell["n_attacked"]}
    assert len(numbers) == 1


def test_the_plot_has_each_network_by_each_attacker(study):
    rows = {(row.panel, row.label, row.series): row for row in plots._rows(StudyResults.read(study.folder))}
    networks = ("fewer bits", "T behind JPEG 30", "fewer bits behind JPEG 30")
    series = ("without it", "plain", "adaptive")
    assert set(rows) == {("PGD (ε = 32)", network, each) for network in networks for each in series}
    (cell,) = cells_of(study, extractor="T behind JPEG 30", attack="PGD (ε = 32), plain")
    row = rows["PGD (ε = 32)", "T behind JPEG 30", "plain"]
    assert (row.mean, row.low, row.high) == pytest.approx([100 * cell[name] for name in ("sr", "sr_low", "sr_high")])
    plot = plots.defences(StudyResults.read(study.folder))
    assert plot is not None
    assert len(plot.figure.axes) == 1


def test_a_table_puts_the_rates_beside_each_other(study):
    with (study.folder / "defences.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["cnn"], row["attack"]) for row in rows] == [
        (name, "PGD (ε = 32)") for name in ("fewer bits", "T behind JPEG 30", "fewer bits behind JPEG 30")
    ]
    for row in rows:
        base = "fewer bits" if row["cnn"] == "fewer bits behind JPEG 30" else "T"
        expected = [
            cells_of(study, extractor=base, attack="PGD (ε = 32)"),
            cells_of(study, extractor=row["cnn"], attack="PGD (ε = 32), plain"),
            cells_of(study, extractor=row["cnn"], attack="PGD (ε = 32)"),
        ]
        for column, (cell,) in zip(("without", "plain", "adaptive"), expected, strict=True):
            assert float(row[f"SR {column}"]) == pytest.approx(cell["sr"])
            assert float(row[f"CHR@20, VBPR {column}"]) == pytest.approx(cell["chr@20"])


def test_groups_that_stand_below_each_other_keep_their_values(study):
    findings = json.loads((study.folder / "findings.json").read_text(encoding="utf-8"))["findings"]
    table = Findings.of_json(findings).tables["defences"]
    stacked, values_of = table._stacked(), dict(table.rows)
    assert stacked.headings == ("without", "plain", "adaptive")
    assert len(stacked.rows) == 2 * len(table.rows)
    for (group, *labels), values in stacked.rows:
        columns = zip(table.groups, values_of[tuple(labels)], strict=True)
        assert values == tuple(value for of_group, value in columns if of_group == group)


@pytest.mark.parametrize("width", [80, 100])
def test_it_fits_into_a_terminal_with_its_labels(study, width):
    findings = json.loads((study.folder / "findings.json").read_text(encoding="utf-8"))["findings"]
    console = Console(width=width, file=io.StringIO())
    Findings.of_json(findings).tables["defences"].show(console)
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    assert {"T", "behind", "JPEG", "fewer", "bits"} <= set(shown.split())  # labels may take several lines
    for row in csv.DictReader((study.folder / "defences.csv").open(encoding="utf-8")):
        assert f"{float(row['CHR@20, VBPR adaptive']):.4f}" in shown


def test_the_reports_table_keeps_each_recommender_together(study):
    results = StudyResults.read(study.folder)
    networks = list(dict.fromkeys(effect.extractor for effect in results.effects))
    effects = [
        dataclasses.replace(effect, recommender=name)  # in the order of a study: by network, then by recommender
        for network in networks
        for name in ("VBPR", "AMR")
        for effect in results.effects
        if effect.extractor == network
    ]
    tables = page_tables(dataclasses.replace(results, effects=effects))
    (table,) = (table for table in tables if table.key == "table-poisoning")
    names = [row.entries[0].text for row in table.rows]
    assert names == sorted(names, key=["VBPR", "AMR"].index)
    assert {"PGD (ε = 32), plain", "PGD (ε = 32), from T"} < {row.entries[1].text for row in table.rows}


def test_the_report_has_the_defences_as_the_study_has_them(study):
    results = StudyResults.read(study.folder)
    (table,) = (table for table in page_tables(results) if table.key == "defences")
    names = [column.name for column in table.columns]
    assert names[:5] == ["CNN", "attack", "SR without", "SR plain", "SR adaptive"]
    assert [name for name in names if name.startswith("CHR")] == names[5:]
    for row in table.rows:
        defended, attack = row.entries[0].text, row.entries[1].text
        assert row.about.extractor == defended
        for heading, of in (("SR plain", f"{attack}, plain"), ("SR adaptive", attack)):
            (cell,) = cells_of(study, extractor=defended, attack=of, scenario="poisoning")
            entry = row.entries[names.index(heading)]
            assert entry.order == cell["sr"]
            assert entry.text == f"{cell['sr']:.1%} ({cell['sr_low']:.1%} to {cell['sr_high']:.1%})"
        (effect,) = (
            effect
            for effect in results.effects
            if (effect.extractor, effect.attack, effect.scenario) == (defended, attack, "poisoning")
        )
        entry = row.entries[names.index("CHR@20, VBPR adaptive")]
        assert entry.order == pytest.approx(effect.size.attacked)
        assert entry.is_bold == (effect.verdict == "pushed")
        assert "· +" in entry.text or "· \N{MINUS SIGN}" in entry.text
