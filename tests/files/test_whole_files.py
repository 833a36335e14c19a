"""Every file that the project writes: aside in its own folder, by what is made for that, or there is no room for it."""

import ast
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from callbacks.table_files import write_table
from catwalk.networks.features import FeatureTable
from catwalk.perceptual.attacked_images import AttackedImages
from catwalk.perceptual.distances import ImageDistances
from catwalk.plots import style
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.images import load_images, save_png
from catwalk.study.cells import SETTINGS, Cell, write_cells
from catwalk.study.table import Table

PACKAGES = ("callbacks", "catwalk", "datamodules", "lightning_modules")
PROJECT = Path(__file__).parents[2]
ASIDE = {
    "catwalk/files/atomic.py": "it is how files are written aside",
    "catwalk/files/append_only.py": "what is added to a file that only grows, of which whole lines alone are read",
    "catwalk/results/record.py": "within a folder that is made aside, and flushed",
    "catwalk/poisoning/finished_attack.py": "copied into a folder that is made aside",
    "catwalk/networks/features.py": "to the path that `written_aside` gives",
    "catwalk/recommenders/reachable_shifts.py": "to the path that `written_aside` gives",
    "catwalk/tuning/journal.py": "what is added to a journal, which is read up to its last whole line",
    "catwalk/importers/dataset_writer.py": "within a folder that is made aside",
    "catwalk/study/workers.py": "within a folder that is made aside, and read by processes that end before it goes",
    "catwalk/study/memory.py": "to a switch of the system, which is no file on a disk",
    "catwalk/importers/download.py": "under a name of its own, flushed and renamed",
}
"""Modules that open files for writing, and why they may."""

WRITERS = {"write_text", "write_bytes", "savefig", "save_file", "to_csv", "to_parquet", "copyfile", "copy2", "tofile"}


def writes(tree: ast.AST) -> Iterator[int]:
    """Yield the lines in which something is opened for writing, or written by its path."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        of_a_module = isinstance(node.func, ast.Name)  # such as `write_text` of catwalk.files.atomic
        modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        modes += [
            word.value.value for word in node.keywords if word.arg == "mode" and isinstance(word.value, ast.Constant)
        ]
        opens = name == "open" and any(isinstance(mode, str) and set(mode) & set("wxa+") for mode in modes)
        if opens or (name in WRITERS and not of_a_module):
            yield node.lineno


def test_nothing_is_written_under_its_final_name() -> None:
    found = {}
    for path in sorted(path for package in PACKAGES for path in (PROJECT / package).rglob("*.py")):
        for line in writes(ast.parse(path.read_text("utf-8"))):
            found[f"{path.relative_to(PROJECT)}:{line}"] = path.relative_to(PROJECT).as_posix()
    values = [place for place, module in found.items() if module == "catwalk/plots/style.py"]
    assert len(values) == 1  # into memory
    assert {place: module for place, module in found.items() if module not in ASIDE and place not in values} == {}
    assert ASIDE.keys() - set(found.values()) == set()  # none is excused for nothing


def big_table() -> pa.Table:
    return pa.table({"user_id": [f"{number * 7919 % 9973}" for number in range(3000)], "items": [[1, 2]] * 3000})


def a_figure():
    value = style.new_figure()
    value.add_subplot().plot(np.random.default_rng(0).random(500))
    return value


def features(folder: Path, catalogue: Catalogue) -> None:
    count = len(catalogue)
    FeatureTable(
        features=torch.rand(count, 50, generator=torch.Generator().manual_seed(0)),
        categories=np.zeros(count, np.int64),
        probabilities=np.ones(count, np.float32),
        category_names=catalogue.category_names,
        scale=1.0,
        catalogue=catalogue.fingerprint,
        network="network",
    ).write(folder, catalogue)


def perceptual(path: Path) -> None:
    names = [name for name in ImageDistances.__dataclass_fields__ if name != "lpips"]
    values = ImageDistances(lpips=None, **{name: torch.rand(500) for name in names})
    AttackedImages(tuple(map(str, range(500))), values).write(path)


def table(stem: Path) -> None:
    rows = tuple(((f"a long label of row {number}",), (None,)) for number in range(200))
    Table("Table 1", "title", "notes", ("Attack",), ("T",), ("CHR",), rows, frozenset()).write(stem)


PROJECT_FILES: dict[str, tuple[str, Callable[[Path, Catalogue], object]]] = {
    "lists as CSV": ("lists.csv", lambda path, _: write_table(big_table(), path)),
    "lists as Parquet": ("users.parquet", lambda path, _: write_table(big_table(), path)),
    "metric": ("curve.png", lambda path, _: style.save(a_figure(), path)),
    "adversarial image": (
        "adversarial.png",
        lambda path, _: save_png(np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8), path),
    ),
    "features": ("features.safetensors", lambda path, catalogue: features(path.parent, catalogue)),
    "looks": ("looks.csv", lambda path, _: perceptual(path)),
    "table": ("table1.csv", lambda path, _: table(path.with_suffix(""))),
    "cells": (
        "cells.csv",
        lambda path, _: write_cells([Cell(**dict.fromkeys(SETTINGS, 0.5))] * 200, 20, path),  # type: ignore[arg-type]
    ),
    "images": (
        "",
        lambda path, catalogue: load_images(catalogue.folder, catalogue.images, (64, 64), cache=path.parent / "cache"),
    ),
}


@pytest.fixture
def little_room() -> Iterator[Callable[[], None]]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("kind", PROJECT_FILES)
def test_without_room_the_earlier_file_stays_and_is_named(shop: Path, tmp_path: Path, little_room, kind: str) -> None:
    """Files cannot grow beyond 2000 bytes, which writers see as they see a full disk."""
    catalogue = Catalogue.read(shop)
    name, write = PROJECT_FILES[kind]
    earlier = {name: b"of an earlier run"} if name else {}
    for other, content in earlier.items():
        (tmp_path / other).write_bytes(content)
    little_room()
    with pytest.raises(OSError, match=name or r"images-.*\.bin") as caught:
        write(tmp_path / (name or "x"), catalogue)
    assert Path(caught.value.filename).is_relative_to(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == earlier
