"""Strict reading of CSV and Parquet tables whose ids are text."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from catwalk.errors import CatwalkError


def find_table(folder: Path, stem: str) -> Path | None:
    """Return ``folder/stem.csv`` or ``folder/stem.parquet``, or None if there is neither.

    Raises:
        CatwalkError: If there are both, since one of them would be ignored.
    """
    found = [path for path in (folder / f"{stem}.csv", folder / f"{stem}.parquet") if path.is_file()]
    if len(found) > 1:
        raise CatwalkError(f"{folder} holds both {stem}.csv and {stem}.parquet: keep one of them")
    return found[0] if found else None


def read_table(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
    """Read the named columns of a CSV or Parquet file as text, in the file's order.

    Everything is read as text, so that ids such as ``007`` stay what they are; numbers are parsed by who needs them.

    Args:
        path: A ``.csv`` file with a header, in UTF-8, or a ``.parquet`` file.
        columns: Columns that must be there.
        optional: Columns that are read where they are there.

    Returns:
        A table of string columns: ``columns``, then those of ``optional`` that exist.

    Raises:
        CatwalkError: If the file is missing, empty, malformed, or lacks a column, or if a cell of ``columns`` is empty.
    """
    if not path.is_file():
        raise CatwalkError(f"{path} does not exist")
    try:
        # No partitioning: a folder that happens to be called `category=3` is not a column.
        table = pa.parquet.read_table(path, partitioning=None) if path.suffix == ".parquet" else _read_csv(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CatwalkError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    found = table.column_names
    for name in (*columns, *optional):
        if found.count(name) > 1:
            raise CatwalkError(f"{path} has the column {name!r} {found.count(name)} times")
        if name in columns and name not in found:
            raise CatwalkError(f"{path} lacks the column {name!r}; it has {', '.join(found)}")
    if table.num_rows == 0:
        raise CatwalkError(f"{path} has a header and no rows")
    table = table.select([*columns, *(name for name in optional if name in found)])
    try:
        table = table.cast(pa.schema([(name, pa.string()) for name in table.column_names]))
    except pa.ArrowException as error:
        raise CatwalkError(f"{path} holds what is no text: {str(error).splitlines()[0]}") from error
    for name in columns:
        column = table.column(name)
        empty = pa.compute.or_kleene(pa.compute.is_null(column), pa.compute.equal(column, ""))
        first = pa.compute.index(empty, True).as_py()
        if first >= 0:
            raise CatwalkError(f"{path}, row {first + 1}: {name!r} is empty")
    return table


def _read_csv(path: Path) -> pa.Table:
    """Read all columns as text; a quoted cell may hold line breaks, as descriptions of products do."""
    parsing = pa.csv.ParseOptions(newlines_in_values=True)
    with pa.csv.open_csv(path, parse_options=parsing) as reader:
        names = reader.schema.names
    converting = pa.csv.ConvertOptions(column_types={name: pa.string() for name in names})
    # One thread: with several, the message about a ragged row says at random which row it is.
    reading = pa.csv.ReadOptions(use_threads=False)
    return pa.csv.read_csv(path, reading, parsing, converting)
