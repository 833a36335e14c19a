"""Folders into which an attack's result is put, what says that they hold it, and whether it is whole."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from catwalk.errors import CatwalkError
from catwalk.files.atomic import flush
from catwalk.files.hashes import file_hash
from catwalk.files.locks import locked
from catwalk.files.partial_folders import partial_folder, remove_leftovers
from catwalk.networks.features import FEATURES_FILE, PREDICTIONS_FILE
from catwalk.poisoning.attack_files import (
    ITEMS_FILE,
    SUMMARY_FILE,
    AttackSummary,
    columns_of,
    lists_attacked_items,
    png_name,
    remove_earlier_images,
)
from catwalk.results.keys import Inputs
from catwalk.results.record import RECORD_FILE, Origin, damage_of_files, damage_of_record, read_record
from catwalk.shop.catalogue import Catalogue

ATTACK = "attack"
"""What kind of result an attack is, in the store."""

FINISHED_FILE = "finished.json"
"""What said before version 0.2 that a folder holds a finished attack."""

LOCK = ".lock"
"""Held by who puts an attack's files in their place."""

PARTIAL = ".partial"
"""Folder, in the one into which an attack is put, where it is made or copied to first."""

TABLES = (SUMMARY_FILE, ITEMS_FILE, PREDICTIONS_FILE, FEATURES_FILE)
"""Files of every attack besides its images."""


def has_key(folder: Path, key: str | None) -> bool:
    """Return whether a folder says that it holds the finished result of the attack with a key, or there is no key."""
    return key is None or damage_of_record(read_record(folder), ATTACK, key) is None


def damage_of(folder: Path, key: str | None) -> str | None:
    """Return why a folder that holds something cannot be taken for the attack with a key; None if it can be.

    Args:
        folder: A folder into which an attack was put.
        key: The attack's key; None of one that has none, for which no folder can be taken.
    """
    record = read_record(folder)
    if key is None:
        return "the attack cannot be told from others"
    if record is None and (folder / FINISHED_FILE).is_file():
        return "it was written by an earlier version of Catwalk"
    damage = damage_of_record(record, ATTACK, key)
    if record is None or damage is not None:
        return damage
    missing = sorted({*TABLES} - record["files"].keys())
    return f"{missing[0]} is missing" if missing else damage_of_files(folder, record["files"])


def is_finished(folder: Path, key: str | None) -> bool:
    """Return whether a folder holds the result of the attack with a key, whole and as it was written."""
    return damage_of(folder, key) is None


def is_taken(folder: Path | None, inputs: Inputs | None, what: str, tell: Callable[[str], None]) -> bool:
    """Return whether the folder that a user gave holds an attack's result, and tell in a line if that is damaged.

    Args:
        folder: The folder, if one was given.
        inputs: What the attack depends on, if that can be told.
        what: What to call the attack.
        tell: Called with the line.
    """
    if folder is None or inputs is None:
        return False
    damage = damage_of(folder, inputs.key)
    of_another = damage_of_record(read_record(folder), ATTACK, inputs.key) is not None and _is_recorded(folder)
    if damage is not None and not of_another and is_of_an_attack(folder):
        tell(f"{what}: {damage} in {folder}; what an attack left there is replaced")
    return damage is None


def origin_of(inputs: Inputs, title: str, folder: Path | None) -> Origin:
    """Return what an attack's result is; it takes the place of that in a folder, or else of the latest of its title."""
    before = None if folder is None or not _is_recorded(folder) else read_record(folder)
    return Origin(title, inputs, before)


def _is_recorded(folder: Path) -> bool:
    """Return whether a folder holds what was put there from the store, of whatever attack."""
    record = read_record(folder)
    return record is not None and damage_of_record(record, ATTACK, str(record.get("key"))) is None


def damage_since(folder: Path) -> str | None:
    """Return what is wrong with a folder's files, by what it says of them itself; None if it says nothing of any."""
    record = read_record(folder)
    if record is not None:
        key = str(record.get("key"))
        return damage_of_record(record, ATTACK, key) or damage_of_files(folder, record["files"])
    for name, digest in _read_finished(folder).get("files", {}).items():
        if digest is None or file_hash(folder / name) != digest:
            return f"{name} is missing or was changed after it was written"
    return None


def check_folder(folder: Path, catalogue: Catalogue, argument: str = "InjectPoisonedImages.output") -> None:
    """Refuse a folder in which an attack would replace what is no attack's.

    An attack's is a folder with ``stage.json``, ``attack.json`` or ``attacked_items.csv`` as attacks write them: one
    that was killed while it was put in place, or damaged, has one of them at least.

    Args:
        folder: Where an attack is to be put, whether it exists yet or not.
        catalogue: The clean catalogue.
        argument: What the user calls it.

    Raises:
        CatwalkError: If it is no folder, is the dataset's or lies in it or around it, or is no attack's and holds a
            file of a name that the attack may write.
    """
    if folder.exists() and not folder.is_dir():
        raise CatwalkError(f"{argument} is {folder}, which is no folder: give the attack one")
    place, dataset = folder.resolve(), catalogue.folder.resolve()
    if place.is_relative_to(dataset) or dataset.is_relative_to(place):
        raise CatwalkError(
            f"{argument} is {folder}, and the dataset is in {catalogue.folder}: give the attack a "
            "folder of its own, neither in the dataset's nor around it"
        )
    if is_of_an_attack(folder):
        return
    for name in (RECORD_FILE, FINISHED_FILE, *TABLES, *map(png_name, catalogue.images)):
        if (folder / name).exists():
            raise CatwalkError(
                f"{argument} is {folder}, where an attack might replace {name}, which is no attack's: "
                "give the attack a folder of its own"
            )


def is_of_an_attack(folder: Path) -> bool:
    """Return whether a folder holds an attack or what is left of one, see :func:`check_folder`."""
    try:
        summary = json.loads((folder / SUMMARY_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        summary = None
    required, others = (set(names) for names in columns_of(AttackSummary))
    is_summary = isinstance(summary, dict) and required <= summary.keys() <= required | others
    is_recorded = (read_record(folder) or {}).get("stage") == ATTACK or "key" in _read_finished(folder)
    return is_summary or is_recorded or lists_attacked_items(folder)


def put_in_place(partial: Path, folder: Path, key: str | None) -> None:
    """Move an attack's result from a folder of the same disk into its own, in the place of an earlier one.

    What says that the folder holds a finished result goes first, and comes last. Runs of one machine that would put
    something there at once wait for each other.

    Args:
        partial: Folder with the files and nothing else; where there is a key, with their ``stage.json``.
        folder: Their folder; other files in it stay, but for the images of an earlier attack.
        key: The attack's key; without one nobody will take the result for a finished one.
    """
    paths = sorted(path for path in partial.rglob("*") if path.is_file() and path != partial / RECORD_FILE)
    files = {path.relative_to(partial).as_posix(): file_hash(path) for path in paths}
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK):
        if is_finished(folder, key):  # another run was faster, with the same result
            return
        for name in (RECORD_FILE, FINISHED_FILE):
            (folder / name).unlink(missing_ok=True)
        changed = [name for name, digest in files.items() if file_hash(folder / name) != digest]
        if FEATURES_FILE in changed:  # whose presence says that they belong to the rest
            (folder / FEATURES_FILE).unlink(missing_ok=True)
        remove_earlier_images(folder, but=files)
        # First comes what says that the folder is an attack's, whenever the run is killed.
        for name in sorted(changed, key=lambda name: (name == FEATURES_FILE, name != SUMMARY_FILE, name != ITEMS_FILE)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).replace(folder / name)
        if key is not None:
            for name in changed:  # before it says that they are there
                flush(folder / name)
            (partial / RECORD_FILE).replace(folder / RECORD_FILE)
            flush(folder)


def copy_attack(stored: Path, folder: Path, key: str) -> None:
    """Put a copy of an attack's result in the store into a folder; what an edit changes there leaves the store whole.

    Args:
        stored: The result, as it was found sound.
        folder: See :func:`put_in_place`.
        key: The attack's key.
    """
    record = read_record(stored)
    with aside(folder) as partial:
        for name in [RECORD_FILE, *(record["files"] if record is not None else ())]:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(stored / name, partial / name)
        put_in_place(partial, folder, key)


@contextlib.contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """Give a new folder within that of an attack, where its files are made or copied to first and nothing stays."""
    remove_leftovers(folder / PARTIAL)
    try:
        with partial_folder(folder / PARTIAL) as partial:
            yield partial
    finally:
        with contextlib.suppress(OSError):  # another run is at it
            (folder / PARTIAL).rmdir()


def _read_finished(folder: Path) -> dict[str, Any]:
    """Return what an attack of an earlier version says of a folder; nothing where that is not what it wrote."""
    try:
        record = json.loads((folder / FINISHED_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("files"), dict) else {}
