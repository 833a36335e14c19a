"""``stage.json``: what a folder with a result says of it, and whether its files are still as they were written."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from catwalk.files.atomic import flush
from catwalk.files.hashes import file_hash
from catwalk.files.watched import FileState, file_state
from catwalk.results.keys import Inputs

RECORD_FILE = "stage.json"

STORAGE = ("stage", "key", "files", "sha256", "title", "settings", "code", "torch")
"""Entries of a record that say what is stored and what it was made of; the others are the result's own metrics."""

Record = dict[str, Any]


class Origin(NamedTuple):
    """What a result is, and what it is made of.

    Attributes:
        title: What tells it from other results of its kind; an earlier one of the same title was made of other inputs.
        inputs: All that it depends on.
        before: The record of the result whose place it takes; by default that of the latest one of the same title.
    """

    title: str
    inputs: Inputs
    before: Record | None = None


def read_record(folder: Path, name: str = RECORD_FILE) -> Record | None:
    """Return the whole record of a folder; None where it is missing or no JSON object."""
    try:
        record = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def write_record(folder: Path, record: Record) -> None:
    """Write the record of a folder whose other files are complete, with their sizes and hashes; flush everything.

    Args:
        folder: A folder that nobody reads yet.
        record: What the record is to say besides.
    """
    (folder / RECORD_FILE).write_text(record_of(folder, record, folder.rglob("*")), encoding="utf-8")
    for path in [*folder.rglob("*"), folder]:
        flush(path)


def record_of(folder: Path, record: Record, files: Iterable[Path]) -> str:
    """Return the text of a record, with the sizes and hashes of files of a folder, and its own hash.

    Args:
        folder: The folder.
        record: What the record is to say besides.
        files: The files; what is a folder among them is passed over.
    """
    record = {**record, "files": _content(folder, files)}
    text = json.dumps({**record, "sha256": _hash(record)}, indent=2, sort_keys=True, ensure_ascii=False)
    return f"{text}\n"


def damage_of_record(record: Record | None, stage: str, key: str) -> str | None:
    """Return what is wrong with the record of a result; None if it is as it was written."""
    if record is None:
        return f"{RECORD_FILE} is missing or damaged"
    own = {name: value for name, value in record.items() if name != "sha256"}
    if record.get("sha256") != _hash(own) or not isinstance(record.get("files"), dict):
        return f"{RECORD_FILE} was changed after it was written"
    if (record.get("stage"), record.get("key")) != (stage, key):
        return f"{RECORD_FILE} is of another result, {record.get('stage')}/{record.get('key')},"
    return None


def damage_of_files(
    folder: Path, files: Mapping[str, Mapping[str, Any]], verified: Mapping[str, FileState] | None = None
) -> str | None:
    """Return what is wrong with the files of a result; None if they are as they were written.

    Args:
        folder: The folder.
        files: ``bytes`` and ``sha256`` of each file, as its record has them.
        verified: The states of files whose hashes were compared before; one that is in the same state is not read.
    """
    for name, content in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        state = file_state(path)
        if verified is not None and state is not None and verified.get(name) == state:
            continue
        if path.stat().st_size != content["bytes"] or file_hash(path) != content["sha256"]:
            return f"{name} was changed after it was written"
    return None


def _content(folder: Path, files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of files in a folder, by their paths below that."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        for path in sorted(files)
        if path.is_file()
    }


def _hash(record: Record) -> str:
    """Return the SHA-256 of what JSON makes of a record, whatever the order of its entries."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
