"""The shop drawn in code."""

import hashlib
import json
import os

import numpy as np
import pytest
import torch
from torch import nn

from catwalk.errors import CatwalkError
from catwalk.importers import IMPORTERS
from catwalk.importers.synthetic import CATEGORIES, POPULARITY_ORDER, draw, synthetic
from catwalk.shop.catalogue import Catalogue, fingerprint_files
from catwalk.shop.images import load_images, to_float
from catwalk.shop.interactions import Interactions
from catwalk.shop.labelled_images import LabelledImages

SMALL = {"items": 30, "users": 40, "train_images": 4, "test_images": 2}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "shop"
    synthetic(folder)
    return folder


def test_the_folder_reads_back(shop):
    catalogue = Catalogue.read(shop)
    assert catalogue.name == "Synthetic"
    assert np.bincount(catalogue.categories).tolist() == [40] * 6
    assert {"Sandal", "Sneaker"} < set(catalogue.category_names)
    interactions = Interactions.read(catalogue)
    assert interactions.num_users == 600
    assert 3 < len(interactions) / 600 < 4
    labelled = LabelledImages.read(catalogue, validation_share=0)
    assert np.bincount(labelled.categories[labelled.rows("train")]).tolist() == [150] * 6
    assert np.bincount(labelled.categories[labelled.rows("test")]).tolist() == [40] * 6
    files = [(shop / path).read_bytes() for path in (*catalogue.images, *labelled.images)]
    assert len(set(files)) == len(files)  # no image is on sale and in the training set at once
    info = json.loads((shop / "dataset.json").read_text())
    assert info["fingerprint"] == catalogue.fingerprint
    assert info["simulated_purchases"]["popularity_order"] == list(POPULARITY_ORDER)
    shares = np.bincount(catalogue.categories[interactions.items])
    assert catalogue.category_names[shares.argmax()] == "Sneaker"
    assert catalogue.category_names[shares.argmin()] == "Sandal"


def test_a_small_cnn_learns_the_categories_and_the_mean_images_do_not_suffice(shop, tmp_path):
    labelled = LabelledImages.read(Catalogue.read(shop), validation_share=0)
    levels = torch.tensor(load_images(shop, labelled.images, None, cache=tmp_path))
    images, categories = to_float(levels), torch.tensor(labelled.categories)
    train, test = torch.tensor(labelled.rows("train")), torch.tensor(labelled.rows("test"))

    means = torch.stack([images[train][categories[train] == category].mean(dim=0) for category in range(6)])
    nearest = torch.cdist(images[test].flatten(1), means.flatten(1)).argmin(dim=1)
    assert (nearest == categories[test]).float().mean() < 0.8

    def block(inputs, outputs):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)
        )

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(block(3, 12), block(12, 24), block(24, 48), nn.Flatten(), nn.Linear(48 * 16, 6))
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(5):
            for batch in train[torch.randperm(len(train))].split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(images[batch]), categories[batch]).backward()
                optimizer.step()
    network.eval()
    with torch.no_grad():
        accuracy = (network(images[test]).argmax(dim=1) == categories[test]).float().mean()
    assert accuracy > 0.9


def test_the_seed_decides_every_byte(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        synthetic(tmp_path / name, **SMALL, seed=seed)
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    for file in first:
        # The labels are the same for every seed, and so is the list of items; their pictures are not.
        assert (first[file] == other[file]) == (file in ("items.csv", "labelled_images.csv"))


def test_more_training_images_leave_the_shop_as_it_is(tmp_path):
    synthetic(tmp_path / "a", **SMALL)
    synthetic(tmp_path / "b", **SMALL | {"train_images": 9})
    first, more = contents(tmp_path / "a"), contents(tmp_path / "b")
    for file in first:
        if file.startswith("images/items") or file in ("items.csv", "interactions.csv"):
            assert first[file] == more[file]


def test_items_share_photographs(tmp_path):
    synthetic(tmp_path / "shop", **SMALL | {"items": 100, "users": 300}, photographs=12, mean_purchases=8)
    catalogue = Catalogue.read(tmp_path / "shop")
    assert len(catalogue) == 100
    assert len(list((tmp_path / "shop" / "images" / "items").iterdir())) == len(set(catalogue.images)) == 12
    for image in set(catalogue.images):
        rows = [row for row, other in enumerate(catalogue.images) if other == image]
        assert len(rows) in (8, 9)
        assert len(set(catalogue.categories[rows])) == 1
    assert 6.5 < len(Interactions.read(catalogue)) / 300 < 9.5
    info = json.loads((tmp_path / "shop" / "dataset.json").read_text())
    assert info["made_by"]["photographs"] == 12
    assert info["simulated_purchases"]["parameters"]["mean_purchases"] == 8
    digests = b"".join(hashlib.sha256((tmp_path / "shop" / image).read_bytes()).digest() for image in catalogue.images)
    assert fingerprint_files(tmp_path / "shop", catalogue.images) == hashlib.sha256(digests).hexdigest()


@pytest.mark.parametrize("side", [16, 48])
def test_the_size_of_the_images(tmp_path, side):
    synthetic(tmp_path / "shop", **SMALL, image_size=side)
    catalogue = Catalogue.read(tmp_path / "shop")
    assert load_images(tmp_path / "shop", catalogue.images, None).shape == (30, 3, side, side)


def test_articles_of_a_category_differ_and_lie_within_the_image():
    for category in range(len(CATEGORIES)):
        images = draw(np.full(60, category), 32, np.random.default_rng(category)).astype(float)
        means = images.mean(axis=(1, 2))
        assert (means.std(axis=0) > 3).all()
        # Between the pale corners there is something of another colour.
        corner = images[:, :2, :2].mean(axis=(1, 2))
        assert (np.abs(images - corner[:, None, None]).max(axis=(1, 2, 3)) > 60).mean() > 0.9


def test_many_images_are_drawn_as_few_are():
    categories = np.arange(600) % 6
    assert (
        draw(categories, 16, np.random.default_rng(0))[:256] == draw(categories[:256], 16, np.random.default_rng(0))
    ).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"items": 5}, "items must be at least 6, got 5"),
        ({"users": 0}, "users must be at least 1, got 0"),
        ({"train_images": 0}, "train_images must be at least 1, got 0"),
        ({"test_images": -1}, "test_images must be at least 1, got -1"),
        ({"image_size": 8}, r"image_size must lie in 16\.\.256, got 8"),
        ({"image_size": 257}, r"image_size must lie in 16\.\.256, got 257"),
        ({"seed": -2}, "seed must be at least 0, got -2"),
        ({"photographs": 8}, "photographs must be a multiple of 6 from 6 to the 30 items, got 8"),
        ({"photographs": 36}, "photographs must be a multiple of 6 from 6 to the 30 items, got 36"),
        ({"photographs": 0}, "photographs must be a multiple of 6 .*, got 0"),
        ({"mean_purchases": 0.5}, "mean_purchases must be at least 1, got 0.5"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path, arguments, message):
    with pytest.raises(CatwalkError, match=message):
        synthetic(tmp_path / "shop", **SMALL | arguments)
    assert os.listdir(tmp_path) == []


def test_a_folder_with_something_in_it_is_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(CatwalkError, match="not empty"):
        synthetic(tmp_path, **SMALL)
    assert contents(tmp_path) == {"mine.txt": b"precious"}


def test_the_summary_says_what_was_written(tmp_path, capsys):
    synthetic(tmp_path / "shop", **SMALL)
    shown = capsys.readouterr()
    for part in ("Sandal", "Sneaker", "40 users", "24 train, 12 test", "SIMULATED", "left out"):
        assert part in shown.out
    assert "30/30" in shown.err


def test_it_is_an_importer():
    assert IMPORTERS["synthetic"] is synthetic
