"""Overview of a store of results: what it holds, which studies use it, whether it is sound, and what no study uses."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from catwalk.errors import CatwalkError
from catwalk.files.locks import LockedError, locked
from catwalk.results.record import read_record
from catwalk.results.store import DAMAGED, LOCKS, VERIFIED, StageCache

CACHE = "cache"
"""Folder of the store, in the one to which studies write."""

MANIFEST = "manifest.json"


class Stored(NamedTuple):
    """A result in a store, or what was set aside there.

    Attributes:
        kind: What kind of result; ``damaged`` of what was set aside.
        key: Its key, which is the name of its folder.
        title: What it is; empty where it does not say so.
        bytes: Size of all files in its folder.
        written: When its folder was, in seconds since 1970.
        studies: Names of the studies that use it, by their manifests.
    """

    kind: str
    key: str
    title: str
    bytes: int
    written: float
    studies: tuple[str, ...]

    @property
    def place(self) -> str:
        """Its folder in the store."""
        return f"{self.kind}/{self.key}"


def stored_results(folder: Path) -> list[Stored]:
    """Return what the store of a folder holds, by kind and date.

    Args:
        folder: To which studies write, ``runs`` by default; the store is ``cache`` in it.

    Raises:
        CatwalkError: If there is no store, or the manifest of a study is damaged.
    """
    store = _store(folder)
    studies = _places_of_studies(folder)
    found = []
    for kind in sorted(path for path in store.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for path in kind.iterdir():
            place = f"{kind.name}/{path.name}"
            used_by = tuple(name for name, places in studies.items() if place in places)
            title = str((read_record(path) or {}).get("title") or "")
            with contextlib.suppress(FileNotFoundError):  # another run has just set it aside
                found.append(Stored(kind.name, path.name, title, _size(path), path.stat().st_mtime, used_by))
    return sorted(found, key=lambda result: (result.kind == DAMAGED, result.kind, result.written))


def damaged_results(folder: Path) -> Iterator[tuple[Stored, str | None]]:
    """Yield every result of a store with what is wrong with it, or None; all hashes are compared, nothing is moved."""
    store = StageCache(_store(folder), verify=True)
    for result in stored_results(folder):
        if result.kind != DAMAGED:
            yield result, store.damage(result.kind, result.key)


def remove_unused(folder: Path, dry_run: bool = False) -> list[Stored]:
    """Remove what no study of a folder uses, what was set aside, and what killed runs have left half-done.

    Args:
        folder: To which studies write.
        dry_run: Whether to remove nothing.

    Returns:
        What was removed, or would be.

    Raises:
        CatwalkError: If there is no store, the manifest of a study is damaged, or a run is making a result.
    """
    store = _store(folder)
    for lock in (store / LOCKS).glob("*"):
        try:
            with locked(lock, wait=False):
                pass
        except LockedError as error:
            raise CatwalkError(
                f"{store}: {error} is making {lock.name.replace('-', '/', 1)}, and its study says only at its end what "
                "it uses: run this again when it is done"
            ) from error
    unused = [result for result in stored_results(folder) if not result.studies]
    if not dry_run:
        for result in unused:
            path = store / result.kind / result.key
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            (store / VERIFIED / f"{result.kind}-{result.key}.json").unlink(missing_ok=True)
        StageCache(store).remove_leftovers()
    return unused


def _store(folder: Path) -> Path:
    store = folder / CACHE
    if not store.is_dir():
        raise CatwalkError(
            f"folder: there are no results in {store}; give the folder to which `catwalk study` writes (--output), "
            "runs by default"
        )
    return store


def _places_of_studies(folder: Path) -> dict[str, set[str]]:
    """Return where the results are that each study of a folder uses, by the study's name."""
    places = {}
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        try:
            places[path.parent.name] = {str(place) for place in json.loads(path.read_text("utf-8"))["stages"].values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CatwalkError(
                f"{path} is damaged, so that nobody can say which results the study uses: run the study again, or "
                "remove its folder"
            ) from error
    return places


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
