"""The journal of a search: every trial that has ended, and what was searched."""

import hashlib
import json
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.study import StudyDirection

from catwalk.errors import CatwalkError
from catwalk.files.atomic import write_bytes, write_text
from catwalk.files.locks import LockedError, locked

JOURNAL_FILE = "journal.log"
HASHES_FILE = "journal.log.sha256"
"""A line with a hash for every line of the journal."""

LOCK_FILE = ".lock"
SHOWN_DIFFERENCES = 3


@contextmanager
def open_journal(
    folder: Path, name: str, direction: StudyDirection, identity: Mapping[str, Any]
) -> Iterator[optuna.Study]:
    """Open the journal of a search for this process alone; a new one where there is none.

    Args:
        folder: The search's folder, which is made if need be.
        name: Name of the search.
        direction: Whether its metric is to be high or low.
        identity: All that the trials depend on.

    A journal whose lines were changed since they were written is set aside, with a line on the screen, and the search
    goes on with the trials before them.

    Raises:
        CatwalkError: If another process has it open, or it holds trials of another identity.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / JOURNAL_FILE
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK_FILE, wait=False))
        except LockedError as error:
            raise CatwalkError(
                f"{folder}: another process is at this search ({error}); wait, or give another name"
            ) from error
        # What a killed run may have left: a line that is not whole, and Optuna's own lock.
        with path.open("ab") as file:
            file.truncate(path.read_bytes().rfind(b"\n") + 1)
        path.with_name(f"{JOURNAL_FILE}.lock").unlink(missing_ok=True)
        _set_damage_aside(path)
        now = json.loads(json.dumps(identity, default=str))
        study = _read(path)
        if study is not None and study.get_trials():
            _require_same(folder, study.user_attrs["search"], now)
        else:
            write_bytes(path, b"")
            (folder / HASHES_FILE).unlink(missing_ok=True)
            study = optuna.create_study(storage=_storage(path), study_name=name, direction=direction)
            study.set_user_attr("search", now)
        yield study


def _storage(path: Path) -> JournalStorage:
    return JournalStorage(_Journal(str(path), JournalFileOpenLock(str(path))))


class _Journal(JournalFileBackend):
    """Optuna's journal, with a lock that every disk knows, and its name in what a disk refuses."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            super().append_logs(logs)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._file_path) from error
        path = Path(self._file_path)
        write_text(path.with_name(HASHES_FILE), "".join(f"{_hash(line)}\n" for line in _lines(path)))


def _read(path: Path) -> optuna.Study | None:
    """Return what a journal holds; None where it is empty.

    Raises:
        CatwalkError: If it is none of Optuna's.
    """
    try:
        storage = _storage(path)
        names = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=names[0], storage=storage) if names else None
    except (AssertionError, LookupError, TypeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CatwalkError(f"{path} is no journal of a search: {reason}; give another name, or remove it") from error


def _set_damage_aside(path: Path) -> None:
    """Keep the lines of a journal before the first that was changed, and all of it under another name."""
    lines, hashes = _lines(path), path.with_name(HASHES_FILE)
    known = hashes.read_text("utf-8", "replace").splitlines() if hashes.is_file() else []
    # A run that was killed may have written a line and not yet its hash.
    sound = [*(_hash(line) == digest for line, digest in zip(lines, known, strict=False))]
    sound += [_is_entry(line) for line in lines[len(known) :]]
    sound += [False] * (len(known) > len(lines))
    if all(sound):
        return
    first, number = sound.index(False), 1
    while (aside := path.with_name(f"{JOURNAL_FILE}.damaged-{number}")).exists():
        number += 1
    write_bytes(aside, path.read_bytes())
    write_bytes(path, b"".join(lines[:first]))
    write_text(hashes, "".join(f"{_hash(line)}\n" for line in lines[:first]))
    warnings.warn(
        f"{path} was changed in line {first + 1} after it was written: it is set aside as {aside.name}, and the search "
        "goes on with what is before that line",
        stacklevel=2,
    )


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _is_entry(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _require_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise a CatwalkError if two identities differ."""
    was, now = (defaultdict(lambda: "not given", _leaves(tree)) for tree in (before, now))
    differing = [key for key in dict.fromkeys([*was, *now]) if was[key] != now[key]]
    if differing:
        shown = [f"{key} was {was[key]} and is {now[key]}" for key in differing[:SHOWN_DIFFERENCES]]
        more = f"; and {len(differing) - len(shown)} more" if len(differing) > len(shown) else ""
        raise CatwalkError(
            f"{folder} holds another search: {'; '.join(shown)}{more}; give another name, or remove the folder"
        )


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested settings by path."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves
