"""Files of an attack: its images, a row for each of them, and the summary."""

import csv
import json
from collections.abc import Collection, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.files.atomic import open_text
from catwalk.files.csv_text import to_cell
from catwalk.shop.images import save_png

ITEMS_FILE = "attacked_items.csv"


SUMMARY_FILE = "attack.json"

PERTURBATION = "perturbation_{}x{}.png"
"""Name of the picture of what an attack has added to all images of a width and height alike."""


@dataclass(frozen=True)
class AttackedItem:
    """What an attack did to one item; one row of ``attacked_items.csv``.

    Attributes:
        item_id: The shop's id.
        image: The adversarial image, relative to the attack's folder.
        category_before: What the network saw in the clean image.
        category_after: What it sees in the adversarial file.
        probability_after: The probability of that.
        success_float: Whether the network saw what it shall see before the image was rounded to 8 bits and saved.
        success: Whether it sees it in the file that was read back.
        iterations: Gradient steps, or queries of an attack that has no gradients.
        feature_loss: Mean squared error between the features of the clean image and of the adversarial file.
        linf_levels: Largest change of a pixel, in grey levels (0..255).
        l2_levels: Euclidean distance from the clean image, over all values, in grey levels; 255 is a distance of 1
            between images in [0, 1].
        success_bare: Whether the network sees it in the file without its input operations; None where it has none.
    """

    item_id: str
    image: str
    category_before: str
    category_after: str
    probability_after: float
    success_float: bool
    success: bool
    iterations: int
    feature_loss: float
    linf_levels: int
    l2_levels: float
    success_bare: bool | None = None


@dataclass(frozen=True)
class AttackSummary:
    """What an attack did to all attacked items; the content of ``attack.json``.

    Attributes:
        attack: The attack's name.
        norm: Distance that the budget bounds, ``linf``, ``l2`` or ``l0``; what the attack minimises where it has none.
        epsilon: Budget in grey levels, or pixels in ``l0``; None where the attack has none.
        space: Where the distance is measured, see :class:`~catwalk.attacks.ThreatModel`.
        clip: Whether the attack kept to [0, 1] at every step.
        quantisation: How the images became 8-bit.
        purpose: What the attack is for.
        source: Category whose items were attacked.
        target: Category that the network shall see in them; None for an attack that has none, whose success here is
            that the network sees another category than the source.
        n_attacked: Number of attacked items.
        sr_float: Share of them where the attack wants them, before rounding to 8 bits.
        sr: Share of them where the attack wants them, judged by the files read back.
        sr_clean: Share that were there before any attack.
        sr_net: Share moved there, of those that were not there before; None if all were.
        feature_loss: Mean squared error of the features over all attacked items (the paper's FL).
        linf_levels: Largest change of any pixel, in grey levels.
        l2_levels: Mean Euclidean distance from the clean images, in grey levels.
        forwards: Mean number of forward passes of the attack per image; None where they were not counted.
        backwards: Mean number of backward passes per image; None where they were not counted.
        sr_bare: Share of the files read back that are where the attack wants them for the network without its input
            operations, as before a shop's pipeline or a defence; None where it has none.
        access: How much the attacker sees: nothing, gradients, scores, decisions or lists; None where it was not noted.
        queries: Mean number of questions to the system under attack per image; None for an attack by gradients.
        mask: Where alone the images may have changed, such as ``background``; None for everywhere.
    """

    attack: str
    norm: str
    epsilon: float | None
    space: str
    clip: bool
    quantisation: str
    purpose: str
    source: str
    target: str | None
    n_attacked: int
    sr_float: float
    sr: float
    sr_clean: float
    sr_net: float | None
    feature_loss: float
    linf_levels: int
    l2_levels: float
    forwards: float | None = None
    backwards: float | None = None
    sr_bare: float | None = None
    access: str | None = None
    queries: float | None = None
    mask: str | None = None


def read_summary(folder: Path) -> AttackSummary:
    """Read ``attack.json`` of a folder that :func:`poison` wrote.

    Raises:
        CatwalkError: If it is missing or damaged.
    """
    path = folder / SUMMARY_FILE
    try:
        return AttackSummary(**json.loads(path.read_text("utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise CatwalkError(f"{path} is damaged, attack again: {error}") from error


def columns_of(kind: type[AttackedItem] | type[AttackSummary]) -> tuple[list[str], list[str]]:
    """Return the names of the fields that every attack writes, and of those that only some do."""
    required = [field.name for field in fields(kind) if field.default is MISSING]
    return required, [field.name for field in fields(kind) if field.default is not MISSING]


def png_name(image: str) -> str:
    """Return the name of an image's adversarial PNG: its own, with ``.png`` appended unless it ends so already."""
    return image if PurePosixPath(image).suffix == ".png" else f"{image}.png"


def save_perturbation(perturbation: Tensor, folder: Path) -> None:
    """Save what was added to all images of a size alike as an 8-bit PNG: grey is 0, a level more is a level added.

    Changes of more than 127 levels are cut off there.

    Args:
        perturbation: float32 ``(3, H, W)`` in [-1, 1].
        folder: Where to write.
    """
    levels = (128 + (perturbation * 255).round()).clamp(0, 255).to(torch.uint8)
    save_png(levels, folder / PERTURBATION.format(perturbation.shape[2], perturbation.shape[1]))


def remove_earlier_images(folder: Path, but: Collection[str] = ()) -> None:
    """Remove the images that an earlier attack wrote here, but certain ones: its items may have been others.

    Nothing is removed where ``attacked_items.csv`` has other columns than an attack's.
    """
    for name in _earlier_images(folder):
        image = PurePosixPath(name)
        is_inside = not image.is_absolute() and ".." not in image.parts
        if name not in but and is_inside and (folder / image).is_file():
            (folder / image).unlink(missing_ok=True)
    if lists_attacked_items(folder):
        for path in folder.glob(PERTURBATION.format("*", "*")):
            if path.name not in but:
                path.unlink(missing_ok=True)


def lists_attacked_items(folder: Path) -> bool:
    """Return whether a folder has an ``attacked_items.csv`` with the columns that every attack writes, and rows."""
    return _earlier_images(folder) != []


def _earlier_images(folder: Path) -> list[str]:
    """Return what the rows of ``attacked_items.csv`` name as images; none where it is missing or not an attack's."""
    columns = set(columns_of(AttackedItem)[0])
    try:
        with (folder / ITEMS_FILE).open(newline="", encoding="utf-8", errors="replace") as file:
            table = csv.DictReader(file)
            if not columns <= set(table.fieldnames or ()):
                return []
            return [row["image"] for row in table if row["image"]]
    except (OSError, csv.Error):
        return []


def _write_rows(path: Path, rows: Sequence[AttackedItem]) -> None:
    """Write the rows as CSV with a header, without the columns of which nothing is known."""
    names = [name for name, value in asdict(rows[0]).items() if value is not None]
    with open_text(path) as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: to_cell(getattr(row, name)) for name in names} for row in rows)
