"""Anyone's own shop: product photographs in a folder, and a log of purchases where there is one."""

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console

from catwalk.catalogue import check_image_paths
from catwalk.errors import CatwalkError
from catwalk.tables import read_table, scan_table
from datamodules.importers.dataset_writer import DatasetWriter, check_destination, print_summary
from datamodules.importers.purchases import (
    LONGEST_ID,
    Numbering,
    Purchases,
    check_core,
    check_ids,
    first_misfit,
    is_file_name,
)

SUFFIXES = frozenset(
    ".avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split()  # noqa: SIM905
)
"""Endings of the files that are images in a tree of folders, in small letters."""

TIMES = (
    pa.int64(),
    pa.float64(),
    pa.date32(),
    *(pa.timestamp(unit, zone) for zone in (None, "UTC") for unit in ("s", "us", "ns")),
)
"""What a column of times may hold, one and the same in all rows."""


@dataclass
class Items:
    """What is on sale.

    Attributes:
        ids: The shop's own ids, N of them.
        images: Where their images are, relative to the source.
        categories: The names of their categories.
        titles: Their titles, or none at all.
        left_out: How many things are left out, by cause.
        without_image: The ids of the items that are left out for want of an image.
    """

    ids: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    without_image: list[str] = field(default_factory=list)

    def take(self, rows: list[int]) -> "Items":
        """Keep the items at these places."""

        def kept(column: list[str]) -> list[str]:
            return [column[row] for row in rows] if column else []

        return replace(
            self,
            ids=kept(self.ids),
            images=kept(self.images),
            categories=kept(self.categories),
            titles=kept(self.titles),
        )


def folder(
    source: Path,
    dest: Path,
    items: Path | None = None,
    item: str = "item_id",
    image: str = "image",
    category: str = "category",
    title: str | None = None,
    purchases: Path | None = None,
    user: str = "user_id",
    purchased_item: str | None = None,
    time: str | None = None,
    core: int = 1,
    one_pass: bool = False,
    allow_truncated: bool = False,
    name: str | None = None,
    origin: str = "not stated",
    licence: str = "not stated",
) -> None:
    """Write your own shop as a dataset folder: photographs with categories, and a log of purchases.

    Without ITEMS the folders in SOURCE are the categories, and an item's id is the name of its image's file.

    Args:
        source: Folder of the images: SOURCE/Category/item.jpg, or in any order where ITEMS lists them.
        dest: The dataset folder to write; it must not exist, or be empty.
        items: Table of the items, CSV, TSV or Parquet, with the paths of their images below SOURCE.
        item: Column of the items' ids, in both tables.
        image: Column of ITEMS with the path of an item's image; items without one are left out and counted.
        category: Column of ITEMS with the category.
        title: Column of ITEMS with a title, if there is one.
        purchases: Table of purchases (or clicks), CSV, TSV or Parquet.
        user: Column of PURCHASES with the user's id.
        purchased_item: Column of PURCHASES with the item's id, where it has another name than in ITEMS.
        time: Column of PURCHASES with numbers, or dates and times in ISO 8601; without it the order of rows counts.
        core: Keep users and items with at least this many purchases, repeated until nothing changes; with 1, items
            that nobody bought stay.
        one_pass: Drop users and then items with fewer than CORE purchases once only, as the paper's code does.
        allow_truncated: Take images that end too early as far as they go, rather than refuse them.
        name: The shop's name, for tables; that of the folder SOURCE by default.
        origin: Where the data comes from and who is to be cited.
        licence: Under which licence it may be used.

    Raises:
        CatwalkError: If an argument is out of range, DEST is not empty, or a file is missing or malformed.
    """
    check_destination(dest)
    check_core(core)
    names_column = {
        "item": item != "item_id" and purchases is None,  # a column of PURCHASES as well
        "image": image != "image",
        "category": category != "category",
        "title": title is not None,
    }
    if items is None and any(names_column.values()):
        raise CatwalkError(
            f"{next(what for what in names_column if names_column[what])} names a column of ITEMS: give --items"
        )
    given = {
        "user": user != "user_id",
        "purchased_item": purchased_item is not None,
        "time": time is not None,
        "core": core > 1,
        "one_pass": one_pass,
    }
    if purchases is None and any(given.values()):
        raise CatwalkError(f"{next(what for what in given if given[what])} is about purchases: give --purchases")
    if not source.is_dir():
        raise CatwalkError(f"source: there is no folder {source}")
    if items is None:
        if dest.resolve().is_relative_to(source.resolve()):
            raise CatwalkError(f"dest: {dest} lies in {source}, whose folders are categories: give another folder")
        on_sale = read_tree(source, purchases)
    else:
        on_sale = read_items(items, source, item, image, category, title)
    check_image_paths(source, on_sale.images, lambda row: f"item {on_sale.ids[row]!r}")
    bought = None
    left_out = dict(on_sale.left_out)
    if purchases is not None:
        bought = read_purchases(purchases, user, purchased_item or item, time)
        bought = _of_items(bought, on_sale, purchases, items or source).without_repeats().core(core, one_pass)
        bought.check_some_left(purchases)
        if core > 1:
            rows = [row for row, one in enumerate(on_sale.ids) if one in bought.items_bought]
            left_out["items outside the core"] = len(on_sale.ids) - len(rows)
            on_sale = on_sale.take(rows)
        left_out |= bought.left_out
    images = [
        f"images/{one}{PurePosixPath(path).suffix}" for one, path in zip(on_sale.ids, on_sale.images, strict=True)
    ]
    with DatasetWriter(dest) as writer:
        writer.copy_images(source, on_sale.images, images, allow_truncated=allow_truncated)
        writer.write_items(on_sale.ids, images, on_sale.categories, on_sale.titles)
        if bought is not None:
            writer.write_interactions(*bought.columns())
        made_by: dict[str, object] = {"importer": "folder"}
        if items is not None:
            made_by |= {"items": items.name, "item": item, "image": image, "category": category, "title": title}
        if purchases is not None:
            made_by |= {
                "purchases": purchases.name,
                "user": user,
                "purchased_item": purchased_item or item,
                "time": "the order of rows" if time is None else time,
                "core": core,
                "one_pass": one_pass,
            }
        writer.describe(
            name=source.resolve().name if name is None else name,
            source=origin,
            licence=licence,
            categories=sorted(set(on_sale.categories)),
            made_by=made_by,
            left_out=left_out,
        )
    console = Console()
    print_summary(writer, console)
    if bought is not None and time is None:
        console.print("• the order of rows is the time of the purchases: no --time was given", markup=False)


def read_tree(source: Path, purchases: Path | None = None) -> Items:
    """Find the images in ``source/Category/…/item.jpg``, in the order of their paths.

    Args:
        source: The folder whose folders are the categories.
        purchases: A file that may lie in it as well.

    Raises:
        CatwalkError: If there is none, a folder is a link, or two files give the same id.
    """
    found = Items()
    paths: dict[str, Path] = {}
    causes: Counter[str] = Counter()
    for place, folders, files in os.walk(source, onerror=_refuse):
        inside = Path(place).relative_to(source)
        causes["hidden files and folders"] += sum(entry.startswith(".") for entry in [*folders, *files])
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        for entry in folders:
            if (Path(place) / entry).is_symlink():
                raise CatwalkError(f"source: {Path(place) / entry} is a link to a folder: put the folder itself there")
        for entry in sorted(entry for entry in files if not entry.startswith(".")):
            path = inside / entry
            if path.suffix.lower() not in SUFFIXES:
                is_log = purchases is not None and (source / path).resolve() == purchases.resolve()
                causes["files that are no images"] += not is_log
            elif not inside.parts:
                causes["images outside the folders of categories"] += 1
            else:
                _check_name(source, path)
                if path.stem in paths:
                    raise CatwalkError(
                        f"source: {source / paths[path.stem]} and {source / path} both give the item {path.stem!r}: "
                        "rename one of them"
                    )
                paths[path.stem] = path
                found.ids.append(path.stem)
                found.images.append(path.as_posix())
                found.categories.append(path.parts[0])
    if not found.ids:
        listed = "; ".join(f"{count:,} {cause}" for cause, count in causes.items() if count)
        raise CatwalkError(
            f"source: {source} has no images in folders of categories, as in {source}/Shoes/item.jpg"
            f"{f' ({listed})' if listed else ''}; or list them in a table with --items"
        )
    found.left_out |= causes
    return found


def _refuse(error: OSError) -> NoReturn:
    raise CatwalkError(f"source: {error.filename} cannot be looked into: {error.strerror}") from error


def _check_name(source: Path, path: Path) -> None:
    """Raise a CatwalkError unless the name of an image's file can be an item's id."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise CatwalkError(f"source: the name of {source}/{shown} is not UTF-8: rename the file") from None
    if not is_file_name(path.stem):
        raise CatwalkError(
            f"source: the name of {source / path} cannot be an item's id: no backslashes, at most {LONGEST_ID} bytes"
        )


def read_items(path: Path, source: Path, item: str, image: str, category: str, title: str | None) -> Items:
    """Read a table of items, and leave out those without an image.

    Args:
        path: The table.
        source: The folder below which the images are.
        item: Column of the ids.
        image: Column of the images' paths.
        category: Column of the categories.
        title: Column of the titles, if there is one.

    Raises:
        CatwalkError: If the table is malformed, an id occurs twice, or more than half of the items have no image.
    """
    others = [image] if title is None else [image, title]
    table = read_table(path, [item, category], others)
    for column in others:
        if column not in table.column_names:
            raise CatwalkError(f"{path} lacks the column {column!r}")
    ids = table.column(item).to_pylist()
    check_ids(ids, path, item)
    images = [text or "" for text in table.column(image).to_pylist()]
    titles = [] if title is None else [text or "" for text in table.column(title).to_pylist()]
    try:
        absent = {row for row, text in enumerate(images) if not (_leads_out(text) or (source / text).is_file())}
    except OSError as error:
        raise CatwalkError(f"{path}: the image {error.filename} cannot be looked for: {error.strerror}") from error
    if 2 * len(absent) > len(ids):
        row = min(absent)
        raise CatwalkError(
            f"{path}: {len(absent):,} of {len(ids):,} items have no image below {source}; that of item {ids[row]!r} is "
            f"{images[row]!r}"
        )
    everything = Items(ids, images, table.column(category).to_pylist(), titles)
    kept = everything.take([row for row in range(len(ids)) if row not in absent])
    kept.left_out = {"items without an image": len(absent)}
    kept.without_image = [ids[row] for row in sorted(absent)]
    return kept


def _leads_out(image: str) -> bool:
    """Return whether a path is one that :func:`catwalk.catalogue.check_image_paths` refuses, be there a file or not."""
    path = PurePosixPath(image)
    return path.is_absolute() or ".." in path.parts or "\0" in image


def read_purchases(path: Path, user: str, item: str, time: str | None) -> Purchases:
    """Read a table of purchases, which may have tens of millions of rows.

    Args:
        path: The table.
        user: Column of the users' ids.
        item: Column of the items' ids.
        time: Column of the times; None takes the order of rows.

    Raises:
        CatwalkError: If the table is malformed, or a time is none.
    """
    columns = [user, item, *([] if time is None else [time])]
    if len(set(columns)) < len(columns):
        raise CatwalkError(f"user, item and time must be different columns of {path}, got {', '.join(columns)}")
    users, items = Numbering(), Numbering()
    times: list[pa.Array] = []
    for batch in scan_table(path, columns):
        users.add(batch.column(user))
        items.add(batch.column(item))
        if time is not None:
            times.append(batch.column(time))
    user_ids, user_numbers = users.finish()
    item_ids, item_numbers = items.finish()
    moments = np.arange(len(user_numbers)) if time is None else parse_times(times, path, time)
    return Purchases(user_ids, item_ids, user_numbers, item_numbers, moments)


def parse_times(times: list[pa.Array], path: Path, column: str) -> NDArray[np.generic]:
    """Return times as int64, float64 or ``datetime64``, whichever of :data:`TIMES` all of them are first.

    Args:
        times: Strings, ``(M,)`` in all.
        path: Where they stand, for the message.
        column: In which column.

    Raises:
        CatwalkError: If they are of no kind, or of several.
    """
    texts = pa.chunked_array(times, pa.string())
    for kind in TIMES:
        try:
            moments: NDArray[np.generic] = texts.cast(kind).to_numpy()
        except pa.ArrowInvalid:
            continue
        wrong = np.flatnonzero(~np.isfinite(moments))
        if len(wrong):
            row = int(wrong[0])
            break
        return moments
    else:
        row = max(first_misfit(times, kind) for kind in TIMES)  # up to there they are of one kind
    raise CatwalkError(
        f"{path}, row {row + 1}: {column} {texts[row].as_py()!r} is no time, or not of the kind of those above: "
        "numbers, or dates and times such as 2020-01-31 and 2020-01-31T12:00, all or none with a time zone"
    )


def _of_items(bought: Purchases, on_sale: Items, path: Path, catalogue: Path) -> Purchases:
    """Keep the purchases of what is on sale, or raise a CatwalkError if most are of something else."""
    known = bought.of_items([*on_sale.ids, *on_sale.without_image], "purchases of items that are not in the catalogue")
    unknown = len(bought) - len(known)
    if 2 * unknown > len(bought):
        names = {*on_sale.ids, *on_sale.without_image}
        stranger = next(bought.item_ids[one] for one in bought.items if bought.item_ids[one] not in names)
        raise CatwalkError(
            f"{path}: {unknown:,} of {len(bought):,} purchases are of items that {catalogue} does not have, such as "
            f"{stranger!r}; its ids are like {on_sale.ids[0]!r}"
        )
    if not on_sale.without_image:
        return known
    return known.of_items(on_sale.ids, "purchases of items without an image")
