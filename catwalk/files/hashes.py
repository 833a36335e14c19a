"""Hashes of files, by which their content is told apart and damage is noticed."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from catwalk.files.atomic import write_text
from catwalk.files.watched import FileState, file_state, wait_for_other_times


def file_hash(path: str | Path | None) -> str | None:
    """Return the SHA-256 of a file as hexadecimal digits; None where there is none."""
    if path is None or not _is_file(path):
        return None
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _is_file(path: str | Path) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # text that is no path
        return False


def seal(path: Path) -> None:
    """Write the SHA-256 of a file beside it, with the state in which the file had it: ``NAME.sha256``."""
    state = file_state(path)
    wait_for_other_times([state] if state else [])
    _write_seal(path, file_hash(path), state)


def is_as_sealed(path: Path) -> bool:
    """Return whether a file is there and holds what it did when it was sealed.

    A large file is not read again as long as size and times are those with which it was checked before.
    """
    try:
        sealed = json.loads(_seal_of(path).read_text(encoding="utf-8"))
        digest, state = sealed["sha256"], FileState(*sealed["state"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    now = file_state(path)
    if now is None or now == state:
        return now is not None
    if now.size != state.size or file_hash(path) != digest:
        return False
    with suppress(OSError):  # it is the same, and next time that need not be found out again
        _write_seal(path, digest, now)
    return True


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _write_seal(path: Path, digest: str | None, state: FileState | None) -> None:
    write_text(_seal_of(path), json.dumps({"sha256": digest, "state": state}) + "\n")
