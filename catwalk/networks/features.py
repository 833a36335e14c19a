"""The features of every item and the category that the network sees in it, as tensors and as files."""

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.files.atomic import flush, open_bytes, open_text, written_aside
from catwalk.files.csv_text import from_cell, to_cell
from catwalk.files.hashes import file_hash, is_as_sealed, seal
from catwalk.files.watched import FileState, file_state, wait_for_other_times
from catwalk.networks.batching import ROW_MULTIPLE
from catwalk.networks.prediction import Predictions
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.columns import read_table

FEATURES_FILE = "features.safetensors"
PREDICTIONS_FILE = "predictions.csv"
DIGESTS = "sha256"
"""The entry of the stamp with SHA-256 of stamp, features and predictions."""

STAMP = "catwalk"
"""The entry of the file's metadata that says what the features were made of."""

FeatureStorage = Literal["device", "host", "disk"]
"""Where features lie while a recommender is trained: on the training device, in the machine's memory, or in a file."""

FeatureDtype = Literal["float32", "float16", "bfloat16"]
"""In which type features lie there; what is computed with them is computed in float32."""

STORED_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""Types in which a file may hold features."""

BLOCK_BYTES = 64 * 2**20
"""Bound on the float32 features that are worked on at once where the whole matrix is gone through."""


@dataclass(frozen=True)
class FeatureTable:
    """Features of a whole catalogue, made by one network, with the category of every item *before any attack*.

    Attributes:
        features: ``(N, D)``, float32 unless it was read as another type.
        categories: Category that the network sees in the clean image, int64 ``(N,)`` in ``0..C-1``.
        probabilities: Its probability, float32 ``(N,)`` in [0, 1].
        category_names: The network's C categories.
        scale: Largest absolute value of the *clean* features. Recommenders divide by it, poisoned or not, so that an
            attack cannot rescale the items that it does not touch.
        catalogue: Fingerprint of the catalogue.
        network: Fingerprint of the network.
    """

    features: Tensor
    categories: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    category_names: tuple[str, ...]
    scale: float
    catalogue: str
    network: str

    @classmethod
    def from_predictions(
        cls, predictions: Predictions, category_names: tuple[str, ...], catalogue: str, network: str
    ) -> "FeatureTable":
        """Make the table of a clean catalogue.

        Raises:
            CatwalkError: If the features are no matrix of finite numbers, or all are 0.

        Example:
            >>> import torch
            >>> from catwalk.networks.building import build_network
            >>> from catwalk.networks.features import FeatureTable
            >>> from catwalk.networks.network import network_fingerprint
            >>> from catwalk.networks.prediction import predict
            >>> from catwalk.shop.catalogue import Catalogue
            >>> catalogue = Catalogue.read("data/synthetic")
            >>> network = build_network("catwalk.networks.compact_cnn", {"width": 8}, num_classes=6)
            >>> levels = torch.randint(256, (len(catalogue), 3, 32, 32), dtype=torch.uint8)  # of its images
            >>> stamps = catalogue.fingerprint, network_fingerprint(network)
            >>> table = FeatureTable.from_predictions(predict(network, levels), catalogue.category_names, *stamps)
            >>> table.features.shape
            torch.Size([240, 64])
        """
        try:
            scale = _checked_scale(_largest(predictions.features))
        except ValueError as error:
            raise CatwalkError(
                f"the network's features are unusable: {error}; its training has diverged, or its last layers are "
                "dead: train it again with a lower learning rate, or take another"
            ) from error
        return cls(
            features=predictions.features,
            categories=predictions.categories.numpy(),
            probabilities=predictions.probabilities.numpy(),
            category_names=category_names,
            scale=scale,
            catalogue=catalogue,
            network=network,
        )

    def poisoned(self, items: NDArray[np.int64], features: Tensor) -> "FeatureTable":
        """Return a copy in which the features of ``items`` are ``features``, and nothing else differs.

        Args:
            items: ``(n,)`` in ``0..N-1``.
            features: ``(n, D)``, of the table's own type.

        Raises:
            CatwalkError: If a feature is NaN or infinite.
        """
        try:
            _largest(features)
        except ValueError as error:
            raise CatwalkError(f"the network's features of the changed images are unusable: {error}") from error
        changed = self.features.clone()
        changed[torch.from_numpy(items)] = features
        return replace(self, features=changed)

    def write(self, folder: Path, catalogue: Catalogue) -> None:
        """Write ``features.safetensors`` and ``predictions.csv`` into a folder, both or neither."""
        stamp = {
            "category_names": self.category_names,
            "scale": self.scale,
            "catalogue": self.catalogue,
            "network": self.network,
        }
        digests = {
            "stamp": _text_digest(stamp),
            "features": _digest(self.features),
            PREDICTIONS_FILE: self._predictions_digest(catalogue),
        }
        # As one entry: safetensors writes several in an order that changes from file to file.
        metadata = {STAMP: json.dumps({**stamp, DIGESTS: digests}, ensure_ascii=False)}
        path = folder / FEATURES_FILE
        with written_aside(path) as features:
            safetensors.torch.save_file({"features": self.features.contiguous()}, features, metadata)
            flush(features)
            with open_text(folder / PREDICTIONS_FILE) as file:
                self._write_predictions(file, catalogue)
                file.flush()
                os.fsync(file.fileno())
                # There is room for both. Last comes the file whose presence says that the folder is complete, and
                # earlier features are no part of it.
                Path(os.path.realpath(path)).unlink(missing_ok=True)

    def _write_predictions(self, file: Any, catalogue: Catalogue) -> None:
        """Write ``predictions.csv`` to what has a method ``write`` for text."""
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["item_id", "category", "probability"])
        rows = zip(catalogue.item_ids, self.categories, self.probabilities, strict=True)
        # Nine digits bring a float32 back exactly.
        writer.writerows(
            [to_cell(item), to_cell(self.category_names[label]), f"{share:.9g}"] for item, label, share in rows
        )

    def _predictions_digest(self, catalogue: Catalogue) -> str:
        """Return the SHA-256 of what :meth:`_write_predictions` writes."""
        hashing = _HashedText()
        self._write_predictions(hashing, catalogue)
        return hashing.digest.hexdigest()

    @classmethod
    def read(
        cls, folder: str | Path, catalogue: Catalogue, dtype: FeatureDtype = "float32", in_memory: bool = False
    ) -> "FeatureTable":
        """Read the features that were made of a catalogue.

        Args:
            folder: Folder that ``catwalk predict`` or an attack wrote.
            catalogue: The catalogue.
            dtype: Type of the features.
            in_memory: Bring the features into memory. Otherwise they are a memory-mapped file, which the processes of a
                machine share: of another type than float32, one that is written beside the first when it is missing or
                older (``features.float16.safetensors``).

        Raises:
            CatwalkError: If there are none, they are damaged or no matrix of finite numbers, they were made of another
                catalogue, a feature is beyond what the type holds, or the file of another type cannot be written.
        """
        path = Path(folder) / FEATURES_FILE
        if not path.is_file():
            raise CatwalkError(
                f"there are no features in {folder}: {FEATURES_FILE} is missing; `catwalk predict` with a trained "
                "classifier writes it"
            )
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                stamp = json.loads((file.metadata() or {})[STAMP])
                features = file.get_tensor("features")  # memory-mapped
            names = tuple(stamp["category_names"])
            scale, made_of, made_by = _checked_scale(float(stamp["scale"])), stamp["catalogue"], stamp["network"]
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CatwalkError(f"{path} cannot be read: {error}") from error
        if features.ndim == 0:
            raise CatwalkError(f"{path} holds a single number as features; extract them with `catwalk predict`")
        if made_of != catalogue.fingerprint:
            raise CatwalkError(
                f"{path} was made of another catalogue than {catalogue.folder} (or its images have changed since): "
                "extract the features again with `catwalk predict`"
            )
        if len(features) != len(catalogue):
            raise CatwalkError(f"{path} holds {len(features)} rows of features for the {len(catalogue)} items")
        try:
            _largest(features)
        except ValueError as error:
            raise CatwalkError(
                f"{path} holds unusable features: {error}; extract them again with `catwalk predict`"
            ) from error
        predictions_path = Path(folder) / PREDICTIONS_FILE
        predictions = read_table(predictions_path, ["item_id", "category", "probability"])
        if tuple(map(from_cell, predictions.column("item_id").to_pylist())) != catalogue.item_ids:
            raise CatwalkError(f"{predictions_path} does not list the items of {catalogue.folder}")
        numbers = {name: number for number, name in enumerate(names)}
        try:
            categories = np.array([numbers[from_cell(name)] for name in predictions.column("category").to_pylist()])
            probabilities = np.array(predictions.column("probability").to_pylist(), dtype=np.float32)
            if not ((probabilities >= 0) & (probabilities <= 1)).all():
                raise ValueError("a probability is not in [0, 1]")
        except (KeyError, ValueError) as error:
            raise CatwalkError(f"{predictions_path} is damaged, extract the features again: {error}") from error
        _verify(path, predictions_path, stamp, features)
        if in_memory:
            stored, features = features, torch.empty(features.shape, dtype=getattr(torch, dtype))
            for block, values in zip(_blocks(features), _converted(stored, dtype, path), strict=True):
                block.copy_(values)
        elif dtype != "float32":
            features = _mapped_copy(features, dtype, path)
        return cls(
            features=features,
            categories=categories,
            probabilities=probabilities,
            category_names=names,
            scale=scale,
            catalogue=made_of,
            network=made_by,
        )


_verified: set[tuple[Path, FileState | None, FileState | None]] = set()
"""Files that this process has compared with their digests, and their states then."""


def _verify(path: Path, predictions_path: Path, stamp: dict[str, Any], features: Tensor) -> None:
    """Compare features and predictions with the digests that were written with them; older files have none.

    Raises:
        CatwalkError: If they were changed.
    """
    digests = stamp.pop(DIGESTS, None)
    files = (path.resolve(), file_state(path), file_state(predictions_path))
    if digests is None or files in _verified:
        return
    wait_for_other_times(state for state in files[1:] if state is not None)
    found = {
        "stamp": (path, _text_digest(stamp)),
        "features": (path, _digest(features)),
        PREDICTIONS_FILE: (predictions_path, file_hash(predictions_path)),
    }
    for name, (file, digest) in found.items():
        if not isinstance(digests, dict) or digests.get(name) != digest:
            raise CatwalkError(f"{file} is damaged, extract the features again: it was changed after it was written")
    _verified.add(files)


def _digest(features: Tensor) -> str:
    """Return the SHA-256 of the bytes of features ``(N, D)``."""
    digest = hashlib.sha256()
    for block in _blocks(features):
        digest.update(block.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _HashedText:
    """A text file of which nothing but the SHA-256 of its UTF-8 is kept."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, text: str) -> None:
        self.digest.update(text.encode())


def _text_digest(stamp: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(stamp, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def _largest(features: Tensor) -> float:
    """Return the largest absolute value of features, of any floating type.

    Raises:
        ValueError: If they are no matrix of such numbers, one is NaN or infinite or beyond float32, or there are none.
    """
    if features.dtype not in STORED_DTYPES:
        raise ValueError(f"they are {str(features.dtype).removeprefix('torch.')} and not floating-point numbers")
    if features.ndim != 2 or not features.numel():
        raise ValueError(f"they must be a matrix of a row per item and at least one column, and are {_shape(features)}")
    largest, start, limit = 0.0, 0, torch.finfo(torch.float32).max
    for block in _blocks(features):
        low, high = (float(end) for end in block.aminmax())
        if not (-limit <= low and high <= limit):  # NaN is both the lowest and the highest
            row, column = (~(block.abs() <= limit)).nonzero()[0].tolist()
            value = float(block[row, column])
            raise ValueError(f"feature {column} of item number {start + row} is {value}, and must be a finite float32")
        largest, start = max(largest, -low, high), start + len(block)
    return largest


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) + (" numbers" if tensor.ndim == 1 else "")


def _checked_scale(scale: float) -> float:
    """Return the largest absolute value of features, or raise a ``ValueError`` if they cannot be divided by it."""
    least = torch.finfo(torch.float32).tiny
    if not (np.isfinite(scale) and scale >= least):
        raise ValueError(
            f"the largest absolute value of the features, which recommenders divide by, must be a finite number above "
            f"{least:.2g}, and is {scale}"
        )
    return scale


def _blocks(features: Tensor) -> Iterator[Tensor]:
    """Cut features ``(N, D)`` into blocks of rows that take at most ``BLOCK_BYTES`` as float32."""
    rows = BLOCK_BYTES // (4 * max(features.shape[1], 1) * ROW_MULTIPLE) * ROW_MULTIPLE
    return iter(features.split(max(rows, ROW_MULTIPLE)))


def _converted(features: Tensor, dtype: FeatureDtype, path: Path) -> Iterator[Tensor]:
    """Yield float32 features in a type, block by block."""
    limit = torch.finfo(getattr(torch, dtype)).max
    for block in _blocks(features):
        if dtype != "float32" and (largest := float(block.abs().max())) > limit:
            raise CatwalkError(
                f"feature_dtype is {dtype}, which holds numbers up to {limit:g}, and {path} has a feature of "
                f"{largest:g}: use float32"
            )
        yield block.to(getattr(torch, dtype))


def _mapped_copy(features: Tensor, dtype: FeatureDtype, path: Path) -> Tensor:
    """Return features in another type as a memory-mapped file, written beside their own unless it is there."""
    copy = path.with_suffix(f".{dtype}.safetensors")
    status = path.stat()
    source = f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"
    if not _is_copy_of(copy, source):
        size = features.numel() * 2
        entry = {"dtype": {"float16": "F16", "bfloat16": "BF16"}[dtype], "shape": list(features.shape)}
        header = json.dumps({"__metadata__": {STAMP: source}, "features": entry | {"data_offsets": [0, size]}})
        # safetensors itself writes only what is in memory as a whole.
        header += " " * (-len(header) % 8)
        try:
            with open_bytes(copy) as file:
                file.write(len(header).to_bytes(8, "little") + header.encode())
                for block in _converted(features, dtype, path):
                    file.write(block.view(torch.int16).numpy().data)
            seal(copy)
        except OSError as error:
            raise CatwalkError(
                f"feature_storage is disk, which keeps features of {dtype} in {copy}, and that cannot be written "
                f"({error}): make the folder writable, or use float32"
            ) from error
    with safetensors.safe_open(copy, framework="pt") as file:
        return file.get_tensor("features")


def _is_copy_of(copy: Path, source: str) -> bool:
    """Tell whether a file holds a copy of the features that have this stamp, as it was written."""
    if not is_as_sealed(copy):
        return False
    try:
        with safetensors.safe_open(copy, framework="pt") as file:
            return (file.metadata() or {}).get(STAMP) == source
    except (OSError, safetensors.SafetensorError):
        return False
