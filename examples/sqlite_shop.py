"""A shop of your own: an importer that writes what a SQLite database holds as a dataset folder."""

import contextlib
import sqlite3
from pathlib import Path

from rich.console import Console

from catwalk.errors import CatwalkError
from catwalk.importers.dataset_writer import DatasetWriter, check_destination
from catwalk.importers.summary import print_summary

PRODUCTS = "SELECT id, photo, category, title FROM products ORDER BY id"
ORDERS = "SELECT customer, product, day FROM orders ORDER BY day, rowid"


def sqlite_shop(source: Path, dest: Path) -> None:
    """Write the products and orders of a SQLite database as a dataset folder.

    Args:
        source: The database, with the tables products (id, photo, category, title) and orders (customer, product, day);
            photos are files, relative to the folder that the database is in.
        dest: The dataset folder to write; it must not exist, or be empty.

    Raises:
        CatwalkError: If DEST is not empty, the database cannot be read, or a photo is missing or damaged.
    """
    check_destination(dest)
    if not source.is_file():
        raise CatwalkError(f"source: there is no database {source}")
    try:
        with contextlib.closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as database:
            products, orders = (database.execute(query).fetchall() for query in (PRODUCTS, ORDERS))
    except sqlite3.Error as error:
        raise CatwalkError(f"source: {source} cannot be read: {error}") from error
    if not products:
        raise CatwalkError(f"source: {source} has no products")
    ids, photos, categories, titles = (list(map(str, column)) for column in zip(*products, strict=True))
    customers, bought, days = zip(*orders, strict=True) if orders else ((), (), ())
    with DatasetWriter(dest) as writer:
        writer.copy_images(source.parent, photos, photos)
        writer.write_items(ids, photos, categories, titles)
        if orders:
            writer.write_interactions(list(map(str, customers)), list(map(str, bought)), days)
        writer.describe(
            name=source.stem,
            source=f"the database {source.name}",
            licence="our own",
            categories=sorted(set(categories)),
            made_by={"importer": "sqlite_shop.sqlite_shop"},
        )
    print_summary(writer, Console())
