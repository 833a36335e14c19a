"""What messages call files that are no images."""

import pytest

from catwalk.errors import CatwalkError
from catwalk.shop.decoding import decode


def box(major, *compatible):
    content = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return (len(content) + 4).to_bytes(4, "big") + content + bytes(64)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (box(b"heic", b"mif1", b"heic"), "it is HEIC .*; convert it to JPEG or PNG"),
        (box(b"mif1", b"mif1", b"heic", b"hevc"), "it is HEIC"),
        (box(b"msf1", b"hevc"), "it is HEIC"),
        (box(b"avif", b"mif1", b"miaf"), "AVIF|avif|decode"),
        (box(b"isom", b"mp42"), "it is a film"),
        (box(b"qt  "), "it is a film"),
        (b"\xff\x0a" + bytes(30), "it is JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30), "it is JPEG XL"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "it is SVG"),
        (b"\n<!DOCTYPE html><html>404</html>", "it is a web page"),
        (b"%PDF-1.7\n", "it is a PDF document"),
        (b"PK\x03\x04abc", "it is a ZIP archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "it is a pointer of Git LFS"),
        (b"II*\0" + bytes(30), "it is a TIFF file or a camera's raw one"),
        (b"\xff\xd8\xff\xe0" + bytes(30), "JPEG|truncated|cannot"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"", "it is empty"),
        (bytes(300), "it begins with nothing but zeros"),
        (b"photo of a shoe", "it is no image of a format that Pillow knows"),
    ],
)
def test_a_file_is_called_what_it_is(tmp_path, content, kind):
    (tmp_path / "shoe.jpg").write_bytes(content)
    with pytest.raises(CatwalkError, match=rf"image .*shoe\.jpg cannot be read: .*({kind})") as caught:
        decode(tmp_path / "shoe.jpg")
    assert "\n" not in str(caught.value)


def test_heic_at_any_length_of_the_first_box(tmp_path):
    for length in range(12, 40):
        (tmp_path / "a.heic").write_bytes(box(b"heic", b"mif1", b"heic")[:length])
        with pytest.raises(CatwalkError, match="it is HEIC"):
            decode(tmp_path / "a.heic")
