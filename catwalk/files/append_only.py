"""Files that only grow: a line for each thing that is done, so that a run that was killed loses none of them."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_DIGITS = 16
"""Hexadecimal digits of a line's hash."""


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows of plain values to a file, each as a line of JSON behind its hash, and wait until the disk has them.

    What a killed run left of a last line is ended first.

    Args:
        path: The file, which is made, with its folder, if need be.
        rows: What to append.

    Raises:
        OSError: If the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        for row in rows:
            text = json.dumps(row, ensure_ascii=False, sort_keys=True)
            file.write(f"{_hash(text)} {text}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file that are as they were written; none where there is no file.

    A line that was changed, or that is not whole, is passed over: what it said has to be done again.

    Args:
        path: The file.
    """
    if not path.is_file():
        return
    for line in path.read_text("utf-8", "replace").splitlines():
        digest, _, text = line.partition(" ")
        if digest == _hash(text):
            yield json.loads(text)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
