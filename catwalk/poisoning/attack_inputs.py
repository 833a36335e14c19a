"""All that an attack depends on, by what it holds: the key under which the store of results knows it."""

import contextlib
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
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
from catwalk.files.checkpoints import read_checkpoint
from catwalk.files.hashes import file_hash
from catwalk.files.watched import FileState, file_state, wait_for_other_times
from catwalk.networks.classifier import NetworkSettings
from catwalk.networks.defended import DRAWS
from catwalk.networks.features import FEATURES_FILE, PREDICTIONS_FILE
from catwalk.poisoning.protocol import NO_UNDEFENDED, AttackProtocol
from catwalk.processing.known import build_operations, specifications_of
from catwalk.processing.operation import Operation
from catwalk.results.keys import Inputs, inputs_of, modules_imported_by
from catwalk.shop.catalogue import Catalogue, fingerprint_files

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
    protocol: AttackProtocol,
    purchases: NDArray[np.int64] | None,
    backbone: str | None = None,
    backbone_args: Mapping[str, Any] | None = None,
    fingerprint: str | None = None,
    undefended: Path | None = None,
    operations: Sequence[Operation] = (),
    adaptive: bool = True,
    draws: int = DRAWS,
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
        undefended: Folder of the catalogue's clean features by the undefended network; it counts where
            ``protocol.source_items`` is ``undefended`` alone, which needs it.
        operations: What happens to images before they reach the network of the checkpoint, besides what that does.
        adaptive: See :func:`~catwalk.poisoning.poison`.
        draws: See there.

    Returns:
        The inputs, with the result's key; None where there can be none, for the attack holds something else than
        values, arrays and files, or the code of the network or of the attack cannot be read, as in a notebook.

    Raises:
        CatwalkError: If the checkpoint is missing or unreadable, its backbone is neither known nor named, or the
            undefended network's features are needed and not given.
    """
    network = _network_inputs(Path(classifier), *_states(Path(classifier)))
    if network is None:
        return None  # it is no classifier's, as whoever attacks will find out
    network.settings.check_backbone(classifier, backbone, backbone_args, "InjectPoisonedImages.backbone")
    build_operations(network.settings.input_operations, str(classifier))  # before anything that it names is imported
    own = [*specifications_of(operations), *network.settings.input_operations]
    module = import_object(network.settings.backbone, "backbone").__module__
    as_it_is_now = dataclasses.replace(catalogue)
    settings = {
        "network": {**vars(network.settings), "input_operations": own, "weights": network.weights},
        "attack": _of_attack(attack),
        "catalogue": fingerprint or as_it_is_now.fingerprint,
        "allow_truncated": as_it_is_now.allow_truncated,
        "features": features_fingerprint(features),
        "source": source,
        "target": target,
        "protocol": protocol.of_attack,
        "purchases": purchases,
    }
    if own:
        settings["knowledge"] = {"adaptive": adaptive, "draws": draws}
    weights = [dict(operation.state_dict()) for operation in operations]
    if any(weights):
        settings["weights of operations"] = weights
    if protocol.source_items == "undefended":
        if undefended is None:
            raise CatwalkError(NO_UNDEFENDED)
        settings["undefended"] = features_fingerprint(undefended)
    library = module.partition(".")[0]
    with contextlib.suppress(PackageNotFoundError):  # whose networks change in time
        settings["library"] = f"{library} {version(library)}"
    kinds = [kind for each in _parts_of(attack) for kind in type(each).__mro__]
    kinds += [import_object(each["class_path"], "input_operations") for each in own]
    modules = {module, *(kind.__module__ for kind in kinds), *attack.other_modules}
    modules = {module for module in modules if module.partition(".")[0] not in sys.stdlib_module_names}
    if not modules <= modules_imported_by(modules):  # where they have no source
        return None
    try:
        return inputs_of(_by_content(settings), ["catwalk.poisoning.poison", *modules])
    except _NoContentError:
        return None


def _of_attack(attack: Attack) -> dict[str, Any]:
    """Return the class of an attack and all that it holds but for what changes speed alone."""
    arguments = {name: value for name, value in vars(attack).items() if name not in SPEED}
    return {"class": f"{type(attack).__module__}.{type(attack).__qualname__}", "arguments": arguments}


def _parts_of(attack: Attack) -> Iterator[Any]:
    """Yield an attack, and those of its arguments that compute: other attacks, and whatever is a dataclass."""
    yield attack
    for value in vars(attack).values():
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, Attack):
                yield from _parts_of(each)
            elif dataclasses.is_dataclass(each) and not isinstance(each, type):
                yield each


def _states(*paths: Path) -> list[FileState | None]:
    """Return the states of files, of which a later write will make others."""
    states = [file_state(path) for path in paths]
    wait_for_other_times(state for state in states if state is not None)
    return states


def features_fingerprint(folder: Path) -> str:
    """Return the fingerprint of the features and predictions in a folder."""
    return _features_fingerprint(folder, *_states(folder / FEATURES_FILE, folder / PREDICTIONS_FILE))


@lru_cache(maxsize=64)
def _features_fingerprint(folder: Path, *_: FileState | None) -> str:
    """Return the fingerprint of the features in a folder, read once as long as the files are in the same states."""
    return fingerprint_files(folder, [FEATURES_FILE, PREDICTIONS_FILE])


class _NetworkInputs(NamedTuple):
    """What an attack depends on of a checkpoint: what it says of its network, and a hash of the weights."""

    settings: NetworkSettings
    weights: str


@lru_cache(maxsize=64)
def _network_inputs(path: Path, _: FileState | None) -> _NetworkInputs | None:
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
    if isinstance(value, Path) and value.is_dir():
        yield from _files_in(value)
    elif isinstance(value, str | Path):
        if file_hash(value) is not None:
            yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _named_files([getattr(value, field.name) for field in dataclasses.fields(value)])
    elif isinstance(value, Attack):
        yield from _named_files(vars(value))
    elif isinstance(value, Mapping):
        yield from _named_files(list(value.values()))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _named_files(entry)


def _files_in(folder: Path) -> list[Path]:
    """Return the files of a folder, whose contents count where an argument names it as a path."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


class _NoContentError(Exception):
    """Something whose content cannot be told."""


def _by_content(value: Any) -> Any:
    """Return what json can write of a value, the same if and only if the content is the same.

    Raises:
        _NoContentError: If it is none of plain values, arrays, files and containers of them.
    """
    if isinstance(value, Path):
        if value.is_dir():
            return {"folder": {str(file.relative_to(value)): file_hash(file) for file in _files_in(value)}}
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
    if isinstance(value, Attack):
        return _by_content(_of_attack(value))
    if isinstance(value, torch.nn.Module) and dataclasses.is_dataclass(getattr(value, "settings", None)):
        # A recommender's model: all that it computes by is in its settings, plain attributes and weights.
        content = {name: entry for name, entry in vars(value).items() if not name.startswith("_")}
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return {"class": kind, "fields": _by_content(content), "weights": _by_content(value.state_dict())}
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _by_content(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_by_content(entry) for entry in value]
    raise _NoContentError
