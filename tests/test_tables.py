"""The tables of the pages are those of the data, and benchmarks write data that give their own tables back."""

import argparse
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def write_tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    import write_tables

    return write_tables


def test_every_page_shows_its_data(write_tables: ModuleType) -> None:
    shown: set[str] = set()
    for page in write_tables.pages():
        text = page.read_text("utf-8")
        names = [name for _, name, _ in write_tables.TABLE.findall(text)]
        assert len(names) == text.count("<!-- table:") == text.count("<!-- end of table"), f"{page}: a broken marker"
        assert write_tables.with_tables(text) == text, f"{page} differs from its data: run `make tables`"
        shown.update(names)
    for path in (REPOSITORY / "benchmarks" / "results").iterdir():
        tables = json.loads(path.read_text("utf-8"))["tables"]
        assert {f"{path.stem}/{name}" for name in tables} <= shown, f"{path}: a table that no page shows"
    without_data = {name for name in shown if not write_tables.data(name).is_file()}
    assert all(name.partition("/")[2] in write_tables.TABLES for name in without_data), without_data


def test_a_changed_number_changes_its_page(
    write_tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_tables, "RESULTS", tmp_path)
    (tmp_path / "demo").mkdir()
    page = "Before.\n<!-- table: demo/networks -->\nanything\n<!-- end of table -->\nBehind."
    assert write_tables.with_tables(page) == page
    for accuracy, percentage in (("0.9026", "90.26%"), ("0.5", "50.00%")):
        (tmp_path / "demo" / "networks.csv").write_text(f"cnn,clean\nT,{accuracy}\n")
        page = write_tables.with_tables(page)
        table = f"| CNN | clean |\n| --- | ---: |\n| T | {percentage} |"
        assert page == f"Before.\n<!-- table: demo/networks -->\n\n{table}\n\n<!-- end of table -->\nBehind."


def test_tables_of_a_study(write_tables: ModuleType) -> None:
    change = {"T CHR@20 change": "0.25", "T CHR@20 change low": "0.125", "T CHR@20 change high": "0.5"}
    nothing = dict.fromkeys([*change, "T CHR@20 verdict"], "")
    rows = [
        {"model": "VBPR", "attack": "No attack", "T CHR@20": "0.5", "T CHR@20 sd": "0.1"} | nothing,
        {"model": "VBPR", "attack": "PGD", "T CHR@20": "0.75", "T CHR@20 sd": "0.2"} | change,
        {"model": "AMR", "attack": "PGD", "T CHR@20": "0.75", "T CHR@20 sd": "0"} | change,
    ]
    rows[1]["T CHR@20 verdict"], rows[2]["T CHR@20 verdict"] = "pushed", "lowered"
    assert write_tables.table_1(rows).splitlines() == [
        "| Model | Attack | T |",
        "| --- | --- | ---: |",
        "| VBPR | No attack | 0.5000 ± 0.1000 |",
        "| VBPR | PGD | **0.7500 (+0.250 [+0.125, +0.500])** |",
        "| AMR | PGD | 0.7500 (+0.250 [+0.125, +0.500]) |",
    ]
    row = {"attack": "PGD", "T Items": "1", "T SR": "0.25", "T FL": "3", "T LPIPS": "0.05"}
    row |= {"T SR low": "0.125", "T SR high": "0.5", "T FL low": "2.5", "T FL high": "3.5"}
    row |= {"T LPIPS low": "0.04", "T LPIPS high": "0.0625"}
    assert write_tables.table_2([row]).splitlines()[2:] == [
        "| T | PGD | 1 | 25.00% [12.5, 50] | 3.0000000 [2.5, 3.5] | 5.0000 [4, 6.25] |",
    ]


def test_effects_of_a_study(write_tables: ModuleType) -> None:
    of_all = {"recommender": "VBPR", "scenario": "poisoning", "control": "", "clean": "0.5", "p_adjusted": "0.01"}
    size = {"relative": "0.5", "difference": "0.25", "difference_low": "0.125", "difference_high": "0.5"}
    rows = [
        of_all | size | {"extractor": "T", "attack": "PGD", "verdict": "pushed"},
        of_all | size | {"extractor": "FAT", "attack": "PGD", "verdict": "cannot tell", "relative": ""},
        of_all | size | {"extractor": "T", "attack": "Noise", "verdict": "no effect", "control": "noise"},
        of_all | size | {"extractor": "T", "attack": "PGD", "verdict": "lowered", "scenario": "evasion"},
    ]
    assert write_tables.result(rows).splitlines()[2:] == ["| VBPR | PGD | **pushed +50.0%** | cannot tell |"]
    assert write_tables.effects(rows).splitlines()[2] == (
        "| VBPR | T | PGD | poisoning | pushed | 0.5000 | +0.250 [+0.125, +0.500] | 0.010 |"
    )
    parts = ("Sham", "Attack", "Attack less sham")
    row = {f"{part}{end}": number for part in parts for end, number in (("", "1"), (" low", "0.5"), (" high", "1.5"))}
    row |= {"protocol": "source_items undefended, background_features network, chr_categories network"}
    row |= {"cnn": "FAT", "model": "AMR", "says": "mixing"}
    assert write_tables.shams([row]).splitlines()[2] == (
        "| undefended | network | network | FAT | AMR | mixing |" + " +1.000 [+0.500, +1.500] |" * 3
    )


def test_decomposition_is_the_mean_over_seeds(write_tables: ModuleType) -> None:
    names = ("won_by_attacked", "won_by_others", "gain_bought_source", "gain_bought_target", "gain_neither")
    row = dict.fromkeys((*names, "users_reached", "attacked_mean_rank_clean", "attacked_mean_rank"), "0.25")
    row |= {"recommender": "VBPR", "extractor": "T", "attack": "PGD", "scenario": "poisoning", "control": ""}
    rows = [row, row | {"won_by_attacked": "0.75", "gain_neither": ""}, row | {"control": "noise"}]
    assert write_tables.decomposition(rows).splitlines()[2:] == [
        "| VBPR | T | PGD | +0.500 | +0.250 | +0.250 | +0.250 | – | 25.0% | 0.2 | 0.2 |"
    ]


def test_a_benchmark_gives_its_table_back(
    write_tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    from record import Record, add_record_argument

    monkeypatch.setattr(write_tables, "BENCHMARKS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["/elsewhere/observers.py", "--json", str(tmp_path / "of a run.json")])
    parser = argparse.ArgumentParser()
    add_record_argument(parser)
    record = Record(parser.parse_args().json, None, ("torch",))
    rows = [["PGD", "1.10", "-0.50", "4,607"], ["`C&W`", "2", "–", "1,234,567"], ["", "+1.8%", "0.1 ± 0.0", '"']]
    printed = [record.table(name, ["", "s", "ratio", "steps"], rows) for name in ("first", "second")]
    written = json.loads((tmp_path / "of a run.json").read_text("utf-8"))
    assert written["command"] == f"python benchmarks/observers.py --json '{tmp_path / 'of a run.json'}'"
    assert set(written["versions"]) == {"python", "torch"}
    assert written["commit"] is None or re.fullmatch(r"[0-9a-f]{40}\+?", written["commit"])
    assert written["tables"]["second"]["rows"][0] == ["PGD", 1.1, -0.5, 4607]
    assert [write_tables.table(f"of a run/{name}") for name in ("first", "second")] == printed


def test_links_of_the_repository_become_links_of_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    from generated_pages import FETCHED, moved, split_comment

    assert (
        moved("[a](docs/attacks.md#fgsm), ![p](docs/flow.svg)", "README.md") == "[a](attacks.md#fgsm), ![p](flow.svg)"
    )
    assert moved("[b](../benchmarks/README.md#importers)", "docs/metrics.md") == "[b](benchmarks.md#importers)"
    assert moved("[c](CITATION.cff) [d](https://a.b/c.md) [e](#f)", "README.md") == "c [d](https://a.b/c.md) [e](#f)"
    assert moved("[no](missing.md)\n```\n[a](docs/attacks.md)\n```", "README.md").startswith("[no](missing.md)")
    assert "[a](docs/attacks.md)" in moved("x\n```\n[a](docs/attacks.md)\n```\n", "README.md")
    assert split_comment("# One.\n#   run it\n# Two.\na: 1 # b\n") == ("One.\n\n    run it\n\nTwo.", "a: 1 # b")
    for fetched in (
        '<script src="https://a.b/c.js">',
        "<link rel=stylesheet href=//a.b/c>",
        '<img alt="" src="http://a">',
    ):
        assert FETCHED.search(fetched)
    for own in ('<script src="assets/a.js">', '<a href="https://a.b">', '<link rel="stylesheet" href="site.css">'):
        assert not FETCHED.search(own)
