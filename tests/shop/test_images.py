"""Image files of every kind as 8-bit RGB, and the cache of what was decoded."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zlib

import numpy as np
import pytest
import torch
from image_files import png, tiff
from PIL import Image

from catwalk.errors import CatwalkError
from catwalk.shop import decoding
from catwalk.shop import images as module
from catwalk.shop.decoding import _decode, decode
from catwalk.shop.images import load_images, save_png, store_images, to_float


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def pixels(random):
    return random.integers(256, size=(9, 14, 3), dtype=np.uint8)


def decoded(path, size=None):
    levels = decode(path, size)
    assert levels.dtype == np.uint8
    assert levels.flags.c_contiguous
    return levels.transpose(1, 2, 0)


class TestDecode:
    def test_rgb(self, pixels, tmp_path):
        Image.fromarray(pixels).save(tmp_path / "a.png")
        assert np.array_equal(decoded(tmp_path / "a.png"), pixels)

    def test_grey_is_repeated(self, pixels, tmp_path):
        Image.fromarray(pixels[..., 0]).save(tmp_path / "a.png")
        assert np.array_equal(decoded(tmp_path / "a.png"), np.repeat(pixels[..., :1], 3, axis=2))

    def test_black_and_white(self, tmp_path):
        bits = np.array([[True, False], [False, True]])
        Image.fromarray(bits).save(tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as image:
            assert image.mode == "1"
        assert np.array_equal(decoded(tmp_path / "a.png"), np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))

    def test_palette(self, random, tmp_path):
        colours, indices = random.integers(256, size=(7, 3), dtype=np.uint8), random.integers(7, size=(9, 14))
        image = Image.new("P", (14, 9))
        image.putpalette(colours.tobytes())
        image.putdata(indices.ravel().tolist())
        image.save(tmp_path / "a.png")
        assert np.array_equal(decoded(tmp_path / "a.png"), colours[indices])

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_transparency_is_laid_on_white(self, random, tmp_path, mode):
        bands = random.integers(256, size=(9, 14, len(mode)), dtype=np.uint8)
        bands[0, :3, -1] = 0, 128, 255
        Image.fromarray(bands, mode).save(tmp_path / "a.png")
        colour, alpha = bands[..., :-1].astype(np.float64), bands[..., -1:] / 255
        expected = np.broadcast_to(colour * alpha + 255 * (1 - alpha), (9, 14, 3))
        assert abs(decoded(tmp_path / "a.png") - expected).max() <= 1  # Pillow blends in whole numbers
        opaque = bands[..., -1] == 255
        assert np.array_equal(decoded(tmp_path / "a.png")[opaque], expected[opaque])

    def test_a_transparent_colour_of_a_palette_is_white(self, tmp_path):
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.putdata([0, 1])
        image.save(tmp_path / "a.png", transparency=0)
        assert decoded(tmp_path / "a.png").tolist() == [[[255, 255, 255], [40, 50, 60]]]

    def test_cmyk(self, random, tmp_path):
        inks = random.integers(256, size=(9, 14, 4), dtype=np.uint8)
        Image.fromarray(inks, "CMYK").save(tmp_path / "a.tif")
        inks = inks.astype(np.float64)
        expected = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
        assert abs(decoded(tmp_path / "a.tif") - expected).max() <= 1

    def test_cmyk_jpeg(self, tmp_path):
        """Pillow writes them as Adobe does, with the inks inverted."""
        inks = (30, 200, 90, 40)
        Image.new("CMYK", (16, 8), inks).save(tmp_path / "a.jpg", quality=100)
        with Image.open(tmp_path / "a.jpg") as image:
            assert (image.mode, "adobe" in image.info) == ("CMYK", True)
        expected = [(255 - ink) * (255 - inks[3]) / 255 for ink in inks[:3]]
        assert abs(decoded(tmp_path / "a.jpg") - expected).max() <= 3

    def test_colours_of_a_palette_may_be_half_transparent(self, random, tmp_path):
        colours, indices = random.integers(256, size=(4, 3), dtype=np.uint8), random.integers(4, size=(9, 14))
        alphas = np.array([0, 64, 200, 255], dtype=np.uint8)
        image = Image.new("P", (14, 9))
        image.putpalette(colours.tobytes())
        image.putdata(indices.ravel().tolist())
        image.save(tmp_path / "a.png", transparency=alphas.tobytes())
        share = alphas[indices][..., None] / 255
        assert abs(decoded(tmp_path / "a.png") - (colours[indices] * share + 255 * (1 - share))).max() <= 1

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    @pytest.mark.parametrize("order", ["<u2", ">u2"])
    def test_16_bit_grey_is_scaled(self, random, tmp_path, suffix, order):
        grey = random.integers(65_536, size=(9, 14)).astype(order)
        grey[0, :4] = 0, 128, 65_407, 65_535
        if order == ">u2":
            image = Image.frombytes("I;16B", (14, 9), grey.tobytes())
            if suffix == "png":
                pytest.skip("a PNG has one order of bytes")
        else:
            image = Image.fromarray(grey)
        image.save(tmp_path / f"a.{suffix}")
        expected = np.floor(grey.astype(np.float64) / 257 + 0.5).astype(np.uint8)
        assert expected[0, :4].tolist() == [0, 0, 255, 255]
        assert np.array_equal(decoded(tmp_path / f"a.{suffix}"), np.repeat(expected[..., None], 3, axis=2))

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_16_bits_of_a_png_are_rounded_alike(self, random, tmp_path, channels):
        numbers = random.integers(65_536, size=(9, 14, channels), dtype=np.uint16)
        numbers[0, :4] = np.array([[0], [128], [129], [65_407]])
        (tmp_path / "a.png").write_bytes(png(numbers))
        expected = np.floor(numbers / 257 + 0.5)
        assert expected[0, :4, 0].tolist() == [0, 0, 1, 255]
        if channels in (2, 4):
            colour, share = expected[..., :-1], expected[..., -1:] / 255
            assert abs(decoded(tmp_path / "a.png") - (colour * share + 255 * (1 - share))).max() <= 1
            expected = np.where(share == 1, colour, np.nan)
            numbers[..., -1] = 65_535
            (tmp_path / "a.png").write_bytes(png(numbers))
            expected = colour
        assert np.array_equal(decoded(tmp_path / "a.png"), np.broadcast_to(expected, (9, 14, 3)))

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("kind", ["grey", "RGB", "RGBA", "RGBX", "CMYK"])
    def test_16_bits_of_a_tiff_are_rounded_alike(self, random, tmp_path, order, compressed, kind):
        channels, photometric, extra = {
            "grey": (1, 1, None),
            "RGB": (3, 2, None),
            "RGBA": (4, 2, 2),
            "RGBX": (4, 2, 0),
            "CMYK": (4, 5, None),
        }[kind]
        numbers = random.integers(65_536, size=(9, 14, channels), dtype=np.uint16)
        if kind == "RGBA":
            numbers[..., 3] = 65_535
        content = tiff(numbers, order=order, photometric=photometric, compressed=compressed, extra=extra)
        (tmp_path / "a.tif").write_bytes(content)
        expected = np.floor(numbers / 257 + 0.5)
        if kind == "CMYK":
            expected = np.asarray(Image.fromarray(expected.astype(np.uint8), "CMYK").convert("RGB"))
        assert np.array_equal(decoded(tmp_path / "a.tif"), np.broadcast_to(expected[..., :3], (9, 14, 3)))

    @pytest.mark.parametrize("orientation", [3, 6])
    def test_16_bits_are_turned_upright(self, random, tmp_path, orientation):
        numbers = random.integers(65_536, size=(9, 14, 3), dtype=np.uint16)
        exif = Image.Exif()
        exif[0x0112] = orientation
        header, rest = png(numbers)[:33], png(numbers)[33:]
        content = exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = len(content).to_bytes(4, "big") + b"eXIf" + content + zlib.crc32(b"eXIf" + content).to_bytes(4, "big")
        (tmp_path / "a.png").write_bytes(header + chunk + rest)
        expected = np.floor(numbers / 257 + 0.5)
        expected = expected[::-1, ::-1] if orientation == 3 else expected.transpose(1, 0, 2)[:, ::-1]
        assert np.array_equal(decoded(tmp_path / "a.png"), expected)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_the_transparent_colour_of_16_bits_is_that_one_alone(self, tmp_path, channels):
        numbers = np.full((1, 3, channels), 30_000, dtype=np.uint16)
        numbers[0, 1] += 1
        numbers[0, 2, -1] = 5
        (tmp_path / "a.png").write_bytes(png(numbers, transparent=[30_000] * channels))
        expected = np.broadcast_to(np.floor(numbers / 257 + 0.5), (1, 3, 3)).copy()
        expected[0, 0] = 255
        assert np.array_equal(decoded(tmp_path / "a.png"), expected)

    def test_grey_of_12_bits(self, random, tmp_path):
        numbers = random.integers(4096, size=(9, 14, 1), dtype=np.uint16)
        numbers[0, :2, 0] = 0, 4095
        (tmp_path / "a.tif").write_bytes(tiff(numbers, bits=12))
        expected = np.floor(numbers / 4095 * 255 + 0.5)
        assert np.array_equal(decoded(tmp_path / "a.tif"), np.broadcast_to(expected, (9, 14, 3)))

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("depth", ["u1", "u2"])
    def test_white_may_be_0(self, random, tmp_path, order, depth):
        numbers = random.integers(256, size=(9, 14, 1)).astype(depth) * (257 if depth == "u2" else 1)
        (tmp_path / "a.tif").write_bytes(tiff(numbers.astype(depth), order=order, photometric=0))
        if depth == "u2" and order == ">":
            with pytest.raises(CatwalkError, match=r"a\.tif cannot be read: it is a TIFF file .*; convert it"):
                decode(tmp_path / "a.tif")
            return
        expected = 255 - numbers // (257 if depth == "u2" else 1)
        assert np.array_equal(decoded(tmp_path / "a.tif"), np.broadcast_to(expected, (9, 14, 3)))

    @pytest.mark.parametrize(
        ("dtype", "kind"),
        [("f4", "floating-point numbers"), ("u4", "of 32 bits"), ("i4", "of 32 bits"), ("i2", "signed whole numbers")],
    )
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_numbers_of_which_nobody_knows_the_white_are_refused(self, tmp_path, dtype, kind, order):
        (tmp_path / "a.tif").write_bytes(tiff(np.ones((9, 14, 1), dtype=dtype), order=order))
        with pytest.raises(CatwalkError, match=rf"a\.tif cannot be read: .*({kind}|of a kind that Pillow does not)"):
            decode(tmp_path / "a.tif")

    @pytest.mark.parametrize("dtype", ["f4", "u4"])
    def test_so_are_colours_of_32_bits(self, tmp_path, dtype):
        (tmp_path / "a.tif").write_bytes(tiff(np.ones((9, 14, 3), dtype=dtype)))
        with pytest.raises(CatwalkError, match=r"a\.tif cannot be read: .*; convert it to JPEG or PNG"):
            decode(tmp_path / "a.tif")

    def test_a_map_of_floats_is_refused(self, tmp_path):
        (tmp_path / "a.pfm").write_bytes(b"Pf\n2 1\n-1.0\n" + np.array([0.2, 0.9], dtype="<f4").tobytes())
        with pytest.raises(CatwalkError, match=r"a\.pfm cannot be read: it holds floating-point numbers"):
            decode(tmp_path / "a.pfm")

    @pytest.mark.parametrize("most", [1023, 65_535])
    def test_grey_maps_of_more_than_8_bits(self, random, tmp_path, most):
        numbers = random.integers(most + 1, size=(9, 14, 1))
        content = f"P5 14 9 {most}\n".encode() + numbers.astype(">u2").tobytes()
        (tmp_path / "a.pgm").write_bytes(content)
        assert abs(decoded(tmp_path / "a.pgm") - 255 * numbers / most).max() <= 0.51

    def test_16_bits_stored_apart_are_refused_where_they_would_be_misread(self, tmp_path):
        (tmp_path / "a.tif").write_bytes(tiff(np.full((9, 14, 3), 40_000, dtype=np.uint16), apart=True))
        with pytest.raises(CatwalkError, match=r"a\.tif cannot be read: it is a TIFF file with 16 bits .* apart"):
            decode(tmp_path / "a.tif")

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation(self, pixels, tmp_path, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
        # The standard names the sides that row 0 and column 0 of the file show.
        upright = {
            1: lambda a: a,
            2: lambda a: a[:, ::-1],
            3: lambda a: a[::-1, ::-1],
            4: lambda a: a[::-1],
            5: lambda a: a.transpose(1, 0, 2),
            6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
            7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
            8: lambda a: a.transpose(1, 0, 2)[::-1],
        }[orientation](pixels)
        assert np.array_equal(decoded(tmp_path / "a.png"), upright)

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
    def test_formats(self, tmp_path, file_format):
        Image.new("RGB", (14, 9), (200, 40, 90)).save(tmp_path / "image", file_format)
        assert abs(decoded(tmp_path / "image").astype(int) - [200, 40, 90]).max() <= 3

    @pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
    @pytest.mark.parametrize("first", ["transparent", "white", "black"])
    @pytest.mark.parametrize("empty", [1, 3])
    def test_an_animation_is_what_it_first_shows(self, tmp_path, file_format, first, empty):
        shown = np.zeros((9, 14, 4), dtype=np.uint8)
        shown[2:7, 3:9] = 200, 40, 90, 255
        later = shown[:, ::-1].copy()
        blank = Image.new("RGBA", (14, 9), {"transparent": (9, 9, 9, 0)}.get(first, first))
        if first != "transparent":
            shown[..., 3] = later[..., 3] = 255
        frames = [blank] * empty + [Image.fromarray(shown), Image.fromarray(later)]
        settings = {"GIF": {"disposal": 2}, "WEBP": {"lossless": True}, "PNG": {}}[file_format]
        durations = [100 * number for number in range(1, empty + 3)]  # frames that are equal are not joined
        frames[0].save(
            tmp_path / "a", file_format, save_all=True, append_images=frames[1:], duration=durations, **settings
        )
        expected = np.asarray(Image.alpha_composite(Image.new("RGBA", (14, 9), "white"), Image.fromarray(shown)))
        assert abs(decoded(tmp_path / "a") - expected[..., :3].astype(int)).max() <= 3

    @pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
    def test_an_animation_that_shows_something_is_its_first_frame(self, pixels, tmp_path, file_format):
        frames = [Image.fromarray(image).quantize(16).convert("RGB") for image in (pixels, 255 - pixels)]
        lossless = {"lossless": True} if file_format == "WEBP" else {}
        frames[0].save(tmp_path / "a", file_format, save_all=True, append_images=frames[1:], duration=100, **lossless)
        assert np.array_equal(decoded(tmp_path / "a"), np.asarray(frames[0]))

    @pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
    def test_an_animation_of_nothing_is_nothing(self, tmp_path, file_format):
        blank = [Image.new("RGB", (14, 9), colour) for colour in ("white", "black", "white")]
        blank[0].save(tmp_path / "a", file_format, save_all=True, append_images=blank[1:], duration=100)
        assert (decoded(tmp_path / "a") >= 254).all()

    def test_resizing_is_that_of_pillow(self, pixels, tmp_path):
        Image.fromarray(pixels).save(tmp_path / "a.png")
        expected = np.asarray(Image.fromarray(pixels).resize((5, 7), Image.Resampling.BILINEAR))
        assert np.array_equal(decoded(tmp_path / "a.png", (7, 5)), expected)
        assert np.array_equal(decoded(tmp_path / "a.png", (9, 14)), pixels)

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
    def test_truncated_files(self, pixels, tmp_path, file_format):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, file_format)
        for part in (0.0, 0.1, 0.5, 0.8):
            (tmp_path / "half").write_bytes(buffer.getvalue()[: int(part * buffer.tell())])
            with pytest.raises(CatwalkError, match=r"image .*half cannot be read"):
                decode(tmp_path / "half")

    @pytest.mark.parametrize("side", [100_000, 8_001])
    def test_an_image_that_announces_too_many_pixels_is_refused_before_it_is_decoded(self, tmp_path, side):
        def chunk(kind, data):
            return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

        header = chunk(b"IHDR", side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0]))
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))
        with pytest.raises(CatwalkError, match=r"a\.png cannot be read: .*pixels"):
            decode(tmp_path / "a.png", allow_truncated=True)

    def test_the_largest_images_are_taken(self, pixels, tmp_path, monkeypatch):
        Image.fromarray(pixels).save(tmp_path / "a.png")
        monkeypatch.setattr(decoding, "MAX_PIXELS", 9 * 14)
        assert np.array_equal(decoded(tmp_path / "a.png"), pixels)
        monkeypatch.setattr(decoding, "MAX_PIXELS", 9 * 14 - 1)
        with pytest.raises(CatwalkError, match="14×9 are more than 125 pixels"):
            decode(tmp_path / "a.png")

    def test_a_postscript_program_is_not_run(self, tmp_path, monkeypatch):
        monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("it was run"))
        (tmp_path / "a.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
        with pytest.raises(CatwalkError, match=r"a\.jpg cannot be read: it is a PostScript program"):
            decode(tmp_path / "a.jpg")

    def test_truncated_files_are_taken_as_far_as_they_go_where_that_is_allowed(self, random, tmp_path):
        pixels = random.integers(1, 256, size=(64, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png", compress_level=0)
        content = (tmp_path / "a.png").read_bytes()
        (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
        levels = decode(tmp_path / "a.png", allow_truncated=True).transpose(1, 2, 0)
        whole = [np.array_equal(row, original) for row, original in zip(levels, pixels, strict=True)]
        there = whole.index(False)
        assert 28 <= there <= 32
        assert not levels[there + 1 :].any()
        with pytest.raises(CatwalkError, match=r"a\.png cannot be read"):  # what was allowed is so no longer
            decode(tmp_path / "a.png")

    def test_what_is_no_image(self, tmp_path):
        (tmp_path / "a.png").write_text("not an image")
        with pytest.raises(CatwalkError, match=r"a\.png cannot be read"):
            decode(tmp_path / "a.png")
        with pytest.raises(CatwalkError, match=r"b\.png cannot be read"):
            decode(tmp_path / "b.png")

    @pytest.mark.filterwarnings("ignore")
    def test_damaged_bytes_are_read_or_refused(self, pixels, tmp_path, random):
        """Whatever stands in a file, nothing but a CatwalkError comes out."""
        refused = 0
        for file_format in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "DDS", "PCX"):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, file_format)
            for _ in range(60):
                damaged = bytearray(buffer.getvalue())
                for place in random.integers(min(len(damaged), 200), size=3):
                    damaged[place] = random.integers(256)
                (tmp_path / "damaged").write_bytes(damaged)
                try:
                    decode(tmp_path / "damaged")
                except CatwalkError:
                    refused += 1
        assert refused > 60


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_a_png_keeps_every_level(tmp_path, kind):
    levels = np.arange(3 * 16 * 32, dtype=np.int64).reshape(3, 16, 32).astype(np.uint8)
    path = tmp_path / "new" / "folders" / "a.png"
    save_png(torch.from_numpy(levels) if kind == "tensor" else levels, path)
    assert np.array_equal(decode(path), levels)
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 16))


def test_levels_become_shares_of_255():
    levels = torch.arange(256, dtype=torch.uint8)
    expected = np.arange(256, dtype=np.float32) / np.float32(255)
    assert to_float(levels).dtype == torch.float32
    assert np.array_equal(to_float(levels).numpy(), expected)
    assert levels[255] == 255


@pytest.fixture
def folder(tmp_path, random):
    """A folder with 70 images, and the images."""
    images = random.integers(256, size=(70, 4, 5, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    return tmp_path, images.transpose(0, 3, 1, 2), [f"{number}.png" for number in range(70)]


def cache_files(folder):
    return sorted(path.name for path in (folder / ".cache").iterdir() if path.suffix != ".sha256")


class TestLoadImages:
    def test_all_images_in_order(self, folder):
        place, expected, names = folder
        calls = []
        levels = load_images(place, names, None, progress=lambda *call: calls.append(call))
        assert np.array_equal(levels, expected)
        assert calls == [(done, 70) for done in range(1, 71)]
        assert not levels.flags.writeable
        assert isinstance(levels, np.memmap)
        assert np.array_equal(load_images(place, [names[5], names[2], names[5]], None), expected[[5, 2, 5]])

    def test_one_decodes_for_all(self, folder, monkeypatch):
        place, expected, names = folder
        write, writers = module._ImageFiles.write, []

        def slowly(self, *arguments):
            writers.append(threading.get_ident())
            time.sleep(0.3)  # the others have come by now
            write(self, *arguments)

        monkeypatch.setattr(module._ImageFiles, "write", slowly)
        found = {}
        threads = [
            threading.Thread(target=lambda number=number: found.update({number: load_images(place, names, None)}))
            for number in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(writers) == 1
        assert len(found) == 3
        assert all(np.array_equal(levels, expected) for levels in found.values())
        assert [path for path in cache_files(place) if not path.endswith(".bin")] == []

    def test_the_cache_is_used(self, folder, monkeypatch):
        place, expected, names = folder
        load_images(place, names, None)
        monkeypatch.setattr(module, "_decode", lambda *_: pytest.fail("decoded again"))
        assert np.array_equal(load_images(place, names, None), expected)

    def test_it_is_redone_for_another_image_size_or_list(self, folder):
        place, expected, names = folder
        load_images(place, names, None)
        changed = 255 - expected[3]
        save_png(changed, place / "3.png")
        levels = load_images(place, names, None)
        assert np.array_equal(levels[3], changed)
        assert np.array_equal(levels[4:], expected[4:])
        assert load_images(place, names, (8, 6)).shape == (70, 3, 8, 6)
        assert np.array_equal(load_images(place, names, (8, 6))[3], decode(place / "3.png", (8, 6)))
        assert np.array_equal(load_images(place, names[::-1], None)[66], changed)
        assert len(cache_files(place)) == 4

    @pytest.mark.parametrize("damage", ["zeros", "cut", "no seal"])
    def test_a_damaged_cache_is_made_again(self, folder, damage):
        place, expected, names = folder
        load_images(place, names, None)
        (path,) = (place / ".cache").glob("*.bin")
        written = path.read_bytes()
        if damage == "zeros":
            path.write_bytes(written[:999] + bytes(99) + written[1098:])
        elif damage == "cut":
            path.write_bytes(written[:-7])
        else:
            path.with_name(f"{path.name}.sha256").unlink()
        with pytest.warns(UserWarning, match=r"\.bin was changed after it was written: its images are decoded again"):
            levels = load_images(place, names, None)
        assert np.array_equal(levels, expected)
        assert path.read_bytes() == written

    def test_what_is_written_while_it_is_decoded_is_not_kept(self, folder, monkeypatch):
        """The images may not be those by whose content the cache is named."""
        place, expected, names = folder

        def decode_and_write(path, *arguments):
            save_png(expected[0], place / "69.png")
            return _decode(path, *arguments)

        monkeypatch.setattr(module, "_decode", decode_and_write)
        with pytest.raises(CatwalkError, match=r"69\.png was written, added or removed while this ran"):
            load_images(place, names, None)
        assert cache_files(place) == []
        monkeypatch.undo()
        assert np.array_equal(load_images(place, names, None)[69], expected[0])

    @pytest.mark.parametrize("workers", [1, 2, 9])
    def test_the_number_of_workers_does_not_show(self, folder, workers, tmp_path):
        place, expected, names = folder
        levels = load_images(place, names, None, workers=workers, cache=tmp_path / f"cache{workers}")
        assert np.array_equal(levels, expected)
        assert not (place / ".cache").exists()

    def test_differing_sizes(self, folder):
        place, _, names = folder
        Image.new("RGB", (7, 8)).save(place / "40.png")
        owners = [f"item {number}" for number in range(70)]
        message = r"image .*40\.png of item 40 is 7×8 and the first is 5×4: give an image_size"
        with pytest.raises(CatwalkError, match=message):
            load_images(place, names, None, names=owners)
        assert cache_files(place) == []
        assert load_images(place, names, (4, 5)).shape == (70, 3, 4, 5)

    @pytest.mark.parametrize("number", [0, 40])
    def test_a_damaged_image_names_the_file_and_the_item(self, folder, number):
        place, _, names = folder
        path = place / f"{number}.png"
        path.write_bytes(path.read_bytes()[:60])
        with pytest.raises(CatwalkError, match=rf"image .*{number}\.png of item '{number}' cannot be read"):
            load_images(place, names, None, names=[f"item '{number}'" for number in range(70)])
        with pytest.raises(CatwalkError, match=rf"image .*{number}\.png cannot be read"):
            load_images(place, names, None)
        assert not (place / ".cache").exists() or cache_files(place) == []

    @pytest.mark.parametrize("workers", [1, 2, 9])
    def test_all_damaged_images_are_named_at_once(self, folder, workers):
        place, _, names = folder
        for number in (1, 30, 69):
            (place / f"{number}.png").write_bytes(b"")
        message = r"/1\.png cannot be read.*; 2 more cannot be read either: 30\.png, 69\.png$"
        with pytest.raises(CatwalkError, match=message):
            load_images(place, names, None, workers=workers)
        assert not (place / ".cache").exists() or cache_files(place) == []

    @pytest.mark.parametrize("workers", [1, 2, 9])
    def test_truncated_images_are_as_the_dataset_folder_says(self, folder, workers):
        place, expected, names = folder
        for number in range(0, 70, 3):
            Image.fromarray(expected[number].transpose(1, 2, 0)).save(place / names[number], compress_level=0)
            content = (place / names[number]).read_bytes()
            (place / names[number]).write_bytes(content[:-50])  # the last of 4 rows, and more
        with pytest.raises(CatwalkError, match=r"/0\.png cannot be read"):
            load_images(place, names, None, workers=workers)
        (place / "dataset.json").write_text('{"allow_truncated": true}')
        levels = load_images(place, names, None, workers=workers)
        (place / "dataset.json").unlink()
        with pytest.raises(CatwalkError, match=r"/0\.png cannot be read"):  # though the cache holds it
            load_images(place, names, None, workers=workers)
        cut = np.arange(70) % 3 == 0
        assert np.array_equal(levels[~cut], expected[~cut])
        assert np.array_equal(levels[cut][:, :, :2], expected[cut][:, :, :2])
        assert not np.array_equal(levels[cut][:, :, 3], expected[cut][:, :, 3])
        assert np.array_equal(
            levels[cut], np.stack([decode(place / name, allow_truncated=True) for name in names[::3]])
        )

    def test_no_images(self, tmp_path):
        with pytest.raises(CatwalkError, match="there are no images to load"):
            load_images(tmp_path, [], None)

    def test_a_killed_process_leaves_no_cache_that_looks_complete(self, folder):
        place, expected, names = folder
        script = f"""
            import os, signal
            from pathlib import Path
            from catwalk.shop.images import load_images

            def kill(done, total):
                if done == 30:
                    os.kill(os.getpid(), signal.SIGKILL)

            load_images(Path({str(place)!r}), {names!r}, None, workers=1, progress=kill)
        """
        finished = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=120)
        assert finished.returncode == -signal.SIGKILL
        assert not list((place / ".cache").glob("*.bin"))
        assert np.array_equal(load_images(place, names, None), expected)
        assert len(list((place / ".cache").glob("*.bin"))) == 1

    def test_an_exception_leaves_nothing(self, folder):
        place, _, names = folder

        def interrupt(done, total):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            load_images(place, names, None, progress=interrupt)
        assert os.listdir(place / ".cache") == []


@pytest.fixture
def sizes_folder(tmp_path, random):
    """A folder with 50 images of several sizes, the images, and their names."""
    shapes = [(5, 4), (4, 5), (1, 1), (7, 13)]
    images = [
        random.integers(256, size=(3, *shapes[number**2 % 4 + number % 3 // 2]), dtype=np.uint8) for number in range(50)
    ]
    for number, image in enumerate(images):
        save_png(image, tmp_path / f"{number}.png")
    return tmp_path, images, [f"{number}.png" for number in range(50)]


class TestImagesOfSeveralSizes:
    @pytest.mark.parametrize("workers", [1, 9])
    def test_each_image_keeps_its_own(self, sizes_folder, workers):
        place, expected, names = sizes_folder
        calls = []
        stored = store_images(place, names, None, workers=workers, progress=lambda *call: calls.append(call))
        assert len(stored) == 50
        assert stored.array is None
        assert len({image.shape for image in expected}) > 2
        for number, image in enumerate(expected):
            assert np.array_equal(stored[number], image)
            assert stored.sizes[number].tolist() == list(image.shape[1:])
        assert calls == [(done, 50) for done in range(1, 51)]
        assert np.array_equal(stored[-1], expected[-1])
        with pytest.raises(IndexError):
            stored[50]

    def test_they_are_mapped_and_decoded_once(self, sizes_folder, monkeypatch):
        place, expected, names = sizes_folder
        store_images(place, names, None)
        monkeypatch.setattr(module, "_decode", lambda *_: pytest.fail("decoded again"))
        stored = store_images(place, names, None)
        assert isinstance(stored.pixels, np.memmap)
        assert not stored[3].flags.writeable
        assert np.shares_memory(stored[3], stored.pixels)
        assert all(np.array_equal(stored[number], image) for number, image in enumerate(expected))

    def test_those_of_one_size_are_stacked(self, sizes_folder):
        place, expected, names = sizes_folder
        stored = store_images(place, names, None)
        rows = np.array([number for number, image in enumerate(expected) if image.shape == expected[1].shape])[::-1]
        assert len(rows) > 2
        assert np.array_equal(stored.stack(rows), np.stack([expected[row] for row in rows]))
        assert stored.stack(rows).flags.writeable

    @pytest.mark.parametrize("is_stored", [False, True])
    def test_they_are_no_array(self, sizes_folder, is_stored):
        place, expected, names = sizes_folder
        if is_stored:
            store_images(place, names, None)
        other = next(number for number, image in enumerate(expected) if image.shape != expected[0].shape)
        with pytest.raises(CatwalkError, match=rf"image .*/{other}\.png of item {other} is .* give an image_size"):
            load_images(place, names, None, names=[f"item {number}" for number in range(50)])
        assert len(cache_files(place)) == is_stored

    def test_of_one_size_they_are(self, folder):
        place, expected, names = folder
        stored = store_images(place, names, None)
        assert np.array_equal(stored.array, expected)
        assert np.shares_memory(stored.array, stored.pixels)
        assert np.array_equal(stored[7], expected[7])
        assert np.array_equal(stored.stack(np.array([9, 2])), expected[[9, 2]])
