"""Table files shared by callbacks: CSV or Parquet, as the file's name says."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from catwalk.errors import CatwalkError
from catwalk.files.atomic import open_bytes, open_text
from catwalk.files.csv_text import to_cell

ROWS_AT_ONCE = 1024


def table_file(option: str, path: Path) -> Path:
    """Return the path of a table to write, or raise a :class:`CatwalkError` that names the option.

    Args:
        option: What a user calls it, such as ``WriteUserMetrics.output``.
        path: Its path, which must end in ``.csv`` or ``.parquet`` and be no folder.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise CatwalkError(f"{option} must end in .csv or .parquet, got {path}")
    if path.is_dir():
        raise CatwalkError(f"{option} must be a file, and {path} is a folder")
    return path


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as CSV or Parquet, whole or not at all; in a CSV file lists are JSON, and no text is a formula."""
    if path.suffix == ".parquet":
        with open_bytes(path) as file:
            pa.parquet.write_table(table, file)
    else:
        _write_csv(table, path)


def _write_csv(table: pa.Table, path: Path) -> None:
    with open_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(to_cell, table.column_names))
        for rows in table.to_batches(max_chunksize=ROWS_AT_ONCE):
            columns = [[_cell(value) for value in column.to_pylist()] for column in rows.columns]
            writer.writerows(zip(*columns, strict=True))


def _cell(value: Any) -> Any:
    """Return a list as JSON, and anything else as a cell."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else to_cell(value)
