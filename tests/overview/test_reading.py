"""What an overview reads: the purchases that a study would use, and the headers of images."""

import csv
from pathlib import Path

import numpy as np
import pytest
from image_files import ADOBE_RGB, SRGB, grey_profile, matrix_profile
from PIL import Image

from catwalk.overview.reading import purchase_tables, read_headers, same_photographs, split_facts
from catwalk.shop.catalogue import Catalogue

Rows = list[tuple[str, str, str]]
"""User, item and timestamp."""


def write_shop(folder: Path, tables: dict[str, Rows]) -> Catalogue:
    """Write a dataset folder of five items."""
    folder.mkdir()
    Image.new("L", (2, 2)).save(folder / "image.png")
    write(folder / "items.csv", "item_id,image,category", [(item, "image.png", "Sandal") for item in "abcde"])
    for stem, rows in tables.items():
        (folder / stem).parent.mkdir(exist_ok=True)
        write(folder / f"{stem}.csv", "user_id,item_id,timestamp", rows)
    return Catalogue.read(folder)


def write(path: Path, header: str, rows: Rows) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])


BOUGHT = [("ada", "a", "1"), ("ada", "b", "2"), ("bob", "b", "3"), ("cyd", "c", "4"), ("cyd", "d", "5")]


def test_a_folder_of_images_alone_has_no_purchases(tmp_path: Path) -> None:
    assert purchase_tables(write_shop(tmp_path / "shop", {})) == []


def test_purchases_are_split_by_leave_one_out_without_a_published_split(tmp_path: Path) -> None:
    catalogue = write_shop(tmp_path / "shop", {"interactions": BOUGHT})
    tables = purchase_tables(catalogue)
    assert tables == [catalogue.folder / "interactions.csv"]
    found = split_facts(catalogue, tables)
    assert (found.kind, found.train, found.validation, found.test) == ("leave-one-out", 3, 0, 2)
    assert found.tested_users == 2
    assert found.cold == 1  # d is bought by cyd alone; b, ada's last, by bob as well


def test_a_published_split_goes_before_the_interactions(tmp_path: Path) -> None:
    parts = {
        "splits/train": BOUGHT,
        "splits/validation": [("ada", "c", "6")],
        "splits/test": [("bob", "e", "7"), ("cyd", "a", "7"), ("bob", "c", "8")],
    }
    catalogue = write_shop(tmp_path / "shop", {"interactions": BOUGHT[:1], **parts})
    tables = purchase_tables(catalogue)
    assert tables == [catalogue.folder / f"{part}.csv" for part in parts]
    found = split_facts(catalogue, tables)
    assert (found.kind, found.train, found.validation, found.test) == ("published", 5, 1, 3)
    assert (found.tested_users, found.cold) == (2, 1)


def test_headers_are_what_decoding_finds(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names = []
    for number, mode in enumerate(["RGB", "L", "RGBA", "P", "CMYK", "1"] * 90):
        ending = "jpg" if mode == "CMYK" else "png"
        image = Image.new("RGB", tuple(random.integers(1, 9, 2).tolist())).convert(mode)
        names.append(f"{number}.{ending}")
        image.save(tmp_path / names[-1])
    (tmp_path / "torn.png").write_bytes((tmp_path / "0.png").read_bytes()[:20])
    (tmp_path / "text.png").write_text("no image")
    expected = []
    for name in names:
        with Image.open(tmp_path / name) as image:
            image.load()
            expected.append((image.width, image.height, image.mode))
    found = read_headers(tmp_path, ["torn.png", *names, "text.png", "absent.png"])
    assert found == [None, *expected, None, None]


def test_a_colour_profile_stands_beside_the_mode(tmp_path: Path) -> None:
    adobe = matrix_profile(ADOBE_RGB, 2.2, "Adobe RGB (1998)")
    profiles = {"a.png": adobe, "b.jpg": adobe, "c.webp": b"damaged", "d.tif": matrix_profile(SRGB), "e.png": None}
    for name, profile in profiles.items():
        Image.new("RGB", (8, 9)).save(tmp_path / name, icc_profile=profile)
    Image.new("L", (8, 9)).save(tmp_path / "f.png", icc_profile=grey_profile(1.8, "Old screen"))
    found = read_headers(tmp_path, [*profiles, "f.png"])
    assert [header[2] for header in found if header is not None] == [
        "RGB, Adobe RGB (1998), converted",
        "RGB, Adobe RGB (1998), converted",
        "RGB, unreadable profile, left aside",
        "RGB",
        "RGB",
        "L, Old screen, converted",
    ]


def test_an_image_too_large_to_decode_has_a_header_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    Image.new("L", (8, 9)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert read_headers(tmp_path, ["large.png"]) == [(8, 9, "L")]
    assert not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # Pillow opens twice that at most
    assert read_headers(tmp_path, ["large.png"]) == [None]


def test_shared_photographs_are_those_of_one_content(tmp_path: Path) -> None:
    for name, content in (("a", b"12"), ("b", b"12"), ("c", b"13"), ("d", b"456")):
        (tmp_path / name).write_bytes(content)
    assert same_photographs(tmp_path, ["a", "b", "c", "d", "d", "a"]) == [["a", "b", "a"], ["d", "d"]]
    assert same_photographs(tmp_path, ["a", "c", "d"]) == []
