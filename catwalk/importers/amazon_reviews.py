"""Amazon's reviews, in the files that the McAuley Lab releases: those of 2014, of 2018 and of 2023.

The reviews are Amazon's customers', the images Amazon's and its sellers'; the lab releases the data for research.

References:
    R. He, J. McAuley (2016): Ups and Downs: Modeling the Visual Evolution of Fashion Trends with One-Class
    Collaborative Filtering. WWW.
    J. Ni, J. Li, J. McAuley (2019): Justifying Recommendations using Distantly-Labeled Reviews and Fine-Grained
    Aspects. EMNLP.
    Y. Hou, J. Li, Z. He, A. Yan, X. Chen, J. McAuley (2024): Bridging Language and Items for Retrieval and
    Recommendation. arXiv:2403.03952.
"""

import html
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console

from catwalk.errors import CatwalkError
from catwalk.importers.dataset_writer import DatasetWriter, check_destination
from catwalk.importers.download import Fetched, fetch_images
from catwalk.importers.items import (
    DAMAGED_ITEMS,
    DAMAGED_PURCHASES,
    TIDIED_CATEGORIES,
    Items,
    check_images,
    refuse_strangers,
    tidy_categories,
)
from catwalk.importers.json_lines import Records
from catwalk.importers.purchases import IntArray, Numbering, Purchases, check_core
from catwalk.importers.summary import print_summary
from catwalk.shop.ids import plain_id
from catwalk.shop.times import FACTOR, UNITS, era, units_of

UNKNOWN, OTHER_CATEGORY, NO_IMAGE = -1, -2, -3
"""Places of items that are not on sale."""

NOT_ON_SALE = {
    UNKNOWN: "reviews of items that the metadata lack",
    OTHER_CATEGORY: "reviews of items of other categories",
    NO_IMAGE: "reviews of items without an image",
}
"""Why a review is left out, by the place of its item."""

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")
"""Of files in a folder of images, the first that is there."""

ITEM_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Ids of items become names of files."""

LONGEST_NAME = 80
"""Characters of the longest name of a category; what is longer is a description that strayed into the path."""

PLACEHOLDER = "/no-img"
"""Occurs in the addresses of the picture that Amazon shows where there is none."""

FLOAT_TIMES = "times of reviews that were whole numbers, written as floats"
"""Names of their counts."""

EXAMPLES = 1000
"""Ids of unknown items of which one is shown where most are unknown."""

BATCH = 1 << 16
"""Reviews that are kept as Python objects at a time."""


@dataclass(frozen=True)
class Release:
    """One of the lab's releases: its fields, and how it is cited.

    Attributes:
        year: Its name.
        citation: Who is to be cited.
        item, user, time, rating: The fields of a review.
        unit: In what the times are given, as NumPy calls it.
    """

    year: str
    citation: str
    item: str = "asin"
    user: str = "reviewerID"
    time: str = "unixReviewTime"
    rating: str = "overall"
    unit: str = "s"


R2014 = Release("2014", "R. He, J. McAuley, Ups and Downs (WWW 2016)")
R2018 = Release("2018", "J. Ni, J. Li, J. McAuley, Justifying Recommendations (EMNLP 2019)")
R2023 = Release(
    "2023",
    "Y. Hou et al., Bridging Language and Items for Retrieval and Recommendation (arXiv:2403.03952, 2024)",
    item="parent_asin",
    user="user_id",
    time="timestamp",
    rating="rating",
    unit="ms",
)


@dataclass
class Goods:
    """The items that are asked for, in the order of the metadata.

    Attributes:
        release: Which release the metadata are of.
        ids: Their ids, N of them.
        categories: Their categories.
        titles: Their titles, empty where there is none.
        urls: The addresses of their images, empty where there is none.
        places: The place of every item of the metadata, or why it is not among them.
        imageless: Those that are known to have no image, whose reviews are left out only once they were counted.
        left_out: How many lines and items are left out, by cause.
        repaired: How many ids and times were written in another way, by kind.
    """

    release: Release = R2014
    ids: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    imageless: frozenset[str] = frozenset()
    left_out: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)


def amazon_reviews(
    dest: Path,
    *,
    reviews: Path,
    metadata: Path,
    images: Path | None = None,
    category: str | None = None,
    level: int = 2,
    core: int = 5,
    one_pass: bool = False,
    min_rating: float | None = None,
    skip_malformed: bool = False,
    allow_truncated: bool = False,
    requests_per_second: float = 10.0,
    downloads: Path | None = None,
    leave_out_failed: bool = False,
    leave_out_damaged: bool = False,
) -> None:
    """Write Amazon's reviews (2014, 2018 or 2023) as a dataset folder; images are fetched, or taken from a folder.

    A review counts as a purchase. Items of other categories, without an image, or that nobody reviewed are left out
    and counted; so are all but the earliest review of an item by the same user.

    Args:
        dest: The dataset folder to write; it must not exist, or be empty.
        reviews: File of reviews, such as reviews_Clothing_Shoes_and_Jewelry.json.gz, gzipped or not.
        metadata: File of the items' metadata, such as meta_Clothing_Shoes_and_Jewelry.json.gz.
        images: Folder with the images, named by item, such as B000BGPVFW.jpg; by default they are fetched from the
            addresses in the metadata.
        category: Keep the items whose category path begins so, such as "Clothing, Shoes & Jewelry > Women"; all by
            default.
        level: Which element of the path behind CATEGORY names an item's category, from 1; the last where the path is
            shorter. Women > Clothing > Dresses has Dresses at level 2.
        core: Keep users and items with at least this many purchases, repeated until nothing changes.
        one_pass: Drop users and then items with fewer than CORE purchases once only, as the paper's code does.
        min_rating: Leave out reviews with fewer stars.
        skip_malformed: Leave malformed lines out and count them, rather than end with an error.
        allow_truncated: Take images of the folder IMAGES that end too early as far as they go, rather than refuse them.
        requests_per_second: At most so many requests a second are sent when images are fetched.
        downloads: Folder in which fetched images stay; by default a hidden one beside DEST, which is removed when the
            dataset folder is complete, and from which an interrupted import goes on.
        leave_out_failed: Leave out and count items whose image cannot be fetched, rather than end with an error.
        leave_out_damaged: Leave out and count items whose image cannot be decoded, rather than end with an error.

    Raises:
        CatwalkError: If an argument is out of range, DEST is not empty, a file is missing or malformed, or images
            cannot be fetched.
    """
    check_destination(dest)
    prefix = _parse_category(category)
    if level < 1:
        raise CatwalkError(f"level must be at least 1, got {level}")
    check_core(core)
    if not requests_per_second > 0:
        raise CatwalkError(f"requests_per_second must be above 0, got {requests_per_second:g}")
    if images is not None and downloads is not None:
        raise CatwalkError("downloads: nothing is fetched where images are given; leave one of the two out")
    files = None if images is None else find_images(images)
    goods = read_metadata(metadata, prefix, level, skip_malformed)
    has_image = {item for item, url in zip(goods.ids, goods.urls, strict=True) if url} if files is None else {*files}
    without_image = [item for item in goods.ids if item not in has_image]
    if without_image:
        goods.left_out["items without an image"] = len(without_image)
    if images is None:
        goods.places |= dict.fromkeys(without_image, NO_IMAGE)
    else:
        goods.imageless = frozenset(without_image)
    purchases = read_reviews(reviews, metadata, goods, min_rating, skip_malformed)
    if images is not None:
        # Of what would be in the core: nobody has the images of the rest.
        wanted = purchases.without_repeats().core(core, one_pass).items_bought
        named = [item for item in goods.ids if item in wanted]
        absent = [row for row, item in enumerate(named) if item not in has_image]
        check_images(absent, Items(named, [f"{item}.jpg" for item in named]), metadata, images)
        goods.places |= dict.fromkeys(without_image, NO_IMAGE)
        if without_image:
            purchases = purchases.of_items(has_image, NOT_ON_SALE[NO_IMAGE])
    purchases = purchases.without_repeats()
    candidates = purchases.core(core, one_pass)
    candidates.check_some_left(reviews)
    places, lost = goods.places, Counter[str]()
    with DatasetWriter(dest) as writer:
        kept_downloads = downloads if downloads is not None else writer.dest.with_name(f".{writer.dest.name}.downloads")
        if files is None:
            urls = {item: goods.urls[places[item]] for item in goods.ids if item in candidates.items_bought}
            fetched = fetch_images(urls.values(), kept_downloads, requests_per_second)
            files = {item: fetched.files[url] for item, url in urls.items() if url in fetched.files}
            lost = _count_lost(urls, fetched, leave_out_failed, kept_downloads)
            goods.left_out.update(lost)
            # What is lost takes others out of the core, and never brings any into it.
            on_sale = [item for item in goods.ids if item in files or item not in urls]
            candidates = purchases.of_items(on_sale, "reviews of items whose image cannot be had").core(core, one_pass)
            candidates.check_some_left(reviews)
        bought = candidates.items_bought
        items = [item for item in goods.ids if item in bought]
        goods.left_out["items without enough reviews"] = (
            sum(place >= 0 for place in places.values()) - len(items) - lost.total()
        )
        paths = {item: f"images/{item}{files[item].suffix.lower()}" for item in items}
        root = kept_downloads if images is None else images
        sources = [files[item].relative_to(root).as_posix() for item in items]
        damaged = writer.copy_images(
            root,
            sources,
            list(paths.values()),
            allow_truncated=allow_truncated,
            leave_out_damaged=leave_out_damaged,
        )
        if damaged:
            broken = {items[row] for row in damaged}
            copied = [item for item in items if item not in broken]
            goods.left_out[DAMAGED_ITEMS] = len(damaged)
            candidates = candidates.of_items(copied, DAMAGED_PURCHASES).core(core, one_pass)
            candidates.check_some_left(reviews)
            items = [item for item in copied if item in candidates.items_bought]
            goods.left_out["items without enough reviews"] += len(copied) - len(items)
            writer.remove_images(paths[item] for item in sorted({*copied} - {*items}))
        labels = [goods.categories[places[item]] for item in items]
        titles = [goods.titles[places[item]] for item in items]
        writer.write_items(items, [paths[item] for item in items], labels, titles)
        writer.write_interactions(*candidates.columns())
        writer.describe(
            name=f"Amazon {prefix[-1]}" if prefix else f"Amazon {goods.release.year}",
            source=f"Amazon's reviews, McAuley Lab, release of {goods.release.year}; {goods.release.citation}",
            licence="none is assigned; the lab makes the data available primarily for research",
            categories=sorted(set(labels)),
            made_by={
                "importer": "amazon-reviews",
                "category": category,
                "level": level,
                "core": core,
                "one_pass": one_pass,
                "min_rating": min_rating,
            },
            left_out={**goods.left_out, **candidates.left_out},
            repaired=candidates.repaired,
            remarks=candidates.remarks,
        )
    if images is None and downloads is None:
        shutil.rmtree(kept_downloads, ignore_errors=True)
    print_summary(writer, Console())


def find_images(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by their names without the endings."""
    if not folder.is_dir():
        raise CatwalkError(f"images: there is no folder {folder}")
    found: dict[str, Path] = {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file())
    for ending in reversed(IMAGE_ENDINGS):
        found |= {name[: -len(ending)]: folder / name for name in names if name.lower().endswith(ending)}
    return found


def read_metadata(path: Path, prefix: Sequence[str], level: int, skip_malformed: bool = False) -> Goods:
    """Read the items whose category path begins with ``prefix``; of several lines of an item the first counts."""
    goods = Goods()
    beginnings: Counter[str] = Counter()
    with Records(path, skip_malformed) as records:
        for number, record in enumerate(records):
            if number == 0:
                goods.release = _release_of_metadata(record, path)
            elif goods.release is R2014 and ("category" in record or "imageURL" in record):
                goods.release = R2018  # whose first record may have no field of its own
            item = record.get(goods.release.item)
            if type(item) is str and not ITEM_ID.fullmatch(item) and ITEM_ID.fullmatch(plain_id(item)):
                item = plain_id(item)
                goods.repaired["ids of items in the metadata, spelled in another way"] += 1
            if type(item) is not str or not ITEM_ID.fullmatch(item):
                records.refuse(f"has no id of an item in {goods.release.item!r} but {str(item)[:80]!r}")
                continue
            if item in goods.places:
                goods.left_out["metadata lines that repeat an item"] += 1
                continue
            given = record.get("title")
            title = given if type(given) is str else ""
            paths = _category_paths(record)
            own = next((names for names in paths if names and names[: len(prefix)] == list(prefix)), None)
            is_code = "getTime" in title
            if own is None or is_code:
                cause = "items of other categories" if any(paths) else "items without a category"
                goods.left_out["items whose metadata are a page's code" if is_code else cause] += 1
                goods.places[item] = OTHER_CATEGORY
                beginnings.update({" > ".join(names[:2]) for names in paths if names})
                continue
            goods.places[item] = len(goods.ids)
            goods.ids.append(item)
            goods.categories.append(own[min(len(prefix) + level, len(own)) - 1])
            goods.titles.append(_plain(title))
            goods.urls.append(_image_url(record))
    if not goods.ids:
        if not beginnings:
            raise CatwalkError(f"{path}: no item has a category, by which catwalk data amazon-reviews chooses items")
        known = "; ".join(f"{name} ({count:,})" for name, count in beginnings.most_common(5))
        raise CatwalkError(
            f"category: no item of {path} has a path that begins with {' > '.join(prefix)!r}; the most frequent "
            f"beginnings are {known}"
        )
    goods.categories, tidied = tidy_categories(goods.categories, path, "categories")
    goods.repaired[TIDIED_CATEGORIES] += tidied
    if records.malformed:
        goods.left_out["malformed lines of metadata"] = records.malformed
    return goods


def read_reviews(
    path: Path, metadata: Path, goods: Goods, min_rating: float | None = None, skip_malformed: bool = False
) -> Purchases:
    """Read the reviews of the items on sale, of which there may be tens of millions.

    Raises:
        CatwalkError: If a line is malformed, or most reviews are of items that the metadata lack.
    """
    release, places = goods.release, goods.places
    first, latest = era(release.unit)
    kept = _Columns()
    left_out: Counter[str] = Counter()
    strangers: set[str] = set()
    total = 0
    with Records(path, skip_malformed) as records:
        for number, record in enumerate(records):
            if number == 0:
                _check_release_of_reviews(record, path, release)
            item, user, time = record.get(release.item), record.get(release.user), record.get(release.time)
            if type(item) is not str or type(user) is not str or not _is_name(user):
                records.refuse(f"is no review: it needs texts in {release.item!r} and {release.user!r}")
                continue
            if type(time) is not int or not first <= time < latest:
                given, time = time, _repaired_time(time, release.unit)
                goods.repaired[FLOAT_TIMES] += type(given) is float and time == given
                goods.repaired[f"times of reviews that are not in {UNITS[release.unit]}"] += time not in (0, given)
            if not 0 < time < latest:
                time = given
                records.refuse(f"has no time in {release.time!r} but {str(time)[:40]!r}")
                continue
            total += 1
            place = places.get(item, UNKNOWN)
            if place == UNKNOWN and (plain := plain_id(item)) != item:
                place = places.get(plain, UNKNOWN)
                goods.repaired["ids of items in reviews, spelled in another way"] += place != UNKNOWN
            if place < 0:
                left_out[NOT_ON_SALE[place]] += 1
                if place == UNKNOWN and len(strangers) < EXAMPLES:
                    strangers.add(item)
                continue
            if min_rating is not None and item not in goods.imageless:
                rating = record.get(release.rating)
                if type(rating) is not float and type(rating) is not int:
                    records.refuse(f"has no number of stars in {release.rating!r} but {str(rating)[:40]!r}")
                    continue
                if rating < min_rating:
                    left_out[f"reviews with fewer than {min_rating:g} stars"] += 1
                    continue
            kept.add(user, place, time)
    if records.malformed:
        left_out["malformed lines of reviews"] = records.malformed
    unknown = left_out[NOT_ON_SALE[UNKNOWN]]
    if 2 * unknown > total:
        refuse_strangers(unknown, total, sorted(strangers), places, path, metadata, what="reviews")
    (user_ids, users), items, times = kept.finish()
    moments = times.astype(f"datetime64[{release.unit}]")
    purchases = Purchases(user_ids, goods.ids, users, items, moments, dict(left_out), dict(goods.repaired))
    return purchases.tidied(goods.ids, path)


def _is_name(text: str) -> bool:
    """Return whether a text can be an id: something is left of it without what is invisible, and on one line."""
    plain = text if text.isprintable() else plain_id(text)
    return bool(plain) and plain.isprintable()


def _repaired_time(time: object, unit: str) -> int:
    """Return a time in a unit of Unix time, whichever unit it is in, be it written as a float; 0 if it is none."""
    if type(time) is float and time.is_integer():
        time = int(time)
    if type(time) is not int:
        return 0
    if not 0 < time < 2**63:
        return 0
    place, own = int(units_of(np.array([time]))[0]), list(UNITS).index(unit)
    if place < 0:
        return time
    return time * FACTOR ** (own - place) if place < own else time // FACTOR ** (place - own)


class _Columns:
    """Reviews as they come, of which at most a batch are Python objects."""

    def __init__(self) -> None:
        self._numbering = Numbering()
        self._users: list[str] = []
        self._items: list[int] = []
        self._times: list[int] = []
        self._parts: list[tuple[NDArray[np.int32], NDArray[np.int64]]] = []

    def add(self, user: str, item: int, time: int) -> None:
        """Append a review."""
        self._users.append(user)
        self._items.append(item)
        self._times.append(time)
        if len(self._users) == BATCH:
            self._pack()

    def _pack(self) -> None:
        self._numbering.add(pa.array(self._users, pa.string()))
        self._parts.append((np.array(self._items, np.int32), np.array(self._times, np.int64)))
        for column in (self._users, self._items, self._times):
            column.clear()

    def finish(self) -> tuple[tuple[list[str], IntArray], IntArray, IntArray]:
        """Return the users' ids and numbers, the items, and the times."""
        self._pack()
        items, times = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        return self._numbering.finish(), items.astype(np.int64), times


def _count_lost(urls: Mapping[str, str], fetched: Fetched, leave_out_failed: bool, folder: Path) -> Counter[str]:
    """Count the items without an image by cause, or raise a CatwalkError if others may be had by trying again."""
    causes = Counter(fetched.failed[url] for url in urls.values() if url in fetched.failed)
    if causes and not leave_out_failed:
        listed = "; ".join(f"{count:,} {cause}" for cause, count in causes.most_common())
        raise CatwalkError(
            f"{causes.total():,} of {len(urls):,} images could not be fetched ({listed}); the others stay in {folder}: "
            "run the command again to go on from there, or give --leave-out-failed to do without these items"
        )
    lost = Counter({f"items whose image could not be fetched ({cause})": count for cause, count in causes.items()})
    lost["items whose image is gone"] = sum(url in fetched.gone for url in urls.values())
    return lost


def _parse_category(text: str | None) -> list[str]:
    if text is None:
        return []
    names = [_plain(name) for name in text.split(">")]
    if not all(names):
        raise CatwalkError(f"category must be names with > between them, such as 'Clothing > Women', got {text!r}")
    return names


def _release_of_metadata(record: Mapping[str, Any], path: Path) -> Release:
    """Tell by the fields of a file's first record which release it is of."""
    if "parent_asin" in record:
        return R2023
    if "reviewerID" in record or "asin" not in record:
        raise CatwalkError(
            f"metadata: {path} holds no metadata of items; the fields of its first record are "
            f"{', '.join(map(str, record)) or 'none'}"
        )
    return R2014


def _check_release_of_reviews(record: Mapping[str, Any], path: Path, release: Release) -> None:
    """Raise a CatwalkError unless a file's first record is a review of the same release as the metadata."""
    years = {"reviewerID": "2014 or 2018", "user_id": "2023"}
    found = next((name for name in years if name in record), None)
    if found is None:
        fields = ", ".join(map(str, record)) or "none"
        raise CatwalkError(f"reviews: {path} holds no reviews; the fields of its first record are {fields}")
    if found != release.user:
        raise CatwalkError(
            f"reviews: {path} is of the release of {years[found]}, and the metadata are of that of {release.year}"
        )


def _category_paths(record: Mapping[str, Any]) -> list[list[str]]:
    """Return an item's category paths: 2014 gives it several, 2018 and 2023 one, perhaps with other texts behind it."""
    given = record.get("categories", record.get("category"))
    if type(given) is not list:
        return []
    paths = given if given and type(given[0]) is list else [given]
    return [_names(path) for path in paths if type(path) is list]


def _names(path: list[Any]) -> list[str]:
    names = []
    for element in path:
        name = _plain(element) if type(element) is str else ""
        if not plain_id(name) or len(name) > LONGEST_NAME or "<" in name:
            break
        names.append(name)
    return names


def _plain(text: str) -> str:
    """Return a text with its HTML entities resolved, on one line, without what cannot be printed."""
    text = " ".join(html.unescape(text).split())
    return text if text.isprintable() else "".join(filter(str.isprintable, text)).strip()


def _image_url(record: Mapping[str, Any]) -> str:
    """Return the address of an item's first image, of moderate size where there is a choice, or nothing."""
    found: Any = record.get("imUrl")
    for name in ("imageURLHighRes", "imageURL", "image"):
        given = record.get(name)
        if not found and type(given) is list and given:
            found = given[0]
    given = record.get("images")
    if type(given) is list:  # 2023: each in several sizes
        views = [view for view in given if type(view) is dict]
        views.sort(key=lambda view: view.get("variant") != "MAIN")
        found = next((view[size] for view in views for size in ("large", "hi_res", "thumb") if view.get(size)), "")
    if type(found) is not str or PLACEHOLDER in found:
        return ""
    return found.strip()
