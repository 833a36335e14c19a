"""Product images as 8-bit arrays: decoding, a cache on disk, saving without loss."""

import contextlib
import hashlib
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from catwalk.catalogue import fingerprint_files, read_dataset_info
from catwalk.errors import CatwalkError

if TYPE_CHECKING:  # importers decode images, and need no PyTorch
    from torch import Tensor

UInt8Array = NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""Called with how many are done and how many there are."""

MAX_PIXELS = 64_000_000
"""Width × height above which an image is refused: a small file may announce more than a machine's memory holds."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is the stricter rule

SIZE_TYPE = np.dtype("<i4")
"""How heights and widths stand in the files of the cache."""

AHEAD = 4
"""Images per thread that may be decoded before they are written."""


def decode(path: Path, size: tuple[int, int] | None = None, *, allow_truncated: bool = False) -> UInt8Array:
    """Decode one image to RGB.

    The EXIF orientation is applied, transparency is laid on white, and every mode that Pillow reads becomes RGB.

    Args:
        path: An image file.
        size: ``(height, width)`` to resize to (bilinear, antialiased); None keeps the image's own size.
        allow_truncated: Take a file that ends too early as far as it goes; what is missing is grey or black.

    Returns:
        uint8 ``(3, H, W)`` in 0..255.

    Raises:
        CatwalkError: If the file cannot be decoded, or announces more than :data:`MAX_PIXELS`.
    """
    try:
        with _truncation(allow_truncated), Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}×{image.height} are more than {MAX_PIXELS:,} pixels")
            if image.format == "EPS":
                raise ValueError("it is a PostScript program, which would have to be run")
            image.load()
            rgb: Image.Image = image
            ImageOps.exif_transpose(rgb, in_place=True)
            if rgb.mode.startswith("I"):
                rgb = _eight_bit_grey(rgb)
            if rgb.has_transparency_data:
                layer = rgb.convert("RGBA")
                rgb = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            if rgb.mode != "RGB":
                rgb = rgb.convert("RGB")
    except Exception as error:  # readers of rare formats raise anything when bytes are damaged
        raise CatwalkError(f"image {path} cannot be read: {str(error) or type(error).__name__}") from error
    if size is not None and rgb.size != (size[1], size[0]):
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    levels = np.empty((3, rgb.height, rgb.width), dtype=np.uint8)
    for channel, band in zip(levels, rgb.split(), strict=True):  # three times as fast as to transpose the array
        channel[:] = np.asarray(band)
    return levels


_tolerant = 0
_tolerance = threading.Lock()


@contextlib.contextmanager
def _truncation(allowed: bool) -> Iterator[None]:
    """Let Pillow decode truncated files meanwhile; its switch is one for the whole process."""
    global _tolerant
    if not allowed:
        yield
        return
    with _tolerance:
        _tolerant += 1
        ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        with _tolerance:
            _tolerant -= 1
            ImageFile.LOAD_TRUNCATED_IMAGES = _tolerant > 0


def truncated_images_allowed(folder: Path) -> bool:
    """Return whether ``dataset.json`` of a dataset folder says that truncated images are taken as far as they go."""
    return read_dataset_info(folder).get("allow_truncated") is True


def _eight_bit_grey(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits, where Pillow would cut off everything above 255."""
    # Some readers give 16-bit files the mode of 32 bits.
    levels = np.clip(np.asarray(image).astype(np.float64) / 257, 0, 255)
    return Image.fromarray(levels.round().astype(np.uint8))


def save_png(levels: "UInt8Array | Tensor", path: Path) -> None:
    """Write uint8 ``(3, H, W)`` as a PNG file, which keeps every level; folders are made as needed."""
    array = levels if isinstance(levels, np.ndarray) else levels.cpu().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0))).save(path, format="PNG")


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
        alone: Whether they are to run one at a time, see :func:`catwalk.batching.size_buckets`.
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
    progress: Progress | None = None,
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
    progress: Progress | None = None,
) -> StoredImages:
    """Return all images, decoded once and from then on mapped from a cache on disk.

    The cache is keyed by the files' contents and the size, so a changed image is decoded anew.

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
        CatwalkError: If an image cannot be decoded, or the sizes differ where they must not.
    """
    if not images:
        raise CatwalkError(f"{folder}: there are no images to load")
    cache = folder / ".cache" if cache is None else cache
    allow_truncated = truncated_images_allowed(folder)
    kind = f"2 {size}{' truncated' if allow_truncated else ''}"
    key = hashlib.sha256(f"{kind} {fingerprint_files(folder, images)}".encode()).hexdigest()[:24]
    path = cache / f"images-{key}.bin"
    files = _ImageFiles(folder, images, size, names, one_size, allow_truncated)
    if not path.is_file():
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

    def write(self, path: Path, workers: int, progress: Progress | None) -> None:
        """Decode all images into the file that :meth:`StoredImages.map` takes, which is there whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        sizes = np.empty((len(self.images), 2), SIZE_TYPE)
        try:
            with partial.open("wb") as file:
                for number, levels in enumerate(self._decode_all(workers)):
                    sizes[number] = levels.shape[1:]
                    self.check_size(number, sizes[number], sizes[0])
                    file.write(levels.data)
                    if progress is not None:
                        progress(number + 1, len(sizes))
                file.write(sizes.data)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)

    def _decode_all(self, workers: int) -> Iterator[UInt8Array]:
        """Yield the images in order; threads decode ahead, but not so far that memory fills up."""
        with ThreadPoolExecutor(workers) as pool:
            ahead: deque[Future[UInt8Array]] = deque()
            for number in range(len(self.images)):
                ahead.append(pool.submit(self._decode, number))
                if len(ahead) > AHEAD * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _decode(self, number: int) -> UInt8Array:
        try:
            return decode(self.folder / self.images[number], self.size, allow_truncated=self.allow_truncated)
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
