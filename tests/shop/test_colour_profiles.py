"""Colours with an ICC profile against the formulas of their colour spaces."""

import io

import numpy as np
import pytest
from image_files import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    cmyk_profile,
    grey_profile,
    linear_to_srgb,
    matrix_profile,
    png,
    srgb_to_linear,
    tiff,
)
from PIL import Image, ImageCms

from catwalk.shop.colour_profiles import foreign_profile
from catwalk.shop.decoding import decode
from catwalk.shop.images import save_png, store_images

ADOBE = matrix_profile(ADOBE_RGB, 2.19921875, "Adobe RGB (1998)")
P3 = matrix_profile(DISPLAY_P3, name="Display P3")


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(256, size=(9, 14, 3), dtype=np.uint8)


def decoded(tmp_path, content):
    path = tmp_path / "image"
    path.write_bytes(content)
    return decode(path).transpose(1, 2, 0).astype(int)


def encoded(image, file_format, **settings):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **settings)
    return buffer.getvalue()


def of_matrix(pixels, matrix, gamma=None):
    """Return levels in sRGB of levels of a space with these primaries, clipped where sRGB does not reach."""
    shares = pixels / 255
    linear = srgb_to_linear(shares) if gamma is None else shares**gamma
    return 255 * linear_to_srgb((linear @ matrix.T @ np.linalg.inv(SRGB).T).clip(0, 1))


@pytest.mark.parametrize(
    ("profile", "matrix", "gamma"),
    [
        (ADOBE, ADOBE_RGB, 2.19921875),
        (P3, DISPLAY_P3, None),
        (matrix_profile(SRGB, 1.8), SRGB, 461 / 256),
        (matrix_profile(SRGB[:, [1, 2, 0]]), SRGB[:, [1, 2, 0]], None),
    ],
    ids=["Adobe RGB", "Display P3", "gamma 1.8", "other primaries"],
)
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_colours_become_those_of_srgb(pixels, tmp_path, profile, matrix, gamma, file_format):
    lossless = {"lossless": True} if file_format == "WEBP" else {}
    content = encoded(Image.fromarray(pixels), file_format, icc_profile=profile, **lossless)
    expected = of_matrix(pixels, matrix, gamma)
    assert abs(expected - pixels).max() > 15
    assert abs(decoded(tmp_path, content) - expected).max() < 1.5


def test_jpeg(tmp_path):
    content = encoded(Image.new("RGB", (16, 16), (60, 180, 90)), "JPEG", quality=100, icc_profile=ADOBE)
    expected = of_matrix(np.array([60, 180, 90]), ADOBE_RGB, 2.19921875)
    assert abs(decoded(tmp_path, content) - expected).max() < 4


def test_a_palette(tmp_path, pixels):
    image = Image.new("P", (14, 9))
    image.putpalette(pixels[0].tobytes())
    image.putdata([number % 14 for number in range(126)])
    expected = of_matrix(np.tile(pixels[0], (9, 1, 1)), ADOBE_RGB, 2.19921875)
    assert abs(decoded(tmp_path, encoded(image, "PNG", icc_profile=ADOBE)) - expected).max() < 1.5


def test_transparency_is_laid_on_white_of_srgb(tmp_path, pixels):
    bands = np.concatenate([pixels, pixels[..., :1]], axis=2)
    bands[0, :3, 3] = 0, 128, 255
    colour, share = of_matrix(pixels, ADOBE_RGB, 2.19921875), bands[..., 3:] / 255
    levels = decoded(tmp_path, encoded(Image.fromarray(bands), "PNG", icc_profile=ADOBE))
    assert abs(levels - (colour * share + 255 * (1 - share))).max() < 2.5


@pytest.mark.parametrize("gamma", [1.8, 2.2])
@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey(pixels, tmp_path, gamma, mode):
    image = Image.fromarray(pixels[..., 0]).convert(mode)
    expected = 255 * linear_to_srgb((pixels[..., :1] / 255) ** (round(256 * gamma) / 256))
    assert abs(decoded(tmp_path, encoded(image, "PNG", icc_profile=grey_profile(gamma))) - expected).max() < 1.5


def test_grey_with_a_profile_of_colours(pixels, tmp_path):
    content = encoded(Image.fromarray(pixels[..., 0]), "PNG", icc_profile=ADOBE)
    expected = of_matrix(np.repeat(pixels[..., :1], 3, axis=2), ADOBE_RGB, 2.19921875)
    assert abs(decoded(tmp_path, content) - expected).max() < 1.5


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits(tmp_path, channels):
    numbers = np.random.default_rng(1).integers(65_536, size=(9, 14, channels), dtype=np.uint16)
    colour = numbers[..., :3] / 257
    if channels == 1:
        profile, expected = grey_profile(1.8), 255 * linear_to_srgb((colour / 255) ** (461 / 256))
    else:
        profile, expected = ADOBE, of_matrix(colour, ADOBE_RGB, 2.19921875)
    if channels == 4:
        share = numbers[..., 3:] / 65_535
        expected = expected * share + 255 * (1 - share)
    # Rounded to 8 bits twice, and in the shadows a level is several.
    assert abs(decoded(tmp_path, png(numbers, profile=profile)) - expected).max() < 5


@pytest.mark.parametrize("file_format", ["TIFF", "JPEG"])
def test_cmyk(tmp_path, file_format):
    inks = np.full((16, 16, 4), (30, 200, 90, 40), dtype=np.uint8)
    settings = {"quality": 100} if file_format == "JPEG" else {}
    content = encoded(Image.fromarray(inks, "CMYK"), file_format, icc_profile=cmyk_profile(), **settings)
    lightness = 100 - 25 * inks.sum(axis=2) / 255
    expected = 255 * linear_to_srgb(((lightness + 16) / 116) ** 3)  # CIE 1976
    assert abs(decoded(tmp_path, content) - expected[..., None]).max() < 4


@pytest.mark.parametrize(
    "profile",
    [
        matrix_profile(SRGB),
        matrix_profile(SRGB.round(4)),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        grey_profile(None),
    ],
    ids=["of 1024 points", "with rounded primaries", "of LittleCMS", "grey"],
)
def test_srgb_is_left_as_it_is(pixels, tmp_path, profile):
    image = Image.fromarray(pixels[..., 0] if b"GRAY" in profile[:24] else pixels)
    plain = decoded(tmp_path, encoded(image, "PNG"))
    assert np.array_equal(decoded(tmp_path, encoded(image, "PNG", icc_profile=profile)), plain)
    assert foreign_profile(Image.open(tmp_path / "image")) is None


@pytest.mark.parametrize(
    ("mode", "profile", "name"),
    [
        ("RGB", b"no profile at all", "unreadable profile, left aside"),
        ("RGB", ADOBE[:150], "unreadable profile, left aside"),
        ("RGB", ADOBE[:128] + bytes(364), "unreadable profile, left aside"),
        ("RGB", grey_profile(1.8), "profile of other colours than the image has, left aside"),
        ("RGB", cmyk_profile(), "profile of other colours than the image has, left aside"),
        ("L", cmyk_profile(), "profile of other colours than the image has, left aside"),
        ("CMYK", ADOBE, "profile of other colours than the image has, left aside"),
    ],
)
def test_a_profile_that_is_of_no_use_is_left_aside(pixels, tmp_path, mode, profile, name):
    image = Image.fromarray(pixels).convert(mode)
    plain = decoded(tmp_path, encoded(image, "TIFF"))
    assert np.array_equal(decoded(tmp_path, encoded(image, "TIFF", icc_profile=profile)), plain)
    with Image.open(tmp_path / "image") as opened:
        found = foreign_profile(opened)
    assert found is not None
    assert found.name == name


def test_a_damaged_profile_never_stops_anything(pixels, tmp_path):
    random = np.random.default_rng(0)
    for profile in (ADOBE, P3, cmyk_profile(), grey_profile(2.2)):
        for _ in range(25):
            damaged = bytearray(profile)
            for place in random.integers(len(damaged), size=8):
                damaged[place] = random.integers(256)
            mode = {b"CMYK": "CMYK", b"GRAY": "L"}.get(profile[16:20], "RGB")
            content = encoded(Image.fromarray(pixels).convert(mode), "TIFF", icc_profile=bytes(damaged))
            assert decoded(tmp_path, content).shape == (9, 14, 3)


def test_the_name_of_a_profile_cannot_command_a_terminal(tmp_path):
    profile = matrix_profile(ADOBE_RGB, 2.2, "red \x1b[31m" + "x" * 200)
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (2, 2)), "PNG", icc_profile=profile))
    with Image.open(tmp_path / "a.png") as image:
        found = foreign_profile(image)
    assert found is not None
    assert found.name.isprintable()
    assert found.name.startswith("red [31mxxx")
    assert len(found.name) < 80


def test_they_are_counted_once(pixels, tmp_path):
    for number, profile in enumerate([ADOBE, None, P3, ADOBE, b"damaged", matrix_profile(SRGB)]):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png", icc_profile=profile)
    names = [f"{number}.png" for number in range(6)]
    told = (
        r": 4 of 6 images have another colour profile than sRGB: 2 Adobe RGB \(1998\), converted; "
        "1 Display P3, converted; 1 unreadable profile, left aside$"
    )
    with pytest.warns(UserWarning, match=told):
        stored = store_images(tmp_path, names, None)
    assert np.array_equal(stored[3], decode(tmp_path / "3.png"))
    assert np.array_equal(stored[1], pixels.transpose(2, 0, 1))
    assert np.array_equal(store_images(tmp_path, names, None)[3], stored[3])  # in silence


def test_what_is_saved_is_what_was_seen(pixels, tmp_path):
    """Turned upright, in sRGB, and without the profile or the orientation of the photograph."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.webp", icc_profile=ADOBE, exif=exif, lossless=True)
    levels = decode(tmp_path / "a.webp")
    expected = of_matrix(pixels.transpose(1, 0, 2)[:, ::-1], ADOBE_RGB, 2.19921875)
    assert abs(levels.transpose(1, 2, 0) - expected).max() < 1.5
    save_png(levels, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert (image.mode, image.size, image.info, dict(image.getexif())) == ("RGB", (9, 14), {}, {})
    assert np.array_equal(decode(tmp_path / "b.png"), levels)


def test_tiff_with_16_bits_of_ink(tmp_path):
    inks = np.random.default_rng(2).integers(65_536, size=(8, 8, 4), dtype=np.uint16)
    lightness = 100 - 25 * inks.sum(axis=2) / 65_535
    linear = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    levels = decoded(tmp_path, tiff(inks, photometric=5, profile=cmyk_profile()))
    assert abs(levels - 255 * linear_to_srgb(linear)[..., None]).max() < 4
