"""Kinds of files that are taken for images and cannot be read as such, by their first bytes."""

from pathlib import Path

_CONVERT = "convert it to JPEG or PNG"

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_AVIF = {b"avif", b"avis"}

_BEGINNINGS = (
    (b"\xff\x0a", f"it is JPEG XL, which Pillow does not read; {_CONVERT}"),
    (b"\0\0\0\x0cJXL ", f"it is JPEG XL, which Pillow does not read; {_CONVERT}"),
    (b"%PDF", f"it is a PDF document; {_CONVERT}"),
    (b"PK\x03\x04", "it is a ZIP archive; unpack it"),
    (b"version https://git-lfs", "it is a pointer of Git LFS in place of the file; fetch it with git lfs pull"),
    (b"\xff\xd8\xff", "it begins as JPEG, and is damaged"),
    (b"\x89PNG\r\n\x1a\n", "it begins as PNG, and is damaged"),
    (b"GIF8", "it begins as GIF, and is damaged"),
    (b"II*\0", f"it is a TIFF file or a camera's raw one, of a kind that Pillow does not read; {_CONVERT}"),
    (b"MM\0*", f"it is a TIFF file or a camera's raw one, of a kind that Pillow does not read; {_CONVERT}"),
    (b"II+\0", f"it is a BigTIFF file of a kind that Pillow does not read; {_CONVERT}"),
    (b"MM\0+", f"it is a BigTIFF file of a kind that Pillow does not read; {_CONVERT}"),
)


def what_is(path: Path) -> str:
    """Return what a file is that Pillow does not know, and what to do about it."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        return error.strerror or str(error)
    if not head:
        return "it is empty"
    if not head.strip(b"\0"):
        return "it begins with nothing but zeros"
    if head[4:8] == b"ftyp":
        return _of_brands({head[8:12], *(head[start : start + 4] for start in range(16, _box_end(head), 4))})
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, such as a server sends in place of an image"
    if b"<svg" in text:
        return f"it is SVG, a drawing of no fixed size; {_CONVERT}"
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    return "it is no image of a format that Pillow knows"


def _box_end(head: bytes) -> int:
    """Return where the box that begins an ISO media file ends, or where what was read of it does."""
    return min(int.from_bytes(head[:4], "big"), len(head))


def _of_brands(brands: set[bytes]) -> str:
    """Return what an ISO media file is by the brands that it names."""
    if brands & _AVIF:
        return f"it is AVIF, and is damaged or this Pillow was built without it; {_CONVERT}"
    if brands & _HEIC:
        return f"it is HEIC (HEIF), the format of Apple's photographs, which Pillow does not read; {_CONVERT}"
    return f"it is a film (MP4 or QuickTime); {_CONVERT}"
