"""Strict reading of CSV and Parquet tables whose ids are text."""

import codecs
import contextlib
import csv
import gzip
import io
import re
import zlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from catwalk.errors import CatwalkError, MissingColumnError
from catwalk.shop.ids import plain_id

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""Separators of cells, and their names in messages."""

STRAY_QUOTES = {
    mark: re.compile(rb'(?<!\xef\xbb)[^%b\n\r"]"[^%b\n\r"]' % (2 * (re.escape(mark.encode()),))) for mark in DELIMITERS
}
"""A quotation mark with text, other than a byte order mark, on either side, which no quoted cell has, by delimiter."""

FIRST_LINE = 1 << 20
"""Bytes of a file in which its first line ends, where the delimiter is looked for."""

BLOCK = 1 << 22
"""Bytes of a CSV file that are parsed at a time."""

LONGEST_ROW = 1 << 24
"""Bytes above which a row is refused: what has no line breaks would have to fit into memory."""


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
    """Read the named columns of a CSV or Parquet file as text, in the file's order: :func:`scan_table`, whole.

    Returns:
        A table of string columns: ``columns``, then those of ``optional`` that exist.
    """
    return pa.Table.from_batches(scan_table(path, columns, optional))


def column_names(path: Path, wanted: Sequence[str] = ()) -> list[str]:
    """Return the names of a table's columns; none where it has no rows. Those that are wanted tell its delimiter."""
    is_parquet = path.suffix == ".parquet"
    with contextlib.closing(_scan_parquet(path) if is_parquet else _scan_csv(path, wanted, None)) as batches:
        return next((batch.schema.names for batch in batches), [])


def scan_table(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), *, header: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Read the named columns of a CSV, TSV or Parquet file as text, a batch of rows at a time, in the file's order.

    Everything is read as text, so that ids such as ``007`` stay what they are; numbers are parsed by who needs them.
    CSV is that of RFC 4180 in UTF-8, with a header; a quoted cell may hold line breaks, as descriptions of products
    do. It may be separated by semicolons, tabs or vertical bars as well, which the names of columns in the first line
    tell; these are compared without surrounding blanks and invisible characters. TSV knows no quotation marks. Both
    may be gzipped (``.csv.gz``). Memory holds a few blocks at a time, however long the file is.

    Args:
        path: The file; its name's ending tells what it is, and what is no ``.tsv`` or ``.parquet`` is CSV.
        columns: Columns that must be there, and hold something in every row.
        optional: Columns that are read where they are there.
        header: Names of all columns of a CSV or TSV file that has no header: commas separate its cells, tabs those of
            a ``.tsv``.

    Yields:
        Batches of string columns: ``columns``, then those of ``optional`` that exist.

    Raises:
        CatwalkError: If the file is missing, empty or malformed (with its line), lacks a column, or has an empty cell
            in ``columns`` (with its row, counted without the header).
    """
    if not path.is_file():
        raise CatwalkError(f"{path} {'is no file' if path.exists() else 'does not exist'}")
    is_parquet = path.suffix == ".parquet"
    wanted = [*columns, *optional]
    rows = 0
    try:
        # Closed at once, and not when the memory of an error is gone.
        with contextlib.closing(_scan_parquet(path) if is_parquet else _scan_csv(path, wanted, header)) as batches:
            for batch in batches:
                batch = _with_plain_names(batch, wanted)
                if rows == 0:
                    _check_columns(path, columns, optional, batch.schema.names)
                there = [*columns, *(name for name in optional if name in batch.schema.names)]
                kept = batch.select(list(dict.fromkeys(there)))  # one column may serve two purposes
                yield _as_text(path, kept, columns, rows)
                rows += batch.num_rows
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        place = None if is_parquet else _find_malformed_line(path, wanted, header)
        raise CatwalkError(place or f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if rows == 0:
        raise CatwalkError(f"{path} has a header and no rows")


def _with_plain_names(batch: pa.RecordBatch, wanted: Sequence[str]) -> pa.RecordBatch:
    """Return the batch with the wanted names for columns spelled otherwise; see :func:`catwalk.shop.ids.plain_id`.

    A name that is there as it is wanted, or that is spelled in several other ways, leaves all as they are.
    """
    names = batch.schema.names
    for name in wanted:
        spelled = [place for place, other in enumerate(names) if plain_id(other) == plain_id(name)]
        if name not in names and len(spelled) == 1 and names[spelled[0]] not in wanted:
            names[spelled[0]] = name
    return batch.rename_columns(names) if names != batch.schema.names else batch


def _check_columns(path: Path, columns: Sequence[str], optional: Sequence[str], found: list[str]) -> None:
    for name in (*columns, *optional):
        if found.count(name) > 1:
            raise CatwalkError(f"{path} has the column {name!r} {found.count(name)} times")
        if name in columns and name not in found:
            raise MissingColumnError(path, name, found)


def _as_text(path: Path, batch: pa.RecordBatch, columns: Sequence[str], before: int) -> pa.RecordBatch:
    """Return the batch as strings, or raise a CatwalkError for an empty cell in ``columns``."""
    try:
        batch = batch.cast(pa.schema([(name, pa.string()) for name in batch.schema.names]))
        batch.validate(full=True)  # Parquet files may call any bytes text
    except pa.ArrowException as error:
        raise CatwalkError(f"{path} holds what is no text: {str(error).splitlines()[0]}") from error
    for name in columns:
        column = batch.column(name)
        empty = pa.compute.or_kleene(pa.compute.is_null(column), pa.compute.equal(column, ""))
        first = pa.compute.index(empty, True).as_py()
        if first >= 0:
            raise CatwalkError(f"{path}, row {before + first + 1}: {name!r} is empty")
    return batch


def _scan_parquet(path: Path) -> Generator[pa.RecordBatch, None, None]:
    with pa.parquet.ParquetFile(path) as file:
        # A file without rows has no batch, and yet columns that are to be checked.
        yield from file.iter_batches() if file.metadata.num_rows else [_empty(file.schema_arrow.names)]


def _scan_csv(path: Path, wanted: Sequence[str], header: Sequence[str] | None) -> Generator[pa.RecordBatch, None, None]:
    """Parse a file block by block, each a whole number of rows, that this thread has read.

    pyarrow must not read ahead from a Python file: its threads would want the interpreter when that has ended after an
    error, and abort the process.
    """
    delimiter, has_quotes = _dialect(path, wanted, header)
    parsing = pa.csv.ParseOptions(
        delimiter=delimiter, quote_char='"' if has_quotes else False, newlines_in_values=has_quotes
    )
    names, has_header, is_empty = list(header or ()), header is None, True
    with contextlib.closing(_CheckedText(path, delimiter, has_quotes)) as file:
        for number, block in enumerate(_whole_rows(file, has_quotes)):
            if number and block.startswith(codecs.BOM_UTF8):
                block = b"\n" + block  # within a file this is part of a cell; pyarrow passes over an empty line
            # One thread: with several, a message about a ragged row says at random which row it is.
            reading = pa.csv.ReadOptions(
                use_threads=False, block_size=max(len(block), 1), column_names=None if has_header else names
            )
            if has_header:
                with pa.csv.open_csv(pa.BufferReader(block), parse_options=parsing) as first:
                    names, has_header = first.schema.names, False
            converting = pa.csv.ConvertOptions(column_types={name: pa.string() for name in names}, check_utf8=False)
            for batch in pa.csv.read_csv(pa.BufferReader(block), reading, parsing, converting).to_batches():
                if batch.num_rows:
                    is_empty = False
                    yield batch
    if is_empty:
        yield _empty(names)


def _whole_rows(file: "_CheckedText", has_quotes: bool) -> Iterator[bytes]:
    """Cut a file's bytes into blocks that end where a row does; there is at least one block."""
    rest, is_first = b"", True
    while data := file.read(BLOCK):
        joined = rest + data
        end = _end_of_rows(joined, has_quotes)
        if end:
            yield joined[:end]
            is_first = False
        rest = joined[end:]
        if len(rest) > LONGEST_ROW:
            raise pa.ArrowInvalid(f"a row is longer than {LONGEST_ROW:,} bytes")
    if rest or is_first:
        yield rest


def _end_of_rows(data: bytes, has_quotes: bool) -> int:
    """Return where the last row ends that is there whole, behind its line break; 0 if none is.

    ``data`` begins with a row. A line break after an odd number of quotation marks is within a cell.
    """
    end = len(data)
    is_inside = has_quotes and data.count(b'"') % 2 == 1
    while True:
        if is_inside:
            end = data.rindex(b'"', 0, end)  # where the cell opens
        last = max(data.rfind(b"\n", 0, end), data.rfind(b"\r", 0, end))
        if last < 0:
            return 0
        is_inside = has_quotes and data.count(b'"', last, end) % 2 == 1
        if not is_inside:
            return last + 1
        end = last


def _empty(names: Sequence[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], pa.string()) for _ in names], names=list(names))


def _dialect(path: Path, wanted: Sequence[str], header: Sequence[str] | None) -> tuple[str, bool]:
    """Return the delimiter and whether cells may be quoted.

    A file has a delimiter of its own: a tab for ``.tsv``, without quotation marks, otherwise a comma. Where the header
    is given it is that one. Otherwise it is the mark of :data:`DELIMITERS` under which most of the wanted columns are
    cells of the first line, its own among equals; if none of them is there, the mark that is most frequent.
    """
    is_tsv = path.name.removesuffix(".gz").endswith(".tsv")
    own = "\t" if is_tsv else ","
    with _open_bytes(path) as file:
        line = file.readline(FIRST_LINE).removeprefix(codecs.BOM_UTF8)
    if line[:4].lower() == b"sep=":
        raise CatwalkError(f"{path}, line 1 is {line[:5].decode('ascii', 'replace')!r}, as Excel writes it: remove it")
    text = line.decode("utf-8", "replace")
    bare = text if is_tsv else re.sub(r'"[^"]*"', "", text)
    names = {plain_id(name) for name in wanted}

    def rank(mark: str) -> tuple[int, bool, int, bool]:
        hits = len(names.intersection(_first_cells(text, mark, has_quotes=not (is_tsv and mark == "\t"))))
        return hits, hits > 0 and mark == own, bare.count(mark), mark == own

    delimiter = own if header is not None else max(DELIMITERS, key=rank)
    return delimiter, not (is_tsv and delimiter == "\t")


def _first_cells(text: str, delimiter: str, has_quotes: bool) -> list[str]:
    """Return the cells of a text's first row in plain form, or none if it is malformed."""
    quoting: dict[str, Any] = {} if has_quotes else {"quoting": csv.QUOTE_NONE}
    try:
        cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **quoting), [])
    except csv.Error:
        return []
    return [plain_id(cell) for cell in cells]


def _open_bytes(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


class _CheckedText:
    """The bytes of a text file, checked as they pass for what a parser would let through or take for something else."""

    def __init__(self, path: Path, delimiter: str, quotes: bool) -> None:
        self._path = path
        self._file = _open_bytes(path)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._quotes = quotes
        self._stray_quote = STRAY_QUOTES[delimiter]
        self._num_quotes = 0
        self._lines = 0
        self._tail = b""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, size: int) -> bytes:
        """Return up to so many bytes, none at the end, or raise a CatwalkError."""
        data = self._file.read(size)
        pending = len(self._decoder.getstate()[0])
        try:
            self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            # What was pending ended the block before, within a line.
            where = max(error.start - pending, 0)
            raise self._refused(data[:where], "is not UTF-8; save the file in that encoding") from error
        if b"\0" in data:
            raise self._refused(data[: data.index(b"\0")], "holds a NUL byte: this is no text, or damaged")
        if self._quotes:
            self._check_quotes(data)
        self._lines += data.count(b"\n")
        return data

    def _check_quotes(self, data: bytes) -> None:
        if b'"' in data or b'"' in self._tail:
            joined = self._tail + data
            stray = self._stray_quote.search(joined)
            if stray:
                place = max(stray.start() + 1 - len(self._tail), 0)
                raise self._refused(data[:place], "has a quotation mark inside a cell; double it and quote the cell")
            self._num_quotes += data.count(b'"')
        if not data and self._num_quotes % 2:
            raise pa.ArrowInvalid("a quotation mark is opened and not closed")
        self._tail = (self._tail + data)[-2:]

    def _refused(self, before: bytes, reason: str) -> CatwalkError:
        return CatwalkError(f"{self._path}, line {self._lines + before.count(10) + 1} {reason}")


def _find_malformed_line(path: Path, wanted: Sequence[str], header: Sequence[str] | None) -> str | None:
    """Return what is wrong with a CSV file and in which line, by a slow second reading; None if nothing is found."""
    start, width = 0, len(header) if header is not None else None
    try:
        delimiter, has_quotes = _dialect(path, wanted, header)
        with io.TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", newline="") as file:
            quoting: dict[str, Any] = {} if has_quotes else {"quoting": csv.QUOTE_NONE}
            rows = csv.reader(file, delimiter=delimiter, strict=True, **quoting)
            for row in rows:
                if width is None:
                    width = len(row)
                if row and len(row) != width:
                    return (
                        f"{path}, line {start + 1} has {len(row)} cells and the header {width}, separated by "
                        f"{DELIMITERS[delimiter]}"
                    )
                start = rows.line_num
    except csv.Error as error:
        reason = str(error)
        if "unexpected end" in reason:
            reason = "a quotation mark is opened and not closed"
        elif "expected after" in reason:
            reason = "a quotation mark is not closed, or is to be doubled"
        return f"{path}, line {start + 1}: {reason}"
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return None
    return None
