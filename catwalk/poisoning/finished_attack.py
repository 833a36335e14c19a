"""What an attack depends on, by which the store of results knows it, and folders into which its result is put."""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from catwalk.attacks.attack import Attack
from catwalk.configuration.import_object import import_object
from catwalk.errors import CatwalkError
from catwalk.files.atomic import flush
from catwalk.files.checkpoints import read_checkpoint
from catwalk.files.hashes import file_hash
from catwalk.files.locks import locked
from catwalk.files.partial_folders import partial_folder, remove_leftovers
from catwalk.files.watched import FileState, file_state
from catwalk.networks.classifier import NetworkSettings
from catwalk.networks.features import FEATURES_FILE, PREDICTIONS_FILE
from catwalk.poisoning.poison import (
    ITEMS_FILE,
    SUMMARY_FILE,
    AttackSummary,
    lists_attacked_items,
    png_name,
    remove_earlier_images,
)
from catwalk.poisoning.protocol import Protocol
from catwalk.results.keys import Inputs, inputs_of, modules_imported_by
from catwalk.results.record import RECORD_FILE, damage_of_files, damage_of_record, read_record
from catwalk.shop.catalogue import Catalogue, fingerprint_files
from catwalk.shop.images import truncated_images_allowed

ATTACK = "attack"
"""What kind of result an attack is, in the store."""

FINISHED_FILE = "finished.json"
"""What said before version 0.2 that a folder holds a finished attack."""

LOCK = ".lock"
"""Held by who puts an attack's files in their place."""

PARTIAL = ".partial"
"""Folder, in the one into which an attack is put, where it is made or copied to first."""

TABLES = (SUMMARY_FILE, ITEMS_FILE, PREDICTIONS_FILE, FEATURES_FILE)
"""What every attack writes besides its images."""

SPEED = ("batch_size",)
"""Arguments of every attack that change no result; a compiled network rounds otherwise."""


def attack_inputs(
    classifier: Path,
    attack: Attack,
    catalogue: Catalogue,
    features: Path,
    *,
    source: str,
    target: str | None,
    protocol: Protocol,
    purchases: NDArray[np.int64] | None,
    backbone: str | None = None,
    backbone_args: Mapping[str, Any] | None = None,
    fingerprint: str | None = None,
) -> Inputs | None:
    """Return all that an attack's result depends on, the same whoever runs it: a study, ``fit`` or ``catwalk attack``.

    It does not depend on where files are, but on what they hold.

    Args:
        classifier: Checkpoint of the network under attack.
        attack: The attack; all that it holds enters but for what changes speed alone.
        catalogue: The clean catalogue.
        features: Folder of its features.
        source: As :func:`~catwalk.poisoning.poison` takes it, as are the others.
        target: See there.
        protocol: See there.
        purchases: See there.
        backbone: Import path of the network's backbone, as
            :func:`~catwalk.networks.classifier.load_classifier` takes it.
        backbone_args: Its arguments, see there.
        fingerprint: The catalogue's, where its files have been watched since that was taken; otherwise it is taken of
            the images as they are now.

    Returns:
        The inputs, with the result's key; None where there can be none, for the attack holds something else than
        values, arrays and files, or the code of the network or of the attack cannot be read, as in a notebook.

    Raises:
        CatwalkError: If the checkpoint is missing or unreadable, or its backbone is neither known nor named.
    """
    network = _network_inputs(Path(classifier), file_state(Path(classifier)))
    if network is None:
        return None  # it is no classifier's, as whoever attacks will find out
    network.settings.check_backbone(classifier, backbone, backbone_args, "InjectPoisonedImages.backbone")
    module = import_object(network.settings.backbone, "backbone").__module__
    arguments = {name: value for name, value in vars(attack).items() if name not in SPEED}
    settings = {
        "network": {**vars(network.settings), "weights": network.weights},
        "attack": {"class": f"{type(attack).__module__}.{type(attack).__qualname__}", "arguments": arguments},
        "catalogue": fingerprint or dataclasses.replace(catalogue).fingerprint,
        "allow_truncated": truncated_images_allowed(catalogue.folder),
        "features": fingerprint_files(features, [FEATURES_FILE, PREDICTIONS_FILE]),
        "source": source,
        "target": target,
        "protocol": {**vars(protocol), "name": None, "chr_categories": None},
        "purchases": purchases,
    }
    library = module.partition(".")[0]
    with contextlib.suppress(PackageNotFoundError):  # whose networks change in time
        settings["library"] = f"{library} {version(library)}"
    modules = {module, *(kind.__module__ for kind in type(attack).__mro__)}
    modules = {module for module in modules if module.partition(".")[0] not in sys.stdlib_module_names}
    if not modules <= modules_imported_by(modules):  # where they have no source
        return None
    try:
        return inputs_of(_by_content(settings), ["catwalk.poisoning.poison", *modules])
    except _NoContentError:
        return None


class _NetworkInputs(NamedTuple):
    """What an attack depends on of a checkpoint: what it says of its network, and a hash of the weights."""

    settings: NetworkSettings
    weights: str


@lru_cache(maxsize=64)
def _network_inputs(path: Path, state: FileState | None) -> _NetworkInputs | None:
    """Return what an attack depends on of a checkpoint, which is read once as long as it is in the same state."""
    checkpoint = read_checkpoint(path)
    settings = NetworkSettings.of(checkpoint, path)
    if settings is None:
        return None
    try:
        weights = json.dumps(_by_content(checkpoint["state_dict"]), sort_keys=True)
    except _NoContentError:
        return None
    return _NetworkInputs(settings, hashlib.sha256(weights.encode()).hexdigest())


def files_of(attack: Attack) -> list[Path]:
    """Return the files that an attack's arguments name, whose contents enter its key."""
    return [Path(file) for file in _named_files(vars(attack))]


def _named_files(value: Any) -> Iterator[str | Path]:
    if isinstance(value, str | Path):
        if file_hash(value) is not None:
            yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _named_files([getattr(value, field.name) for field in dataclasses.fields(value)])
    elif isinstance(value, Mapping):
        yield from _named_files(list(value.values()))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _named_files(entry)


class _NoContentError(Exception):
    """Something whose content cannot be told."""


def _by_content(value: Any) -> Any:
    """Return what json can write of a value, the same if and only if the content is the same.

    Raises:
        _NoContentError: If it is none of plain values, arrays, files and containers of them.
    """
    if isinstance(value, Path):
        if value.is_dir():
            raise _NoContentError
        return {"file": file_hash(value) or str(value)}
    if isinstance(value, str):
        file = file_hash(value)  # which an argument may name as well
        return value if file is None else {"text": value, "file": file}
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 8 and 8.0 attack alike, and a configuration states either
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, torch.Tensor):
        array = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return {"dtype": str(value.dtype), "shape": list(value.shape), "values": hashlib.sha256(array).hexdigest()}
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        values = hashlib.sha256(value.tobytes()).hexdigest()
        return {"dtype": value.dtype.str, "shape": list(value.shape), "values": values}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        content = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"class": f"{type(value).__module__}.{type(value).__qualname__}", "fields": _by_content(content)}
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _by_content(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_by_content(entry) for entry in value]
    raise _NoContentError


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
    is_summary = isinstance(summary, dict) and summary.keys() == {
        field.name for field in dataclasses.fields(AttackSummary)
    }
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
