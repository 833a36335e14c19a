"""Results on disk under the hash of everything that they depend on, believed by their content alone."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from catwalk.errors import CatwalkError
from catwalk.files.atomic import flush
from catwalk.files.hashes import file_hash
from catwalk.files.locks import locked
from catwalk.files.partial_folders import partial_folder, remove_leftovers
from catwalk.files.watched import WatchedFiles, watch

RECORD_FILE = "stage.json"

STORAGE = ("stage", "key", "files", "sha256")
"""Entries of ``stage.json`` that say what is stored; the others are the result's own."""

Tell = Callable[[str], None]


class Result(NamedTuple):
    """A result that was found whole and as it was written.

    Attributes:
        record: Its figures.
        files: Its files, as they were when they were checked.
    """

    record: dict[str, Any]
    files: WatchedFiles


class StageCache:
    """A folder of stage results, each written once, whole, and never changed.

    A result is made in a folder aside, flushed to the disk and renamed into its place, so that what stands there is
    complete, whenever a run was killed. ``stage.json`` has the size and the SHA-256 of every file and of itself; they
    are compared before a result is taken. What is damaged or incomplete is set aside in ``damaged/``, and made again.

    Args:
        folder: Where the results live.
        tell: Called with a line about each result that was set aside, or is waited for.
    """

    def __init__(self, folder: Path, tell: Tell = lambda line: None) -> None:
        self.folder = folder
        self._partial = folder / ".partial"
        self._tell = tell
        self._taken: dict[tuple[str, str], Result] = {}

    def path(self, stage: str, key: str) -> Path:
        """Return the folder of a result, whether it exists yet or not."""
        return self.folder / stage / key

    def take(self, stage: str, key: str, description: str | None = None) -> Result | None:
        """Return a result, whose files are checked the first time; None where there is none that is sound.

        Args:
            stage: What kind of result.
            key: Its key.
            description: What to call it where it is damaged.
        """
        result, damage = self._look(stage, key)
        if damage is not None:
            # Not while another run is about to put it right.
            with self._alone(stage, key, description):
                result, damage = self._look(stage, key)
                if damage is not None:
                    self._set_aside(stage, key, damage, description)
        return result

    def _look(self, stage: str, key: str) -> tuple[Result | None, str | None]:
        """Return a result if it is sound, and what is wrong with it if it is not."""
        taken, folder = self._taken.get((stage, key)), self.path(stage, key)
        if taken is not None or not os.path.lexists(folder):
            return taken, None
        record = _read_record(folder)
        damage = _damage_of_record(record, stage, key)
        if record is None or damage is not None:
            return None, damage
        # Other files may come to stand beside them, such as features in another type.
        files = watch(*(folder / name for name in [RECORD_FILE, *record["files"]]))
        damage = _damage_of_files(folder, record["files"])
        if damage is not None:
            return None, damage
        result = Result({name: value for name, value in record.items() if name not in STORAGE}, files)
        self._taken[stage, key] = result
        return result, None

    def has(self, stage: str, key: str) -> bool:
        """Return whether a result is there, whole and as it was written."""
        return self.take(stage, key) is not None

    def read(self, stage: str, key: str) -> dict[str, Any]:
        """Return what a result's ``stage.json`` says of it.

        Raises:
            CatwalkError: If there is no sound result.
        """
        result = self.take(stage, key)
        if result is None:
            raise CatwalkError(f"{self.path(stage, key)} has gone or was damaged meanwhile: run the same command again")
        return result.record

    def write(
        self, stage: str, key: str, make: Callable[[Path], Mapping[str, Any]], description: str | None = None
    ) -> bool:
        """Let ``make`` fill a folder, add what it returns as ``stage.json``, and put the folder in its place.

        Of several runs that would make the same at once, on one machine, the others wait for the first and take what it
        has made.

        Args:
            stage: What kind of result.
            key: Its key.
            make: Fills a folder and returns the figures.
            description: What to call it while another run is waited for.

        Returns:
            Whether it was made here.
        """
        with self._alone(stage, key, description):
            result, damage = self._look(stage, key)
            if result is not None:
                return False
            if damage is not None:
                self._set_aside(stage, key, damage, description)
            target = self.path(stage, key)
            with partial_folder(self._partial) as partial:
                record = {**make(partial), "stage": stage, "key": key, "files": _content(partial)}
                text = json.dumps({**record, "sha256": _hash(record)}, indent=2, sort_keys=True, ensure_ascii=False)
                (partial / RECORD_FILE).write_text(text + "\n", encoding="utf-8")
                for path in [*partial.rglob("*"), partial]:
                    flush(path)
                target.parent.mkdir(parents=True, exist_ok=True)
                partial.rename(target)
                flush(target.parent)
        return True

    @contextmanager
    def _alone(self, stage: str, key: str, description: str | None) -> Iterator[None]:
        """Keep other runs out of a result, and wait for one that is in it; a failure leaves no new folders."""
        locks = self.folder / ".locks"
        created = [place for place in (locks, *locks.parents) if not place.exists()]

        def waiting(holder: str) -> None:
            self._tell(f"{description or f'{stage} {key}'}: waits for {holder}, which is making it")

        try:
            with locked(locks / f"{stage}-{key}", waiting=waiting):
                yield
        except BaseException:
            with suppress(OSError):  # a folder that holds something by now
                for place in created:
                    place.rmdir()
            raise

    def _set_aside(self, stage: str, key: str, damage: str, description: str | None) -> None:
        folder, number = self.path(stage, key), 1
        while os.path.lexists(place := self.folder / "damaged" / f"{stage}-{key}-{number}"):
            number += 1
        place.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(place)
        what = description or f"{stage} {key}"
        self._tell(f"{what}: {damage} in {folder}; it is set aside in {place} and made again")

    def remove_leftovers(self) -> None:
        """Remove what killed runs left half-done."""
        remove_leftovers(self._partial)


def _read_record(folder: Path) -> dict[str, Any] | None:
    """Return the whole ``stage.json`` of a folder; None where it is missing or no JSON object."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _damage_of_record(record: dict[str, Any] | None, stage: str, key: str) -> str | None:
    """Return what is wrong with the ``stage.json`` of a result; None if it is as it was written."""
    if record is None:
        return f"{RECORD_FILE} is missing or damaged"
    own = {name: value for name, value in record.items() if name != "sha256"}
    if record.get("sha256") != _hash(own) or not isinstance(record.get("files"), dict):
        return f"{RECORD_FILE} was changed after it was written"
    if (record.get("stage"), record.get("key")) != (stage, key):
        return f"{RECORD_FILE} is of another result, {record.get('stage')}/{record.get('key')},"
    return None


def _damage_of_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return what is wrong with the files of a result; None if they are as they were written."""
    for name, content in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != content["bytes"] or file_hash(path) != content["sha256"]:
            return f"{name} was changed after it was written"
    return None


def _content(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file in a folder, by its path below that."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _hash(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what JSON makes of a record, whatever the order of its entries."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
