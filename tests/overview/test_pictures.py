"""Pictures that show what they should, of any shop."""

import hashlib
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from catwalk.overview import show
from catwalk.overview.facts import CategoryFacts, PurchaseFacts
from catwalk.overview.pictures import DRAWN_CATEGORIES, SAMPLES, TILE, _long_tail, _purchases_per_user, draw_samples
from catwalk.shop.catalogue import Catalogue


def write_images(folder: Path, levels: list[int]) -> tuple[str, ...]:
    """Write images of one colour each, which no text has."""
    paths = tuple(f"{number}.png" for number in range(len(levels)))
    for path, level in zip(paths, levels, strict=True):
        Image.new("RGB", (5, 5), (level, 0, 99)).save(folder / path)
    return paths


def pixels(path: Path) -> np.ndarray:
    """Return the levels of what :func:`write_images` wrote, and 0 elsewhere, int64 ``(H, W)``."""
    with Image.open(path) as image:
        red, green, blue = np.asarray(image.convert("RGB")).astype(np.int64).transpose(2, 0, 1)
    return np.where((green == 0) & (blue == 99), red, 0)


class Categories:
    """An overview of which only the categories are looked at."""

    def __init__(self, names: tuple[str, ...], categories: np.ndarray) -> None:
        counts = np.bincount(categories, minlength=len(names)).tolist()
        self.categories = tuple(CategoryFacts(name, count) for name, count in zip(names, counts, strict=True))


def catalogue_of(folder: Path, images: tuple[str, ...], categories: list[int], names: tuple[str, ...]) -> Catalogue:
    ids = tuple(f"item {image}" for image in images)
    return Catalogue(folder, "Shop", ids, images, np.array(categories, dtype=np.int64), names)


def test_samples_are_the_items_of_the_smallest_keys_whatever_their_order(tmp_path: Path) -> None:
    levels = list(range(100, 124, 2))
    images = write_images(tmp_path, levels)
    catalogue = catalogue_of(tmp_path, images, [0] * len(images), ("Sandal",))
    overview = Categories(catalogue.category_names, catalogue.categories)
    sheets = draw_samples(overview, catalogue, tmp_path)
    assert [path.name for path in sheets] == ["samples.png"]
    first = sheets[0].read_bytes()

    def key(image: str) -> int:
        return int.from_bytes(hashlib.sha256(f"item {image}".encode()).digest()[:8], "little", signed=True)

    expected = [levels[images.index(image)] for image in sorted(images, key=key)[:SAMPLES]]
    rows = pixels(sheets[0])
    line = rows[(rows[:, :, None] == levels).any(axis=2).sum(axis=1).argmax()]
    drawn = [level for number, level in enumerate(line) if level in levels and line[number - 1] != level]
    assert drawn == expected
    assert [(rows == level).sum() for level in expected] == [TILE * TILE] * SAMPLES

    order = np.random.default_rng(0).permutation(len(images))
    shuffled = replace(
        catalogue,
        item_ids=tuple(catalogue.item_ids[number] for number in order),
        images=tuple(images[number] for number in order),
    )
    assert draw_samples(overview, shuffled, tmp_path)[0].read_bytes() == first


def test_many_categories_go_on_several_sheets_and_those_without_items_on_none(tmp_path: Path) -> None:
    names = tuple(f"{number} $x$ 鞋 \\frac{{ {'long ' * 20}" for number in range(DRAWN_CATEGORIES + 3))
    images = write_images(tmp_path, [128] * (len(names) - 1))
    catalogue = catalogue_of(tmp_path, images, list(range(1, len(names))), names)
    overview = Categories(names, catalogue.categories)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sheets = draw_samples(overview, catalogue, tmp_path)
    assert [path.name for path in sheets] == ["samples.png", "samples-02.png"]
    drawn = [(pixels(sheet) == 128).sum() // TILE**2 for sheet in sheets]
    assert drawn == [DRAWN_CATEGORIES, 2]


def test_an_image_that_cannot_be_decoded_is_a_crossed_tile(tmp_path: Path) -> None:
    images = write_images(tmp_path, [128, 128])
    (tmp_path / images[1]).write_bytes((tmp_path / images[0]).read_bytes()[:45])
    catalogue = catalogue_of(tmp_path, images, [0, 0], ("Sandal",))
    sheet = draw_samples(Categories(("Sandal",), catalogue.categories), catalogue, tmp_path)[0]
    assert (pixels(sheet) == 128).sum() == TILE**2
    with Image.open(sheet) as image:
        colours = {colour: count for count, colour in image.convert("RGB").getcolors(10000)}
    assert colours[0xE4, 0xE4, 0xE4] > 0.8 * TILE**2
    assert colours[0x9A, 0x9A, 0x9A] > 2 * TILE


def test_tall_and_wide_images_are_shown_whole(tmp_path: Path) -> None:
    for name, size in (("tall.png", (30, 60)), ("wide.png", (400, 100))):
        Image.new("RGB", size, (128, 0, 99)).save(tmp_path / name)
    catalogue = catalogue_of(tmp_path, ("tall.png", "wide.png"), [0, 1], ("A", "B"))
    sheet = pixels(draw_samples(Categories(("A", "B"), catalogue.categories), catalogue, tmp_path)[0])
    assert (sheet == 128).sum() == TILE * TILE // 2 + TILE * TILE // 4


@pytest.mark.parametrize("count", [1, 2, 7, 3000])
def test_the_long_tail_is_as_high_as_the_purchases(count: int) -> None:
    per_item = np.random.default_rng(count).permutation(np.arange(count) + 1)
    top = max(1, round(count / 5))
    facts = PurchaseFacts(1, count, 0, 1.0, (), 1.0, 1.0, 1, 1.0, 1.0, count, top, 0.5, 1, 0)
    axes = _long_tail(per_item, facts, "purchases").axes[0]
    steps = [patch.get_data() for patch in axes.patches]
    heights = np.concatenate([step.values for step in steps])
    starts = np.concatenate([step.edges[:-1] for step in steps])
    # Every step is as high as the item with which it begins, and none is longer than a 500th of the shop.
    assert heights.tolist() == [count + 1 - (start + 0.5) for start in starts]
    assert max(np.diff([*starts, count + 0.5])) <= max(1, count / 500)
    assert (steps[0].edges[0], steps[0].edges[-1], steps[-1].edges[-1]) == (0.5, top + 0.5, count + 0.5)


@pytest.mark.parametrize("per_user", [[1], [1, 1, 2, 5], [3] * 200 + [90], [2] * 10])
def test_bars_hold_all_users(per_user: list[int]) -> None:
    axes = _purchases_per_user(np.array(per_user), "purchases").axes[0]
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in axes.patches}
    last = max(heights)
    assert sum(heights.values()) == len(per_user)
    for number in range(1, last):
        assert heights[number] == per_user.count(number)


def test_settings_of_matplotlib_are_as_before(tmp_path: Path, shop: Path) -> None:
    before = dict(matplotlib.rcParams)
    pyplot = sys.modules.get("matplotlib.pyplot")
    numbers = pyplot.get_fignums() if pyplot else []
    show(shop, tmp_path / "overview")
    assert dict(matplotlib.rcParams) == before
    assert (pyplot.get_fignums() if pyplot else []) == numbers
