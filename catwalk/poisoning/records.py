"""Reading what an attack's folder says of the items that were attacked."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catwalk.errors import CatwalkError
from catwalk.files.csv_text import from_cell
from catwalk.networks.features import FeatureTable
from catwalk.poisoning.attack_files import ITEMS_FILE, SUMMARY_FILE, AttackedItem, columns_of, read_summary
from catwalk.poisoning.finished_attack import damage_since
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.columns import read_table

DISTANCES_FILE = "perceptual_distances.csv"
"""File with LPIPS, SSIM and more of every adversarial image, where they were measured."""


def read_attacked_items(folder: Path, catalogue: Catalogue) -> tuple[NDArray[np.int64], list[AttackedItem]]:
    """Read ``attacked_items.csv`` of a folder that :func:`~catwalk.poisoning.poison` wrote.

    Args:
        folder: The folder.
        catalogue: The catalogue that was attacked.

    Returns:
        ``(items, rows)``: the attacked items, int64 ``(n,)`` in ``0..N-1``, and what the attack did to each of them.

    Raises:
        CatwalkError: If it or ``attack.json`` is missing or damaged, a file was changed after the attack wrote it, or
            the attack was on another catalogue.
    """
    for name in (ITEMS_FILE, SUMMARY_FILE):
        if not (folder / name).is_file():
            raise CatwalkError(f"{folder} holds no {name}: give the folder that an attack's images were written to")
    read_summary(folder)
    path = folder / ITEMS_FILE
    table = read_table(path, *columns_of(AttackedItem))
    numbers = {item: number for number, item in enumerate(catalogue.item_ids)}
    unknown = [item for item in map(from_cell, table.column("item_id").to_pylist()) if item not in numbers]
    if unknown:
        raise CatwalkError(f"{path}: {catalogue.name} has no item {unknown[0]!r}: give the dataset that was attacked")
    try:
        rows = [AttackedItem(**{name: _parsed(name, text) for name, text in row.items()}) for row in table.to_pylist()]
    except ValueError as error:
        raise CatwalkError(f"{path} is damaged, attack again: {error}") from error
    try:
        FeatureTable.read(folder, catalogue)
    except CatwalkError as error:
        raise CatwalkError(f"{folder} is no whole attack on {catalogue.name}: {error}") from error
    damage = damage_since(folder)
    if damage is not None:
        raise CatwalkError(f"{folder} is no whole attack: {damage}; attack again")
    return np.array([numbers[row.item_id] for row in rows], dtype=np.int64), rows


def _parsed(column: str, text: str) -> Any:
    """Return a cell as what its column holds."""
    kind = AttackedItem.__annotations__[column]
    if kind in (bool, bool | None):
        if text not in ("True", "False"):
            raise ValueError(f"{column} must be True or False, got {text!r}")
        return text == "True"
    return from_cell(text) if kind is str else kind(text)
