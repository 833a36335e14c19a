"""The report of a study that has run: its numbers, images and ranks are those of the study's files."""

import base64
import csv
import io
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from catwalk.cli.main import main
from catwalk.plots.gallery import difference
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.decoding import decode, decode_item
from catwalk.study.plots import draw_plots
from catwalk.study.report import KINDS, write_report
from catwalk.study.report.content import content
from catwalk.study.report.gallery import galleries, image_address
from catwalk.study.results import StudyResults
from catwalk.study.stored import StoredResults

PLOTS = {"budgets", "categories-1", "effects-poisoning", "lpips-effect", "ranks", "robustness", "success-features"}


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of a study's folder, with plots and report."""
    copy = tmp_path_factory.mktemp("elsewhere") / "tiny"
    shutil.copytree(finished.folder, copy)
    return write_report(copy, finished.output / "cache", Path(finished.settings["dataset"])).parents[1]


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "report" / "index.html").read_text("utf-8")


@pytest.fixture(scope="module")
def stored(finished) -> StoredResults:
    return StoredResults.of(StudyResults.read(finished.folder))


def part(html: str, start: str, end: str) -> str:
    return html[html.index(start) : html.index(end, html.index(start))]


def rows(html: str, table: str) -> list[list[tuple[str, str]]]:
    """Return what every entry of a table is sorted by, and its text."""
    body = part(part(html, f'<table id="{table}">', "</table>"), "<tbody>", "</tbody>")
    entries = re.compile(r'<t[hd][^>]*?(?:data-order="([^"]*)")?>(.*?)</t[hd]>', re.DOTALL)
    return [
        [(unescape(order), unescape(re.sub("<[^>]+>", "", text)).strip()) for order, text in entries.findall(row)]
        for row in body.split("<tr")[1:]
    ]


def images(html: str) -> list[np.ndarray]:
    """Return the images of some HTML, uint8 ``(3, H, W)``."""
    found = re.findall(r"data:image/png;base64,([^\"]+)", html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))).transpose(2, 0, 1) for each in found]


def test_every_plot_is_there_in_two_kinds(folder: Path) -> None:
    assert {path.name for path in (folder / "plots").iterdir()} == {
        f"{name}.{kind}" for name in PLOTS for kind in KINDS
    }
    assert (folder / "report" / "index.html").stat().st_size < 15_000_000


def test_the_effects_are_those_of_the_file(folder: Path, html: str) -> None:
    with (folder / "effects.csv").open(encoding="utf-8") as file:
        effects = list(csv.DictReader(file))
    headings = re.findall(r'class="sort">(.*?)<span', part(html, '<table id="effects">', "</thead>"))
    shown = [dict(zip(map(unescape, headings), row, strict=True)) for row in rows(html, "effects")]
    assert len(shown) == len(effects) >= 4
    for row, effect in zip(shown, effects, strict=True):
        assert row["attack"][1] == effect["attack"]
        assert row["verdict"][1].endswith(effect["verdict"])
        for heading, column in (("change", "difference"), ("low", "difference_low"), ("p, adjusted", "p_adjusted")):
            assert float(row[heading][0]) == float(effect[column])
    sentences = [unescape(text) for text in re.findall(r"<li [^>]*>.*?<bdi>(.*?)</bdi></span></li>", html, re.DOTALL)]
    assert sorted(sentences) == sorted(effect["sentence"] for effect in effects)


def test_the_cells_are_those_of_the_file(folder: Path, html: str) -> None:
    with (folder / "cells.csv").open(encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    headings = [
        unescape(name) for name in re.findall(r'class="sort">(.*?)<span', part(html, '<table id="cells">', "</thead>"))
    ]
    place = headings.index("chr@20")
    assert [float(row[place][0]) for row in rows(html, "cells")] == [float(cell["chr@20"]) for cell in cells]


def test_the_gallery_shows_the_files_and_the_ranks_of_the_study(stored: StoredResults, html: str, shop: Path) -> None:
    catalogue = Catalogue.read(shop)
    attack = next(each for each in stored.attacks if each.attack.startswith("PGD"))
    groups = part(html, '<section id="gallery">', "</section>").split('<div class="group"')
    (gallery,) = [group for group in groups if f"<h3>{attack.attack} on CNN T</h3>" in group]
    cards = gallery.split("<article")[1:]
    assert [re.findall(r'class="case">(\w+)', card)[0] for card in cards] == ["best", "worst"] * (len(cards) // 2)
    with (attack.images / "attacked_items.csv").open(encoding="utf-8") as file:
        attacked = {row["item_id"]: row for row in csv.DictReader(file)}
    cells = [cell for cell in stored.results.cells if cell["recommender"] == "VBPR"]
    before = [stored.attacked_items(cell) for cell in cells if cell["attack"] == "No attack"]
    after = [
        stored.attacked_items(cell)
        for cell in cells
        if (cell["attack"], cell["scenario"]) == (attack.attack, "poisoning")
    ]
    assert len(before) == len(after) == 2
    rises = []
    for card in cards:
        item = re.findall(r"<bdi>(.*?)</bdi>", card)[0]
        clean, adversarial, change = images(card)
        file = decode(attack.images / attacked[item]["image"])
        np.testing.assert_array_equal(adversarial, file)
        number = catalogue.item_ids.index(item)
        np.testing.assert_array_equal(clean, decode_item(catalogue, number, (file.shape[1], file.shape[2])))
        np.testing.assert_array_equal(change, difference(clean, adversarial))
        row = attacked[item]
        assert f"{row['category_after']} {float(row['probability_after']):.0%}" in unescape(card)
        ranks = [
            np.mean([table["mean_rank"][table["item_id"].to_pylist().index(item)].as_py() for table in tables])
            for tables in (before, after)
        ]
        assert f"rank {ranks[0]:,.0f} → {ranks[1]:,.0f}" in part(card, "<bdi>VBPR</bdi>", "</div>")
        rises.append(np.log(ranks[0] / ranks[1]))
    assert min(rises[::2]) >= max(rises[1::2])  # BPR-MF, which looks at no images, moves nothing


@pytest.mark.parametrize(("height", "width", "shown"), [(96, 40, "PNG (40, 96)"), (300, 200, "JPEG (117, 176)")])
def test_small_images_stay_what_they_are_and_large_ones_become_small(height: int, width: int, shown: str) -> None:
    levels = np.random.default_rng(0).integers(256, size=(3, height, width), dtype=np.uint8)
    kind, _, content = image_address(levels).partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert f"{image.format} {image.size}" == shown
    assert kind == f"data:image/{image.format.lower()}"
    assert image.format == "JPEG" or np.array_equal(np.asarray(image).transpose(2, 0, 1), levels)


def test_categories_are_those_of_the_users(stored: StoredResults) -> None:
    cell = next(cell for cell in stored.results.cells if cell["recommender"] == "VBPR")
    places = stored.places_by_category(cell)
    assert places is not None
    assert sum(places.values()) <= 20
    assert places["Sandal"] == pytest.approx(cell["chr@20"])


def test_the_same_study_gives_the_same_bytes(finished, folder: Path) -> None:
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "plots" / "bars-of-an-earlier-study.png").write_bytes(b"")
    places = ["--store", str(finished.output / "cache"), "--dataset", finished.settings["dataset"]]
    main(["report", str(folder), *places])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first


def test_what_is_gone_is_left_out_and_said(stored: StoredResults, tmp_path: Path) -> None:
    gone = replace(stored, store=tmp_path)
    page = content(gone, [])
    assert page.galleries == []
    assert page.gallery_note.startswith("There are no images to show")
    assert len(page.verdicts) >= 4
    assert {plot.key for plot in draw_plots(gone)} == PLOTS - {"ranks", "categories-1"}


def test_a_title_of_the_shop_is_beside_its_item(stored: StoredResults, shop: Path, tmp_path: Path) -> None:
    shutil.copytree(shop, tmp_path / "shop")
    path = tmp_path / "shop" / "items.csv"
    with path.open(encoding="utf-8") as file:
        items = [{**row, "title": f"<b>{row['item_id']}</b>"} for row in csv.DictReader(file)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(items[0]))
        writer.writeheader()
        writer.writerows(items)
    cards = [card for gallery in galleries(replace(stored, dataset=path.parent)) for card in gallery.cards]
    assert [card.title for card in cards] == [f"<b>{card.item_id}</b>" for card in cards] != []


@pytest.mark.slow
def test_the_configuration_runs_the_same_study(finished, run_study) -> None:
    settings = yaml.safe_load((finished.folder / "study.yaml").read_text("utf-8"))
    assert "output" not in settings
    before = {path.name: path.read_bytes() for path in finished.folder.glob("*.csv")}
    again = run_study(settings, finished.output)
    assert again.made == ()
    assert {path.name: path.read_bytes() for path in finished.folder.glob("*.csv")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "study is missing: catwalk report STUDY"),
        (
            ["nowhere"],
            "nowhere is not the folder of a finished study: cells.csv, effects.csv, manifest.json is missing",
        ),
        (["nowhere", "--store", "no/store"], "store: no/store is not a folder"),
    ],
)
def test_what_is_no_study_is_told_in_a_line(capsys, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
