"""Items of a gallery, read from an attack's folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from catwalk.files.csv_text import from_cell
from catwalk.networks.features import FeatureTable
from catwalk.plots.gallery import GalleryItem
from catwalk.poisoning.attack_files import AttackedItem
from catwalk.poisoning.records import DISTANCES_FILE, read_attacked_items
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.columns import read_table
from catwalk.shop.decoding import decode, decode_item

Choose = Callable[[Sequence[AttackedItem]], Sequence[int]]
"""Returns the places of the items to show among all attacked ones."""


def gallery_items(
    folder: Path, catalogue: Catalogue, number: int, measured: Path | None, choose: Choose | None = None
) -> list[GalleryItem]:
    """Return some attacked items, without their ranks.

    Args:
        folder: The attack's folder.
        catalogue: The catalogue that was attacked.
        number: How many items, at most.
        measured: Folder with ``perceptual_distances.csv`` of these images; without it, LPIPS and SSIM are None.
        choose: Chooses them, the first ones to be shown first; by default by their ids alone.

    Raises:
        CatwalkError: If the folder is damaged, or the attack was on another catalogue.
    """
    items, rows = read_attacked_items(folder, catalogue)
    order = np.argsort(catalogue.keys[items], kind="stable") if choose is None else choose(rows)
    chosen = np.asarray(order, dtype=np.int64)[:number]
    items, rows = items[chosen], [rows[place] for place in chosen]
    table = FeatureTable.read(folder, catalogue)  # which holds what was seen before any attack
    distances = _distances(None if measured is None else measured / DISTANCES_FILE, rows)
    found = []
    for row, item, (lpips, ssim) in zip(rows, items, distances, strict=True):
        after = decode(folder / row.image)
        found.append(
            GalleryItem(
                item_id=row.item_id,
                before=decode_item(catalogue, item, (after.shape[1], after.shape[2])),
                after=after,
                category_before=row.category_before,
                probability_before=float(table.probabilities[item]),
                category_after=row.category_after,
                probability_after=row.probability_after,
                success=row.success,
                ssim=ssim,
                lpips=lpips,
                rank_before=None,
                rank_after=None,
            )
        )
    return found


def _distances(path: Path | None, rows: list[AttackedItem]) -> list[tuple[float | None, float | None]]:
    """Return LPIPS and SSIM of items; None where a file does not hold them of these images."""
    unknown: list[tuple[float | None, float | None]] = [(None, None)] * len(rows)
    if path is None or not path.is_file():
        return unknown
    table = read_table(path, ["item_id", "l2_levels"], ["lpips", "ssim"])
    found = {from_cell(row["item_id"]): row for row in table.to_pylist()}
    # It may be of images that another attack wrote here before these.
    if any(row.item_id not in found or float(found[row.item_id]["l2_levels"]) != row.l2_levels for row in rows):
        return unknown
    return [(_number(found[row.item_id]["lpips"]), _number(found[row.item_id]["ssim"])) for row in rows]


def _number(text: str) -> float | None:
    return float(text) if text else None
