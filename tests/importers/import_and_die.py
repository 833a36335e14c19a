"""Imports that are killed at one point each: ``python import_and_die.py FOLDER`` with the sources in it.

FOLDER holds ``hm`` and ``own``, as :mod:`publishers` writes them. Every import goes into
``FOLDER/IMPORTER POINT/shop``, in a process of its own that SIGKILL ends.
"""

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

from catwalk.importers import dataset_writer
from catwalk.importers.amazon_release import amazon_release
from catwalk.importers.dataset_writer import DatasetWriter
from catwalk.importers.folder import folder
from catwalk.importers.hm import hm
from catwalk.shop.catalogue import Catalogue

POINTS = {
    "first image": (shutil, "copyfileobj", 1),
    "third image": (shutil, "copyfileobj", 3),
    "before items.csv": (DatasetWriter, "_write_table", 1),
    "within items.csv": (os, "fsync", 1),
    "between the tables": (DatasetWriter, "_write_table", 2),
    "before dataset.json": (DatasetWriter, "_write_json", 1),
    "before the fingerprint": (Catalogue, "read", 1),
    "before the rename": (Path, "rename", 1),
    "after the rename": (dataset_writer, "_sync_folder", 2),
}
"""Function by function: at which call of it the process dies."""

COMPLETE = {"after the rename"}
"""The points at which the dataset folder is there already."""


def import_hm(source: Path, dest: Path) -> None:
    hm(source, dest)


def import_own(source: Path, dest: Path) -> None:
    tables = {"items": source / "items.csv", "purchases": source / "log.csv"}
    columns = {
        "item": "sku",
        "image": "photo",
        "category": "department",
        "user": "customer",
        "purchased_item": "article",
    }
    folder(source, dest, **tables, **columns, time="when", title="label")


IMPORTS = {"hm": import_hm, "own": import_own, "release": amazon_release}


def die_at(owner: object, name: str, call: int) -> None:
    """Let a function kill this process at one of its calls."""
    original, calls = getattr(owner, name), 0

    def lethal(*arguments, **options):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls == call:
            if name == "copyfileobj":  # with half a file written
                arguments[1].write(arguments[0].read()[:100])
                arguments[1].flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, lethal)


def main(work: Path) -> None:
    for importer, run in IMPORTS.items():
        for point, lethal in POINTS.items():
            child = os.fork()
            if child == 0:
                die_at(*lethal)
                with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
                    run(work / importer, work / f"{importer} {point}" / "shop")
                os._exit(1)
            _, status = os.waitpid(child, 0)
            if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
                raise SystemExit(f"{importer} was not killed {point}: status {status}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
