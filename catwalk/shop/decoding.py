"""Image files of every kind, decoded to 8-bit RGB by one rule."""

import contextlib
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from catwalk.errors import CatwalkError
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.colour_profiles import foreign_profile
from catwalk.shop.file_signatures import what_is

UInt8Array = NDArray[np.uint8]


MAX_PIXELS = 64_000_000
"""Width × height above which an image is refused: a small file may announce more than a machine's memory holds."""


warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is the stricter rule

ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats of animations, by Pillow's names: other files of several images hold pages, or the same in other sizes."""


DECODING = "3"
"""Changes when the same file gives other levels than before, and is part of what caches of them are named by."""


_tolerant = 0
_tolerance = threading.Lock()


def decode(path: Path, size: tuple[int, int] | None = None, *, allow_truncated: bool = False) -> UInt8Array:
    """Decode one image to sRGB, as a browser shows it on a white page.

    The EXIF orientation is applied, colours with an ICC profile that says something else than sRGB are converted
    (:mod:`catwalk.shop.colour_profiles`), transparency is laid on white, and 16 bits are rounded to the nearest of 8.
    Of an animation the first frame counts that is not all of one colour. Floating-point numbers, whole numbers of 32
    bits and signed ones are refused, for the file does not say which of them is white.

    Args:
        path: An image file.
        size: ``(height, width)`` to resize to (bilinear, antialiased); None keeps the image's own size.
        allow_truncated: Take a file that ends too early as far as it goes; what is missing is grey or black.

    Returns:
        uint8 ``(3, H, W)`` in 0..255.

    Raises:
        CatwalkError: If the file cannot be decoded, or announces more than :data:`MAX_PIXELS`.
    """
    return _decode(path, size, allow_truncated)[0]


def decode_item(catalogue: Catalogue, item: int, size: tuple[int, int] | None = None) -> UInt8Array:
    """Decode the image of an item as :func:`decode` does, a truncated one where the shop takes them.

    Args:
        catalogue: The shop's.
        item: Number of the item, ``0..N-1``.
        size: ``(height, width)`` to resize to; None keeps the image's own size.

    Raises:
        CatwalkError: See :func:`decode`.
    """
    path = catalogue.folder / catalogue.images[item]
    return decode(path, size, allow_truncated=catalogue.allow_truncated)


def _decode(path: Path, size: tuple[int, int] | None, allow_truncated: bool) -> tuple[UInt8Array, str | None]:
    """Return what :func:`decode` returns, and what is to be said of a colour profile that is not sRGB's."""
    try:
        with _truncation(allow_truncated), Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}×{image.height} are more than {MAX_PIXELS:,} pixels")
            if image.format == "EPS":
                raise ValueError("it is a PostScript program, which would have to be run")
            _check_numbers(image)
            rgb, profile = _read(image, path)
    except UnidentifiedImageError as error:
        raise CatwalkError(f"image {path} cannot be read: {what_is(path)}") from error
    except Exception as error:  # readers of rare formats raise anything when bytes are damaged
        raise CatwalkError(f"image {path} cannot be read: {str(error) or type(error).__name__}") from error
    if size is not None and rgb.size != (size[1], size[0]):
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    levels = np.empty((3, rgb.height, rgb.width), dtype=np.uint8)
    for channel, band in zip(levels, rgb.split(), strict=True):  # three times as fast as to transpose the array
        channel[:] = np.asarray(band)
    return levels, profile


def _check_numbers(image: Image.Image) -> None:
    """Raise a ValueError if the file's numbers are such that nobody knows which of them is white, or are misread."""
    remedy = "save it as a PNG file with 8 or 16 bits per channel"
    if image.mode == "F":
        raise ValueError(f"it holds floating-point numbers, whose white is not known; {remedy}")
    # These readers scale to 16 bits, which some versions of Pillow give the mode of 32.
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise ValueError(f"it holds signed whole numbers or such of 32 bits, whose white is not known; {remedy}")
    if image.format == "TIFF":
        widest = max(_tags(image).get(258, (1,)))
        if widest > 8 and "16" not in _raw_mode(image) and not image.mode.startswith("I"):
            raise ValueError(f"it is a TIFF file with {widest} bits per channel, each stored apart; {remedy}")


def _read(image: Image.Image, path: Path) -> tuple[Image.Image, str | None]:
    """Decode an opened file to ``"RGB"``; the second is what is to be said of a colour profile that is not sRGB's."""
    low_bytes = _raw_mode_of_low_bytes(image)
    # Asked before anything is decoded: to look for a second frame may move the place in the file.
    if image.format in ANIMATED and getattr(image, "is_animated", False):
        _seek_what_is_shown(image)
    image.load()
    profile = foreign_profile(image)
    transparency = image.info.get("transparency")
    ImageOps.exif_transpose(image, in_place=True)
    colours: Image.Image = image
    if image.mode.startswith("I"):
        colours = _eight_bit_grey(image)
        if isinstance(transparency, int):
            colours.putalpha(Image.fromarray(np.asarray(image) != transparency))
    elif low_bytes is not None and (image.format not in ANIMATED or image.tell() == 0):
        colours = _eight_bit_colours(image, path, low_bytes, transparency)
    if colours.has_transparency_data:
        layer = colours.convert("RGBA")
        if profile is not None:
            opacity = layer.getchannel("A")
            layer = profile.convert(layer.convert("RGB"))
            layer.putalpha(opacity)
        colours = _on_white(layer)
    elif profile is not None:
        colours = profile.convert(colours)
    if colours.mode != "RGB":
        colours = colours.convert("RGB")
    return colours, None if profile is None else profile.name


def _on_white(layer: Image.Image) -> Image.Image:
    """Return an ``"RGBA"`` image laid on white, still ``"RGBA"``."""
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


def _seek_what_is_shown(image: Image.Image) -> None:
    """Go to the first frame of an animation that is not all of one colour, or stay at the first if all are."""
    most = max(1, MAX_PIXELS // (image.width * image.height))  # a small file may announce many large frames
    for number in range(most):
        try:
            image.seek(number)
        except EOFError:
            break
        shown = _on_white(image.convert("RGBA"))
        if any(low != high for low, high in shown.getextrema()):  # type: ignore[misc]
            return
    image.seek(0)


def _tags(image: Image.Image) -> Any:
    """Return the entries of a TIFF file's directory by their numbers."""
    return getattr(image, "tag_v2", {})


def _raw_mode(image: Image.Image) -> str:
    """Return in which form a file holds its pixels, by Pillow's name such as ``"RGB;16B"``; empty if it is not told."""
    tile = image.tile[0] if isinstance(image, ImageFile.ImageFile) and image.tile else None
    arguments = tile[3] if tile is not None else None
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return mode if isinstance(mode, str) else ""


def _raw_mode_of_low_bytes(image: Image.Image) -> str | None:
    """Return as what Pillow has to read 16-bit colours to give the lower byte of each; None if they are none.

    It takes the upper bytes, in the order of the file, and reading in the other order gives the lower ones.
    """
    mode = _raw_mode(image)
    if image.format == "PNG" and mode == "LA;16B":
        return "RGBA"  # upper and lower byte of grey, upper and lower byte of opacity
    if image.format not in ("PNG", "TIFF") or not re.fullmatch(r"(RGB|RGBX|RGBA|CMYK);16[BLN]", mode):
        return None
    if _tags(image).get(284, 1) != 1:  # channels stored apart have orders of their own
        return None
    is_big = mode[-1] == "B" or (mode[-1] == "N" and sys.byteorder == "big")
    return f"{mode[:-1]}{'L' if is_big else 'B'}"


def _eight_bit_colours(image: Image.Image, path: Path, low_bytes: str, transparency: Any) -> Image.Image:
    """Round 16-bit colours, of which Pillow cuts off the lower byte, to the nearest of 8 bits.

    Args:
        image: What Pillow makes of the file.
        path: The file.
        low_bytes: Of :func:`_raw_mode_of_low_bytes`.
        transparency: The one colour that is transparent, 16-bit ``(R, G, B)``, if there is one.
    """
    with Image.open(path) as again:
        assert isinstance(again, ImageFile.ImageFile)
        tile = again.tile[0]
        arguments = (low_bytes, *tile[3][1:]) if isinstance(tile[3], tuple) else low_bytes
        make: Any = getattr(type(tile), "_make", tuple)  # a named tuple since Pillow 11
        again.tile = [make((*tile[:3], arguments))]
        again.load()
        ImageOps.exif_transpose(again, in_place=True)
        bytes_ = np.asarray(again).astype(np.uint32)
    if low_bytes == "RGBA":
        numbers = (bytes_[..., [0, 0, 0, 2]] << 8) + bytes_[..., [1, 1, 1, 3]]
    else:
        numbers = (np.asarray(image).astype(np.uint32) << 8) + bytes_
    colours = Image.fromarray(((numbers + 128) // 257).astype(np.uint8), image.mode)
    if isinstance(transparency, tuple) and image.mode == "RGB":
        colours.putalpha(Image.fromarray((numbers != np.array(transparency)).any(axis=2)))
    return colours


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


def _eight_bit_grey(image: Image.Image) -> Image.Image:
    """Scale grey of up to 16 bits to 8, where Pillow would cut off everything above 255."""
    # TIFF files of 12 bits keep their numbers, and white may be 0, which Pillow minds in 8 bits alone.
    bits, is_negative = 16, False
    if image.format == "TIFF":
        bits, is_negative = _tags(image).get(258, (16,))[0], _tags(image).get(262) == 0
    levels = np.asarray(image).astype(np.float64) / ((2**bits - 1) / 255)
    levels = levels.round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - levels if is_negative else levels)
