"""Reading long files of one record a line, in JSON or as Python literals, plain or gzipped, and strictly."""

import ast
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from catwalk.errors import CatwalkError
from catwalk.terminal.progress import Progress

BLOCK = 1 << 20
"""Bytes that are read at a time."""

LONGEST_LINE = 1 << 24
"""Bytes above which a line is refused: what has no line breaks would have to fit into memory."""

GZIP_MAGIC = b"\x1f\x8b"

PIECES = re.compile(rb"""(?:[^'"]+|'[^'"]*')+|'[^']*'|"[^"]*\"""")
"""The pieces of a Python literal without backslashes: what has no doubtful quotation marks, and strings that have."""


class Records:
    """The records of a file, one by one, in its order; memory holds a block of it at a time.

    A line that begins as Python writes a dictionary, ``{'``, is read as a literal, and any other as JSON. Empty lines
    are passed over. Used as a context manager, which shows a progress bar on standard error.

    Example:
        >>> with Records(Path("reviews.json.gz")) as records:  # doctest: +SKIP
        ...     for record in records:
        ...         if "asin" not in record:
        ...             records.refuse("names no item")

    Attributes:
        path: The file.
        line: Number of the line that was read last, from 1.
        malformed: How many lines were left out because they were malformed.
    """

    def __init__(self, path: Path, skip_malformed: bool = False) -> None:
        """Open nothing yet.

        Args:
            path: The file; whether it is gzipped is seen from its first bytes.
            skip_malformed: Leave malformed lines out and count them, rather than raise.
        """
        self.path = path
        self.line = 0
        self.malformed = 0
        self._skip_malformed = skip_malformed
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True))

    def __enter__(self) -> "Records":
        if not self.path.is_file():
            raise CatwalkError(f"{self.path} does not exist")
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(self._lines(), start=1):
            self.line = number
            try:
                record = parse_literal(line) if line.startswith(b"{'") else orjson.loads(line)
            except ValueError as error:
                if line.strip():
                    self.refuse(f"is no JSON object: {getattr(error, 'msg', error)}")
                continue
            if type(record) is dict:
                yield record
            else:
                self.refuse(f"holds no object but {str(record)[:40]!r}")
        if self.line == 0:
            raise CatwalkError(f"{self.path} is empty")

    def refuse(self, reason: str) -> None:
        """Count the line that was read last as malformed, or raise a CatwalkError that says why."""
        if not self._skip_malformed:
            raise CatwalkError(
                f"{self.path}, line {self.line} {reason}; --skip-malformed leaves such lines out and counts them"
            )
        self.malformed += 1

    def _lines(self) -> Iterator[bytes]:
        rest = b""
        for block in self._blocks():
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            if len(rest) > LONGEST_LINE:
                raise CatwalkError(f"{self.path} has a line longer than {LONGEST_LINE:,} bytes: is it the file?")
            yield from lines
        if rest:
            yield rest

    def _blocks(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                task = self._bar.add_task(f"Reading {escape(self.path.name)}", total=self.path.stat().st_size)
                is_gzipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
                file.seek(0)
                text = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_gzipped else file
                while block := text.read(BLOCK):
                    yield block
                    self._bar.update(task, completed=file.tell())
        except EOFError as error:
            raise CatwalkError(f"{self.path} ends too early: it was not downloaded whole") from error
        except (OSError, zlib.error) as error:
            raise CatwalkError(f"{self.path} cannot be read: {error}") from error


def parse_literal(line: bytes) -> Any:
    """Return the value of a Python literal; nothing in it is executed.

    Most literals are JSON but for the quotation marks around their strings. Those are turned into JSON, which is read
    several times as fast; everything else goes through :func:`ast.literal_eval`.

    Raises:
        ValueError: If it is no literal.
    """
    if b"\\" not in line:
        try:
            return orjson.loads(_as_json(line))
        except orjson.JSONDecodeError:
            pass
    try:
        return ast.literal_eval(line.decode())
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(getattr(error, "msg", "nested too deeply, or no literal")) from error


def _as_json(line: bytes) -> bytes:
    """Return a literal without backslashes with the quotation marks of JSON."""
    if b'"' not in line:
        return line.replace(b"'", b'"')
    pieces: list[bytes] = PIECES.findall(line)
    if sum(map(len, pieces)) < len(line):
        raise orjson.JSONDecodeError("a quotation mark is not closed", "", 0)
    return b"".join(map(_requote, pieces))


def _requote(piece: bytes) -> bytes:
    if piece.startswith(b'"'):
        return piece
    if b'"' in piece:
        return b'"' + piece[1:-1].replace(b'"', b'\\"') + b'"'
    return piece.replace(b"'", b'"')
