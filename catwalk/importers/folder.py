"""Anyone's own shop: product photographs in a folder, and a log of purchases where there is one."""

from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console

from catwalk.errors import CatwalkError, MissingColumnError
from catwalk.importers.dataset_writer import DatasetWriter, check_destination
from catwalk.importers.image_tree import Layout, read_tree
from catwalk.importers.items import (
    DAMAGED_ITEMS,
    DAMAGED_PURCHASES,
    TIDIED_CATEGORIES,
    Items,
    check_images,
    check_known,
    tidy_categories,
)
from catwalk.importers.purchases import (
    SPELLED_ITEMS,
    Numbering,
    Purchases,
    check_core,
    check_ids,
    first_misfit,
)
from catwalk.importers.summary import print_summary
from catwalk.shop.catalogue import Listings, check_image_paths, on_disk
from catwalk.shop.columns import column_names, read_table, scan_table
from catwalk.shop.ids import doubtful_ids
from catwalk.shop.times import times_without_digits, trim_times

OUTSIDE = "items outside the core"

TIMES = (
    pa.int64(),
    pa.float64(),
    pa.date32(),
    *(pa.timestamp(unit, zone) for zone in (None, "UTC") for unit in ("s", "us", "ns")),
)
"""Forms of a column of times, one and the same in all rows."""


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
    leave_out_damaged: bool = False,
    layout: Layout | None = None,
    name: str | None = None,
    origin: str = "not stated",
    licence: str = "not stated",
) -> None:
    """Write your own shop as a dataset folder: photographs with categories, and a log of purchases.

    Without ITEMS the folders in SOURCE are the categories, and an item's id is the name of its image's file. Where
    they are called train, validation and test, the categories are the folders in them, and the CNN learns from these
    splits.

    Args:
        source: Folder of the images: SOURCE/Category/item.jpg, SOURCE/train/Category/item.jpg, or in any order where
            ITEMS lists them.
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
        leave_out_damaged: Leave out and count items whose image cannot be decoded, rather than end with an error.
        layout: What the folders in SOURCE are: categories, or splits with the categories in them; by default what
            their names say.
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
    if items is not None and layout is not None:
        raise CatwalkError("layout: where ITEMS lists the images, it does not matter in which folders they are")
    if not source.is_dir():
        raise CatwalkError(f"source: there is no folder {source}")
    if items is None:
        if dest.resolve().is_relative_to(source.resolve()):
            raise CatwalkError(f"dest: {dest} lies in {source}, whose folders are categories: give another folder")
        on_sale = read_tree(source, purchases, layout)
    else:
        on_sale = read_items(items, source, item, image, category, title)
    check_image_paths(source, on_sale.images, lambda row: f"item {on_sale.ids[row]!r}")
    bought = None
    if purchases is not None:
        bought = read_purchases(purchases, user, purchased_item or item, time).tidied(
            [*on_sale.ids, *on_sale.without_image], purchases, has_times=time is not None
        )
        check_known(bought, [*on_sale.ids, *on_sale.without_image], purchases, items or source)
        bought = _of_items(bought, on_sale).without_repeats().core(core, one_pass)
        bought.check_some_left(purchases)
        if core > 1:
            on_sale = on_sale.where(bought.items_bought, OUTSIDE)
    with DatasetWriter(dest) as writer:
        paths = dict(zip(on_sale.ids, _paths(on_sale), strict=True))
        damaged = writer.copy_images(
            source,
            on_sale.images,
            list(paths.values()),
            allow_truncated=allow_truncated,
            leave_out_damaged=leave_out_damaged,
        )
        if damaged:
            lost = {on_sale.ids[row] for row in damaged}
            on_sale = on_sale.where(paths.keys() - lost, DAMAGED_ITEMS)
            if bought is not None:
                bought = bought.of_items(on_sale.ids, DAMAGED_PURCHASES).core(core, one_pass)
                bought.check_some_left(purchases)
                if core > 1:
                    left, on_sale = set(on_sale.ids), on_sale.where(bought.items_bought, OUTSIDE)
                    writer.remove_images(paths[one] for one in sorted(left.difference(on_sale.ids)))
        images = [paths[one] for one in on_sale.ids]
        writer.write_items(on_sale.ids, images, on_sale.categories, on_sale.titles)
        if on_sale.splits:
            writer.write_labelled_images(images, on_sale.categories, on_sale.splits)
        if bought is not None:
            writer.write_interactions(*bought.columns())
        made_by: dict[str, object] = {"importer": "folder"}
        if items is not None:
            made_by |= {"items": items.name, "item": item, "image": image, "category": category, "title": title}
        if on_sale.splits:
            made_by["layout"] = "splits"
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
            left_out=on_sale.left_out | ({} if bought is None else bought.left_out),
            repaired=on_sale.repaired | ({} if bought is None else bought.repaired),
            remarks=doubtful_ids(on_sale.ids, "items") if bought is None else bought.remarks,
        )
    console = Console()
    print_summary(writer, console)
    if len(set(on_sale.categories)) == 1:
        console.print(
            f"• there is one category, {on_sale.categories[0]!r}: an attack leads items from one to another",
            highlight=False,
            markup=False,
        )
    if bought is not None and time is None:
        console.print("• the order of rows is the time of the purchases: no --time was given", markup=False)


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
            raise MissingColumnError(path, column, column_names(path, [item, category]))
    spelled = table.column(item).to_pylist()
    ids = check_ids(spelled, path, item)
    images = [text or "" for text in table.column(image).to_pylist()]
    titles = [] if title is None else [text or "" for text in table.column(title).to_pylist()]
    listings: Listings = {}
    try:
        there = [text if _leads_out(text) else on_disk(source, text, listings) for text in images]
    except OSError as error:
        raise CatwalkError(f"{path}: the image {error.filename} cannot be looked for: {error.strerror}") from error
    absent = {row for row, text in enumerate(there) if text is None}
    categories, tidied = tidy_categories(table.column(category).to_pylist(), path, category)
    everything = Items(ids, [text or given for text, given in zip(there, images, strict=True)], categories, titles)
    check_images(sorted(absent), everything, path, source)
    kept = everything.take([row for row in range(len(ids)) if row not in absent])
    kept.left_out = {"items without an image": len(absent)}
    kept.repaired = {
        SPELLED_ITEMS: sum(one != text for one, text in zip(ids, spelled, strict=True)),
        "names of image files in the other Unicode form": sum(
            text not in (None, given) for text, given in zip(there, images, strict=True)
        ),
        TIDIED_CATEGORIES: tidied,
    }
    kept.without_image = [ids[row] for row in sorted(absent)]
    return kept


def _paths(items: Items) -> list[str]:
    """Return where the images go: under their items' ids."""
    return [f"images/{one}{PurePosixPath(path).suffix}" for one, path in zip(items.ids, items.images, strict=True)]


def _leads_out(image: str) -> bool:
    """Return whether a path is one that :func:`~catwalk.shop.catalogue.check_image_paths` refuses."""
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
            times.append(trim_times(batch.column(time)))
    user_ids, user_numbers = users.finish()
    item_ids, item_numbers = items.finish()
    moments = np.arange(len(user_numbers)) if time is None else parse_times(times, path, time)
    remarks = times_without_digits(pa.chunked_array(times, pa.string())) if moments.dtype.kind == "f" else ()
    return Purchases(user_ids, item_ids, user_numbers, item_numbers, moments, remarks=remarks)


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


def _of_items(bought: Purchases, on_sale: Items) -> Purchases:
    """Keep the purchases of what is on sale, counted apart from those of items without an image."""
    known = bought.of_items([*on_sale.ids, *on_sale.without_image], "purchases of items that are not in the catalogue")
    if not on_sale.without_image:
        return known
    return known.of_items(on_sale.ids, "purchases of items without an image")
