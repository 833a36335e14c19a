"""``catwalk data show``: what it prints, and what it writes."""

import csv
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catwalk.importers.synthetic import synthetic


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a shop with enough items for pairs. Do not write into it."""
    folder = tmp_path_factory.mktemp("shown") / "shop"
    synthetic(folder, items=186, users=150, image_size=16, train_images=4, test_images=2)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """Return a copy of that shop."""
    return Path(shutil.copytree(written, tmp_path / "shop"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def read(folder: Path) -> dict:
    return json.loads((folder / "overview.json").read_text())


def test_what_is_shown_is_what_the_tables_hold(folder: Path, run) -> None:
    outcome = run("data", "show", str(folder))
    assert (outcome.code, outcome.err) == (0, "")
    found = read(folder / "overview")
    category_of = {row["item_id"]: row["category"] for row in rows(folder / "items.csv")}
    purchases = rows(folder / "interactions.csv")
    per_user = Counter(row["user_id"] for row in purchases)
    items = Counter(category_of.values())
    bought = Counter(category_of[row["item_id"]] for row in purchases)

    assert (found["items"], found["purchases"]["users"]) == (186, len(per_user))
    assert found["purchases"]["purchases"] == len(purchases)
    assert found["purchases"]["per_user_mean"] == pytest.approx(statistics.fmean(per_user.values()))
    singles = list(per_user.values()).count(1)
    assert found["purchases"]["user_groups"][0]["users"] == singles
    assert found["split"]["test"] == found["split"]["tested_users"] == len(per_user) - singles
    assert found["split"]["train"] == len(purchases) - found["split"]["test"]
    assert {category["name"]: category["purchases"] for category in found["categories"]} == bought
    assert [category["purchases"] for category in found["categories"]] == sorted(bought.values(), reverse=True)
    assert (found["images"]["sizes"], found["labels"]["files"]["sizes"]) == ([[16, 16, 186]], [[16, 16, 36]])
    assert found["labels"]["by_split"]["test"] == 12
    assert found["simulated"]

    rate = {name: bought[name] / items[name] for name in items}
    best = found["pairs"][0]
    source, target = min(rate, key=rate.__getitem__), best["target"]["name"]
    assert best["source"]["name"] == source
    assert best["ratio"] == pytest.approx(rate[source] / rate[target])
    for figure in (f"{len(purchases):,}", f"{len(per_user):,}", f"{bought[source]:,}", f"{rate[source]:.1f}"):
        assert figure in outcome.out
    assert "SIMULATED" in outcome.out

    # The line that begins a study is one that a study takes.
    options = re.search(r"catwalk study --config FILE (--dataset .*)", outcome.out).group(1).split()
    planned = run("study", "--config", "configs/study/synthetic.yaml", *options, "--print_config")
    assert planned.code == 0, planned.err
    assert f"source: {source}\ntarget: {target}\n" in planned.out

    pictures = found["pictures"]
    assert sorted(pictures) == sorted(path.name for path in (folder / "overview").glob("*.png"))
    assert set(pictures) == {
        *("categories.png", "long_tail.png", "purchases_per_user.png", "purchases_over_time.png", "samples.png")
    }
    assert f"5 pictures and overview.json are in {folder / 'overview'}" in outcome.out
    for name in pictures:
        with Image.open(folder / "overview" / name) as picture:
            levels = np.asarray(picture.convert("L"))
        assert min(levels.shape) > 200
        assert 0.01 < (levels < 200).mean() < 0.9

    again = {path.name: path.read_bytes() for path in (folder / "overview").iterdir()}
    assert run("data", "show", str(folder)).out == outcome.out
    assert {path.name: path.read_bytes() for path in (folder / "overview").iterdir()} == again


def test_a_folder_of_images_alone_is_shown(folder: Path, run) -> None:
    for name in ("interactions.csv", "labelled_images.csv", "dataset.json"):
        (folder / name).unlink()
    outcome = run("data", "show", str(folder), "--output", str(folder / "a" / "b"))
    assert (outcome.code, outcome.err) == (0, "")
    found = read(folder / "a" / "b")
    assert (found["purchases"], found["split"], found["time"], found["pairs"]) == (None, None, None, [])
    assert found["pictures"] == ["categories.png", "samples.png"]
    assert sum(found["labels"]["by_split"].values()) == 186
    assert "there are no purchases" in outcome.out


def test_a_published_split_of_dates_is_shown(folder: Path, run) -> None:
    purchases = rows(folder / "interactions.csv")
    (folder / "interactions.csv").unlink()
    (folder / "splits").mkdir()
    last = {row["user_id"]: row for row in purchases}
    parts = {"train": [row for row in purchases if row is not last[row["user_id"]]], "test": list(last.values())}
    for name, its_rows in parts.items():
        lines = [
            f"{row['user_id']},{row['item_id']},2020-01-{index % 28 + 1:02d}" for index, row in enumerate(its_rows)
        ]
        (folder / "splits" / f"{name}.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines, ""]))
    outcome = run("data", "show", str(folder))
    assert (outcome.code, outcome.err) == (0, "")
    found = read(folder / "overview")
    assert (found["split"]["kind"], found["split"]["train"], found["split"]["test"]) == (
        *("published", len(parts["train"])),
        len(last),
    )
    assert (found["time"]["read_as"], found["time"]["period"], found["time"]["first"]) == ("dates", "day", "2020-01-01")
    assert "the published split" in outcome.out


def test_a_published_split_without_times_is_shown(folder: Path, run) -> None:
    (folder / "interactions.csv").rename(folder / "all.csv")
    (folder / "splits").mkdir()
    header, *lines = [line.rpartition(",")[0] for line in (folder / "all.csv").read_text().splitlines()]
    for name, part in (("train", lines[:-9]), ("test", lines[-9:])):
        (folder / "splits" / f"{name}.csv").write_text("\n".join([header, *part, ""]))
    outcome = run("data", "show", str(folder))
    assert (outcome.code, outcome.err) == (0, "")
    found = read(folder / "overview")
    assert (found["split"]["train"], found["split"]["test"], found["time"]) == (len(lines) - 9, 9, None)
    assert found["pictures"] == ["categories.png", "long_tail.png", "purchases_per_user.png", "samples.png"]
    assert "ties" not in outcome.out


def test_damaged_images_and_other_sizes_are_counted(folder: Path, run) -> None:
    damaged, other = (folder / row["image"] for row in rows(folder / "items.csv")[:2])
    damaged.write_bytes(b"no image")
    Image.new("L", (40, 30)).save(other)
    outcome = run("data", "show", str(folder))
    assert (outcome.code, outcome.err) == (0, "")
    images = read(folder / "overview")["images"]
    assert (images["unreadable"], images["first_unreadable"]) == (1, damaged.relative_to(folder).as_posix())
    assert images["sizes"] == [[16, 16, 184], [40, 30, 1]]
    assert images["modes"] == {"RGB": 184, "L": 1}
    assert images["largest"] == [other.relative_to(folder).as_posix(), 40, 30]
    assert "1 item image is unreadable" in " ".join(outcome.out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], ["nowhere", "does not exist"]),
        (["shop/images"], ["shop/images", "no items.csv"]),
        (["shop", "--output", "shop/items.csv"], ["shop/items.csv cannot be written", "--output"]),
        (["shop", "--output", "shop/items.csv/sub"], ["shop/items.csv/sub cannot be written", "--output"]),
        (["shop", "--output", "/proc/overview"], ["/proc/overview cannot be written", "--output"]),
        ([], ["dataset"]),
        (["shop", "--bogus"], ["--bogus"]),
    ],
    ids=str,
)
def test_what_cannot_be_shown_is_refused_in_one_line(
    folder: Path, run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    before = sorted(folder.rglob("*"))
    outcome = run("data", "show", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert re.fullmatch(r"catwalk: error: [^\n]+\n", outcome.err), outcome.err
    for word in words:
        assert word in outcome.err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("table", "old", "new", "words"),
    [
        ("interactions.csv", "timestamp", "moment", ["interactions.csv", "timestamp"]),
        ("interactions.csv", "item-000", "item-nil", ["interactions.csv", "row ", "'item-nil'"]),
        ("labelled_images.csv", ",train", ",practice", ["labelled_images.csv", "'practice'"]),
        ("items.csv", "images/items/000.png", "../000.png", ["'../000.png'"]),
    ],
)
def test_a_malformed_table_is_named_and_nothing_is_written(
    folder: Path, run, table: str, old: str, new: str, words: list[str]
) -> None:
    path = folder / table
    path.write_text(path.read_text().replace(old, new, 1))
    before = sorted(folder.rglob("*"))
    outcome = run("data", "show", str(folder))
    assert (outcome.code, outcome.out) == (2, "")
    for word in words:
        assert word in outcome.err
    assert sorted(folder.rglob("*")) == before


def test_help_names_show(run) -> None:
    assert re.search(r"^ +show +Show what matters", run("data", "--help").out, re.MULTILINE)
    outcome = run("data", "show", "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("usage: catwalk data show DATASET [OPTION ...]\n")


def test_an_overview_without_pictures_needs_neither_pytorch_nor_matplotlib() -> None:
    code = """
import sys
import catwalk.overview
assert not {"torch", "matplotlib"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
