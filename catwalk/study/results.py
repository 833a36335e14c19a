"""A finished study, read from its folder: what plots, reports and comparisons are made of."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catwalk.errors import CatwalkError
from catwalk.files.csv_text import from_cell
from catwalk.study.effects import Effect, read_effects

CELLS_FILE, EFFECTS_FILE, MANIFEST_FILE = "cells.csv", "effects.csv", "manifest.json"

PLOTS_FOLDER, REPORT_FILE = "plots", Path("report/index.html")

TABLES = ("table1", "evasion", "shams", "table2", "defences", "networks", "detectors")
"""Names of all tables that a study may have."""


@dataclass(frozen=True)
class StudyResults:
    """A finished study.

    Attributes:
        folder: Its folder.
        manifest: How it was run.
        cells: A row for each cell, with numbers as numbers and None for what is empty.
        effects: The effects of its attacks and controls; none in a study without recommenders.
    """

    folder: Path
    manifest: dict[str, Any]
    cells: list[dict[str, Any]]
    effects: list[Effect]

    @classmethod
    def read(cls, folder: str | Path) -> "StudyResults":
        """Read the folder of a study that has ended.

        Raises:
            CatwalkError: If it is none, or damaged.
        """
        folder = Path(folder)
        missing = [name for name in (CELLS_FILE, EFFECTS_FILE, MANIFEST_FILE) if not (folder / name).is_file()]
        if missing:
            raise CatwalkError(
                f"{folder} is not the folder of a finished study: {', '.join(missing)} is missing; `catwalk study` "
                "writes it at its end"
            )
        try:
            manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
            with (folder / CELLS_FILE).open(newline="", encoding="utf-8") as file:
                cells = [{name: _value(name, text) for name, text in row.items()} for row in csv.DictReader(file)]
            if not isinstance(manifest, dict) or not isinstance(manifest.get("top_k"), int) or not cells:
                raise ValueError("it has no cells, or does not say its top_k")
        except (OSError, ValueError, TypeError, AttributeError, csv.Error) as error:
            raise CatwalkError(f"{folder} cannot be read as a study: {error}; run the study again") from error
        return cls(folder, manifest, cells, read_effects(folder / EFFECTS_FILE))

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.manifest.get("study", self.folder.name))

    @property
    def top_k(self) -> int:
        """K of its metrics."""
        return int(self.manifest["top_k"])

    def table(self, name: str) -> list[dict[str, str]]:
        """Read one of the study's tables, as its CSV file has it; no rows where the study has no such table.

        Args:
            name: One of :data:`TABLES`.

        Raises:
            CatwalkError: If the file is damaged.
        """
        path = self.folder / f"{name}.csv"
        if not path.exists():
            return []
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file, strict=True))
        except (OSError, ValueError, csv.Error) as error:
            raise CatwalkError(f"{path} cannot be read: {error}; run the study again") from error
        if any(None in row or None in row.values() for row in rows):
            raise CatwalkError(f"{path} has rows of another length than its header; run the study again")
        return rows

    def users(self, cell: dict[str, Any]) -> pa.Table:
        """Read the rows of a cell's users, in the order of the users' numbers.

        Raises:
            CatwalkError: If the file is missing or damaged.
        """
        path = self.folder / str(cell["users"])
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise CatwalkError(f"{path} cannot be read: {error}; run the study again") from error


TEXTS = (
    *("dataset", "protocol", "differences", "extractor", "attack", "scenario", "control", "recommender", "source"),
    *("target", "users", "taken_from", "defence", "pipeline", "crafted_on"),
    "known_recommender",
)
"""Columns of ``cells.csv`` that hold text, be it a number by its looks."""


def _value(column: str, text: str | None) -> Any:
    """Return what a value of ``cells.csv`` holds."""
    if not text:
        return None
    if column in TEXTS:
        return from_cell(text)
    try:
        return int(text)
    except ValueError:
        return float(text)
