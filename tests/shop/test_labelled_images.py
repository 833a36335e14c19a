"""The images that a CNN learns from."""

import json
import shutil

import numpy as np
import pytest

from catwalk.errors import CatwalkError
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.labelled_images import LabelledImages

COUNTS = {"Bag": 20, "Hat": 7, "Shoe": 3}


@pytest.fixture
def catalogue(tmp_path):
    labels = [name for name, count in COUNTS.items() for _ in range(count)]
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "b.png").write_bytes(b"b")
    rows = [f"{number},{'ab'[number % 2]}.png,{label}" for number, label in enumerate(labels)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,image,category", *rows]) + "\n")
    (tmp_path / "dataset.json").write_text(json.dumps({"categories": ["Shoe", "Bag", "Hat", "Sock"]}))
    return Catalogue.read(tmp_path)


def write(catalogue, rows):
    text = "image,category,split\n" + "".join(f"{','.join(row)}\n" for row in rows)
    (catalogue.folder / "labelled_images.csv").write_text(text)


def counts(labelled, split):
    return np.bincount(labelled.categories[labelled.rows(split)], minlength=4).tolist()


def test_the_file_is_read_in_its_order(catalogue):
    rows = [
        ("b.png", "Hat", "test"),
        ("a.png", "Sock", "train"),
        ("a.png", "Bag", "validation"),
        ("b.png", "Bag", "train"),
    ]
    write(catalogue, rows)
    labelled = LabelledImages.read(catalogue, validation_share=0.5, test_share=0.5)
    assert labelled.images == ("b.png", "a.png", "a.png", "b.png")
    assert labelled.categories.tolist() == [2, 3, 1, 1]  # the catalogue's numbers
    assert labelled.category_names == catalogue.category_names
    assert [labelled.rows(split).tolist() for split in ("train", "validation", "test")] == [[1, 3], [2], [0]]


def test_without_validation_images_a_share_of_every_category_is_held_out(catalogue):
    write(
        catalogue, [("a.png", "Bag", "train")] * 20 + [("a.png", "Hat", "train")] * 10 + [("b.png", "Hat", "test")] * 5
    )
    labelled = LabelledImages.read(catalogue, validation_share=0.2, test_share=0.9)
    assert counts(labelled, "validation") == [0, 4, 2, 0]
    assert counts(labelled, "train") == [0, 16, 8, 0]
    assert labelled.rows("test").tolist() == list(range(30, 35))
    assert len(LabelledImages.read(catalogue, validation_share=0).rows("validation")) == 0


def test_without_the_file_the_catalogue_is_divided(catalogue):
    labelled = LabelledImages.read(catalogue, validation_share=0.25, test_share=0.2)
    assert labelled.images == catalogue.images
    assert labelled.categories.tolist() == catalogue.categories.tolist()
    assert counts(labelled, "test") == [1, 4, 1, 0]  # of 3, 20 and 7
    assert counts(labelled, "validation") == [0, 4, 2, 0]  # of the 2, 16 and 6 that are left
    assert counts(labelled, "train") == [2, 12, 4, 0]
    everything = np.concatenate([labelled.rows(split) for split in ("train", "validation", "test")])
    assert sorted(everything.tolist()) == list(range(30))


def test_the_seed_decides_what_is_held_out(catalogue):
    divisions = [LabelledImages.read(catalogue, 0.25, 0.2, seed).splits.tolist() for seed in (0, 0, 1)]
    assert divisions[0] == divisions[1] != divisions[2]


def test_who_is_held_out_is_random(catalogue):
    held_out = np.mean([LabelledImages.read(catalogue, 0, 0.5, seed).splits == 2 for seed in range(400)], axis=0)
    assert (abs(held_out[:20] - 0.5) < 5 * np.sqrt(0.25 / 400)).all()


def test_the_fingerprint_changes_with_what_a_network_learns_from(catalogue, tmp_path_factory):
    rows = [("a.png", "Bag", "train"), ("b.png", "Hat", "train"), ("b.png", "Hat", "validation")]
    write(catalogue, rows)
    before = LabelledImages.read(catalogue).fingerprint
    copy = tmp_path_factory.mktemp("copy") / "shop"
    shutil.copytree(catalogue.folder, copy)
    assert LabelledImages.read(Catalogue.read(copy)).fingerprint == before
    for changed in (
        [("a.png", "Hat", "train"), *rows[1:]],
        [("a.png", "Bag", "test"), *rows[1:]],
        [("b.png", "Bag", "train"), *rows[1:]],
        rows[::-1],
    ):
        write(catalogue, changed)
        assert LabelledImages.read(catalogue).fingerprint != before
    write(catalogue, rows)
    assert LabelledImages.read(catalogue).fingerprint == before
    (catalogue.folder / "a.png").write_bytes(b"A")
    assert LabelledImages.read(catalogue).fingerprint != before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a.png", "Glove", "train"), "column category: there is no category 'Glove'; the categories are Shoe, Bag"),
        (("a.png", "Bag", "dev"), "split 'dev' is none of train, validation, test"),
        (("c.png", "Bag", "train"), r"image .*c\.png of row 2 of labelled_images\.csv does not exist"),
        (("../a.png", "Bag", "train"), r"image '\.\./a\.png' of row 2 of labelled_images\.csv must be a path below"),
        (("a.png", "", "train"), "row 2: 'category' is empty"),
    ],
)
def test_what_is_wrong_is_said(catalogue, row, message):
    write(catalogue, [("a.png", "Bag", "train"), row])
    with pytest.raises(CatwalkError, match=message):
        LabelledImages.read(catalogue)


@pytest.mark.parametrize("argument", ["validation_share", "test_share"])
@pytest.mark.parametrize("share", [-0.1, 1, float("nan")])
def test_shares_out_of_range(catalogue, argument, share):
    with pytest.raises(CatwalkError, match=rf"{argument} must lie in \[0, 1\), got"):
        LabelledImages.read(catalogue, **{argument: share})
