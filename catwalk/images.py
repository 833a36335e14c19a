"""Product images as 8-bit arrays: decoding, a cache on disk, saving without loss."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from catwalk.catalogue import fingerprint_files
from catwalk.errors import CatwalkError

UInt8Array = NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""Called with how many are done and how many there are."""


def decode(path: Path, size: tuple[int, int] | None = None) -> UInt8Array:
    """Decode one image to RGB.

    The EXIF orientation is applied, transparency is laid on white, and every mode that Pillow reads becomes RGB.

    Args:
        path: An image file.
        size: ``(height, width)`` to resize to (bilinear, antialiased); None keeps the image's own size.

    Returns:
        uint8 ``(3, H, W)`` in 0..255.

    Raises:
        CatwalkError: If the file cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):
                upright = _eight_bit_grey(upright)
            if upright.has_transparency_data:
                layer = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            rgb = upright.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CatwalkError(f"image {path} cannot be read: {error}") from error
    if size is not None and rgb.size != (size[1], size[0]):
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))


def _eight_bit_grey(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits, where Pillow would cut off everything above 255."""
    # Some readers give 16-bit files the mode of 32 bits.
    levels = np.clip(np.asarray(image).astype(np.float64) / 257, 0, 255)
    return Image.fromarray(levels.round().astype(np.uint8))


def save_png(levels: UInt8Array | Tensor, path: Path) -> None:
    """Write uint8 ``(3, H, W)`` as a PNG file, which keeps every level; folders are made as needed."""
    array = levels.cpu().numpy() if isinstance(levels, Tensor) else levels
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0))).save(path, format="PNG")


def to_float(levels: Tensor) -> Tensor:
    """Turn uint8 levels in 0..255 into float32 in [0, 1], the one form in which networks take images."""
    return levels.to(torch.float32).div_(255)


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
    """Return all images as one array, decoded once and from then on mapped from a cache on disk.

    The cache is keyed by the files' contents and the size, so a changed image is decoded anew.

    Args:
        folder: The dataset folder.
        images: Paths relative to ``folder``.
        size: ``(height, width)``; None keeps the images' own size, which must then be the same for all.
        names: What each image belongs to, for messages; the path by default.
        cache: Folder of the cache; ``folder/.cache`` by default.
        workers: Decoding threads; one per core by default. Their number does not change the result.
        progress: Called as images are decoded.

    Returns:
        Read-only uint8 ``(N, 3, H, W)``, memory-mapped.

    Raises:
        CatwalkError: If an image cannot be decoded, or the sizes differ while ``size`` is None.
    """
    if not images:
        raise CatwalkError(f"{folder}: there are no images to load")
    cache = folder / ".cache" if cache is None else cache
    key = hashlib.sha256(f"1 {size} {fingerprint_files(folder, images)}".encode()).hexdigest()[:24]
    path = cache / f"images-{key}.npy"
    if path.is_file():
        return np.load(path, mmap_mode="r")

    def owner(number: int) -> str:
        return f" of {names[number]}" if names is not None else ""

    def decode_one(number: int) -> UInt8Array:
        try:
            return decode(folder / images[number], size)
        except CatwalkError as error:
            raise CatwalkError(str(error).replace(" cannot be read", f"{owner(number)} cannot be read", 1)) from error

    first = decode_one(0)
    cache.mkdir(parents=True, exist_ok=True)
    partial = cache / f".{path.name}.{os.getpid()}"
    try:
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(images), *first.shape))

        def fill(number: int) -> None:
            levels = decode_one(number)
            if levels.shape != first.shape:
                raise CatwalkError(
                    f"image {folder / images[number]}{owner(number)} is {levels.shape[2]}×{levels.shape[1]} and "
                    f"the first is {first.shape[2]}×{first.shape[1]}: give an image_size to bring all to one size"
                )
            array[number] = levels

        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            for done, _ in enumerate(pool.map(fill, range(len(images))), start=1):
                if progress is not None:
                    progress(done, len(images))
        array.flush()
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")
