"""Text of others in CSV files is no formula, and is read back as it was."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from callbacks.table_files import write_table
from catwalk.files.csv_text import from_cell, to_cell
from catwalk.networks.features import FeatureTable
from catwalk.poisoning.attack_files import ITEMS_FILE, AttackedItem, _write_rows
from catwalk.poisoning.records import _parsed
from catwalk.shop.catalogue import Catalogue
from catwalk.study.cells import SETTINGS, Cell, write_cells

FORMULAS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    "'=1",
    "''@x",
    "-a",
    "=-5",
    "+5;x",
    "=nan",
]
OTHERS = ["", "item", "'item", "it's", "a=b", " x", "-", "="]
NUMBERS = ["-0.5", "+7", "-1e-05", "-.5", "-inf", "5"]


@pytest.mark.parametrize("text", FORMULAS)
def test_what_a_spreadsheet_would_compute_is_marked(text: str) -> None:
    assert to_cell(text) == f"'{text}"
    assert from_cell(to_cell(text)) == text


@pytest.mark.parametrize("text", [*OTHERS, *NUMBERS])
def test_other_text_stays(text: str) -> None:
    assert to_cell(text) == text
    assert from_cell(text) == text


@pytest.mark.parametrize("value", [-0.5, -3, None, float("-inf"), True])
def test_what_is_no_text_stays(value: object) -> None:
    assert to_cell(value) is value


def read_rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_callbacks_table(tmp_path: Path) -> None:
    table = pa.table({"user_id": ["=x", "b"], "auc": [-0.5, 1.0], "@c": [1, 2], "ids": [["=x", "y"], ["z"]]})
    write_table(table, tmp_path / "table.csv")
    assert read_rows(tmp_path / "table.csv") == [
        ["user_id", "auc", "'@c", "ids"],
        ["'=x", "-0.5", "1", '["=x", "y"]'],  # a bracket begins no formula
        ["b", "1.0", "2", '["z"]'],
    ]
    write_table(table, tmp_path / "table.parquet")  # is read by programs alone
    assert pa.parquet.read_table(tmp_path / "table.parquet") == table


def test_a_studys_cells(tmp_path: Path) -> None:
    cell = dict.fromkeys(SETTINGS) | {"dataset": "=shop", "source": "-a", "target": "b", "sr": -0.5}
    write_cells([Cell(**cell)], 20, tmp_path / "cells.csv")
    row = dict(zip(*read_rows(tmp_path / "cells.csv"), strict=True))
    assert (row["dataset"], row["source"], row["target"], row["sr"]) == ("'=shop", "'-a", "b", "-0.5")


def test_predictions_and_attacked_items_are_read_back(tmp_path: Path) -> None:
    ids, names = ("=1", "'=1", "plain"), ("@c", "'@c")
    catalogue = Catalogue(tmp_path, "shop", ids, ("a.png", "b.png", "c.png"), np.array([0, 1, 0]), names)
    catalogue.__dict__["fingerprint"] = "made up"
    table = FeatureTable(
        torch.ones(3, 2), np.array([1, 0, 1]), np.ones(3, np.float32), names, 1.0, "made up", "network"
    )
    table.write(tmp_path, catalogue)
    assert [row[:2] for row in read_rows(tmp_path / "predictions.csv")[1:]] == [
        ["'=1", "''@c"],
        ["''=1", "'@c"],
        ["plain", "''@c"],
    ]
    again = FeatureTable.read(tmp_path, catalogue)
    assert again.categories.tolist() == [1, 0, 1]
    item = AttackedItem("'=1", "images/0.png", "@c", "'@c", 0.5, True, False, 3, 0.25, 8, 100.5)
    _write_rows(tmp_path / ITEMS_FILE, [item])
    row = dict(zip(*read_rows(tmp_path / ITEMS_FILE), strict=True))
    assert row["item_id"] == "''=1"
    assert AttackedItem(**{name: _parsed(name, text) for name, text in row.items()}) == item
