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
    assert all(name.startswith("demo/") for name in without_data), without_data


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
    rows = [
        {"model": "VBPR", "attack": "No attack", "T": "0.5", "T sd": "0.1", "AT": "0.5", "AT sd": "0.1"},
        {"model": "VBPR", "attack": "PGD", "T": "0.75", "T sd": "0.25", "AT": "0.25", "AT sd": "0.125"},
        {"model": "AMR", "attack": "No attack", "T": "1", "T sd": "0", "AT": "1", "AT sd": "0"},
    ]
    assert write_tables.table_1(rows).splitlines() == [
        "| Model | Attack | T | AT |",
        "| --- | --- | ---: | ---: |",
        "| VBPR | No attack | 0.5000 ± 0.1000 | 0.5000 ± 0.1000 |",
        "| VBPR | PGD | **0.7500 ± 0.2500** | 0.2500 ± 0.1250 |",
        "| AMR | No attack | 1.0000 ± 0.0000 | 1.0000 ± 0.0000 |",
    ]
    row = {"attack": "PGD", "T Items": "1", "T SR": "0.25", "T FL": "3", "T LPIPS": "0.05"}
    row |= {"AT Items": "2", "AT SR": "1", "AT FL": "4e-7", "AT LPIPS": "0.125"}
    assert write_tables.table_2([row]).splitlines()[2:] == [
        "| T | PGD | 1 | 25.00% | 3.0000000 | 5.0000 |",
        "| AT | PGD | 2 | 100.00% | 0.0000004 | 12.5000 |",
    ]
    exposure = {"CNN": "T", "Attack": "PGD", "source buyers": "2.3456", "mean rank": "821.26"}
    assert write_tables.exposure([exposure]).splitlines()[2] == "| T | PGD | 2.346 | 821.3 |"


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
