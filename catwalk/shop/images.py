"""Product images as 8-bit arrays: decoding, a cache on disk, saving without loss."""

import hashlib
import io
import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from catwalk.errors import CatwalkError
from catwalk.files.atomic import open_bytes, write_bytes
from catwalk.files.hashes import is_as_sealed, seal
from catwalk.files.locks import locked
from catwalk.files.watched import WatchedFiles, watch_named
from catwalk.shop.catalogue import fingerprint_files, truncated_images_allowed
from catwalk.shop.decoding import (
    DECODING,
    UInt8Array,
    _decode,
)

if TYPE_CHECKING:  # importers decode images, and need no PyTorch
    from torch import Tensor

T = TypeVar("T")
ReportProgress = Callable[[int, int], None]
"""Called with how many are done and how many there are."""


SIZE_TYPE = np.dtype("<i4")
"""Type of heights and widths in the files of the cache."""

NAMED = 20
"""Damaged images that one message names at most, beside the first."""

AHEAD = 4
"""Images per thread that may be decoded before they are written."""


def save_png(levels: "UInt8Array | Tensor", path: Path) -> None:
    """Write uint8 ``(3, H, W)`` as a PNG file of sRGB, which keeps every level; folders are made as needed."""
    array = levels if isinstance(levels, np.ndarray) else levels.cpu().numpy()
    png = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0))).save(png, format="PNG")
    write_bytes(path, png, durable=False)


def to_float(levels: "Tensor") -> "Tensor":
    """Turn uint8 levels in 0..255 into float32 in [0, 1], the one form in which networks take images."""
    return levels.float().div_(255)


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Images in a fixed order, each of its own size, mapped from one file.

    Attributes:
        pixels: Read-only uint8 ``(total,)``: the images' ``(3, H, W)`` one after the other.
        sizes: ``(height, width)`` of every image, int64 ``(N, 2)``.
    """

    pixels: UInt8Array
    sizes: NDArray[np.int64]

    @classmethod
    def map(cls, path: Path, count: int) -> "StoredImages":
        """Map a file that holds the pixels of ``count`` images and behind them their sizes."""
        file = np.memmap(path, np.uint8, mode="r")
        end = len(file) - count * 2 * SIZE_TYPE.itemsize
        sizes = np.frombuffer(file[end:].tobytes(), SIZE_TYPE).reshape(count, 2)
        return cls(file[:end], sizes.astype(np.int64))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, row: int) -> UInt8Array:
        """Return an image, uint8 ``(3, H, W)``, without a copy."""
        height, width = self.sizes[row].tolist()
        start = self._starts[row]
        return self.pixels[start : start + 3 * height * width].reshape(3, height, width)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        lengths = 3 * self.sizes.prod(axis=1)
        return lengths.cumsum() - lengths

    @cached_property
    def array(self) -> UInt8Array | None:
        """All images as ``(N, 3, H, W)``, without a copy; None if their sizes differ."""
        if (self.sizes != self.sizes[0]).any():
            return None
        return self.pixels.reshape(len(self), 3, *self.sizes[0].tolist())

    def stack(self, rows: NDArray[np.int64]) -> UInt8Array:
        """Return a copy of images of one size, uint8 ``(n, 3, H, W)``."""
        return np.stack([self[row] for row in rows]) if self.array is None else self.array[rows]


class ItemImages(NamedTuple):
    """A batch of the catalogue's images, all of one size.

    Attributes:
        levels: uint8 ``(n, 3, H, W)``.
        items: Their items, int64 ``(n,)``, ascending.
        alone: Whether they are to run one at a time, see :func:`catwalk.networks.batching.size_buckets`.
    """

    levels: "Tensor"
    items: "Tensor"
    alone: bool


def load_images(
    folder: Path,
    images: Sequence[str],
    size: tuple[int, int] | None,
    *,
    names: Sequence[str] | None = None,
    cache: Path | None = None,
    workers: int | None = None,
    progress: ReportProgress | None = None,
) -> UInt8Array:
    """Return all images as one array: :func:`store_images`, with its arguments, for images of one size.

    Returns:
        Read-only uint8 ``(N, 3, H, W)``, memory-mapped.

    Raises:
        CatwalkError: If an image cannot be decoded, or the sizes differ while ``size`` is None.
    """
    stored = store_images(
        folder, images, size, one_size=True, names=names, cache=cache, workers=workers, progress=progress
    )
    assert stored.array is not None
    return stored.array


def store_images(
    folder: Path,
    images: Sequence[str],
    size: tuple[int, int] | None,
    *,
    one_size: bool = False,
    names: Sequence[str] | None = None,
    cache: Path | None = None,
    workers: int | None = None,
    progress: ReportProgress | None = None,
) -> StoredImages:
    """Return all images, decoded once and from then on mapped from a cache on disk.

    The cache is keyed by the files' contents and the size, so a changed image is decoded anew; a damaged one is made
    again, with a warning. Images with another
    colour profile than sRGB are counted in a warning when they are decoded.

    Args:
        folder: The dataset folder.
        images: Paths relative to ``folder``.
        size: ``(height, width)``; None keeps the images' own sizes.
        one_size: Whether these must be the same for all.
        names: What each image belongs to, for messages; the path by default.
        cache: Folder of the cache; ``folder/.cache`` by default.
        workers: Decoding threads; one per core by default. Their number does not change the result.
        progress: Called as images are decoded.

    Raises:
        CatwalkError: If an image cannot be decoded or was written meanwhile, or the sizes differ where they must not.
    """
    if not images:
        raise CatwalkError(f"{folder}: there are no images to load")
    cache = folder / ".cache" if cache is None else cache
    watched = watch_named(folder, images)
    allow_truncated = truncated_images_allowed(folder)
    kind = f"{DECODING} {size}{' truncated' if allow_truncated else ''}"
    key = hashlib.sha256(f"{kind} {fingerprint_files(folder, images)}".encode()).hexdigest()[:24]
    path = cache / f"images-{key}.bin"
    files = _ImageFiles(folder, images, size, names, one_size, allow_truncated, watched)
    if not is_as_sealed(path):
        with locked(path.with_suffix(".lock")):  # one process decodes, and the others take what it has written
            if not is_as_sealed(path):
                if path.exists():
                    warnings.warn(
                        f"{path} was changed after it was written: its images are decoded again", stacklevel=2
                    )
                files.write(path, workers or os.cpu_count() or 1, progress)
    stored = StoredImages.map(path, len(images))
    if stored.array is None:  # written for somebody who takes any
        for number, own in enumerate(stored.sizes):
            files.check_size(number, own, stored.sizes[0])
    return stored


@dataclass(frozen=True)
class _ImageFiles:
    """The files behind :func:`store_images`, with its arguments."""

    folder: Path
    images: Sequence[str]
    size: tuple[int, int] | None
    names: Sequence[str] | None
    one_size: bool
    allow_truncated: bool
    watched: WatchedFiles
    profiles: Counter[str] = field(default_factory=Counter)

    def write(self, path: Path, workers: int, progress: ReportProgress | None) -> None:
        """Decode all images into the file that :meth:`StoredImages.map` takes, which is there whole or not at all."""
        sizes = np.empty((len(self.images), 2), SIZE_TYPE)
        with open_bytes(path) as file:
            for number, levels in enumerate(self._decode_all(workers)):
                sizes[number] = levels.shape[1:]
                self.check_size(number, sizes[number], sizes[0])
                file.write(levels.data)
                if progress is not None:
                    progress(number + 1, len(sizes))
            file.write(sizes.data)
            self.watched.require_unchanged("their decoded images")
        seal(path)
        if self.profiles:
            named = "; ".join(f"{count:,} {name}" for name, count in self.profiles.most_common(5))
            warnings.warn(
                f"{self.folder}: {self.profiles.total():,} of {len(self.images):,} images have another colour profile "
                f"than sRGB: {named}",
                stacklevel=3,
            )

    def _decode_all(self, workers: int) -> Iterator[UInt8Array]:
        """Yield the images in order; threads decode ahead, but not so far that memory fills up.

        Raises:
            CatwalkError: If images cannot be decoded, after all of them were tried: each of them is named.
        """
        damaged: dict[int, CatwalkError] = {}
        with ThreadPoolExecutor(workers) as pool:
            for number, decoded in enumerate(_submit_ahead(pool, self._decode, len(self.images), AHEAD * workers)):
                try:
                    levels, profile = decoded.result()
                except CatwalkError as error:
                    damaged[number] = error
                    continue
                if profile is not None:
                    self.profiles[profile] += 1
                if not damaged:
                    yield levels
        if damaged:
            first, *others = damaged
            also = f"; {len(others):,} more cannot be read either: " if others else ""
            named = ", ".join(self.images[number] for number in others[:NAMED]) + (", …" if len(others) > NAMED else "")
            raise CatwalkError(f"{damaged[first]}{also}{named}") from damaged[first]

    def _decode(self, number: int) -> tuple[UInt8Array, str | None]:
        try:
            return _decode(self.folder / self.images[number], self.size, self.allow_truncated)
        except CatwalkError as error:
            owned = f"{self._owner(number)} cannot be read"
            raise CatwalkError(str(error).replace(" cannot be read", owned, 1)) from error

    def check_size(self, number: int, own: NDArray, first: NDArray) -> None:
        """Raise a CatwalkError if an image has another size than the first and must not."""
        if self.one_size and (own != first).any():
            raise CatwalkError(
                f"image {self.folder / self.images[number]}{self._owner(number)} is {own[1]}×{own[0]} and the first is "
                f"{first[1]}×{first[0]}: give an image_size to bring all to one size"
            )

    def _owner(self, number: int) -> str:
        return "" if self.names is None else f" of {self.names[number]}"


def _submit_ahead(pool: ThreadPoolExecutor, work: Callable[[int], T], count: int, ahead: int) -> Iterator[Future[T]]:
    """Yield the calls of ``work`` with every number below ``count``, in order; at most ``ahead`` have begun before."""
    begun: deque[Future[T]] = deque()
    for number in range(count):
        begun.append(pool.submit(work, number))
        if len(begun) > ahead:
            yield begun.popleft()
    yield from begun
