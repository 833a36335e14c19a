"""Judging images that somebody else has attacked: budget, success and distances against a clean catalogue."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from catwalk.attacks.masks import MaskError
from catwalk.attacks.threat_model import ThreatModel, ThreatModelError
from catwalk.errors import CatwalkError
from catwalk.files.atomic import open_text
from catwalk.files.csv_text import from_cell, to_cell
from catwalk.networks.classifier import Classifier
from catwalk.networks.prediction import predict
from catwalk.perceptual.attacked_images import measure_pairs
from catwalk.perceptual.lpips_distance import LPIPS
from catwalk.poisoning.attack_files import ITEMS_FILE, PERTURBATION, png_name
from catwalk.shop.catalogue import Catalogue, number_of
from catwalk.shop.columns import read_table
from catwalk.shop.decoding import UInt8Array, decode, decode_item
from catwalk.shop.images import ReportProgress, to_float

LOSSY = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
"""Names of images that are no PNG files."""


@dataclass(frozen=True)
class JudgedImage:
    """What is found of one image; a row of the table.

    Attributes:
        item_id: The item.
        image: The file, relative to the folder.
        is_allowed: Whether it keeps to the threat model.
        pixels: Number of pixels that changed.
        l2_levels: Euclidean distance over all values, in grey levels.
        linf_levels: Largest change of a value, in grey levels.
        psnr: Peak signal-to-noise ratio in dB; infinite where nothing changed.
        ssim: Structural similarity; NaN for images too small for it.
        lpips: LPIPS; None where it was not measured.
        category_before: What the network sees in the clean image; None without a network.
        category_after: What it sees in this one.
        success: Whether it sees the target, or without one no longer the source; None without a network.
    """

    item_id: str
    image: str
    is_allowed: bool
    pixels: int
    l2_levels: float
    linf_levels: int
    psnr: float
    ssim: float
    lpips: float | None
    category_before: str | None
    category_after: str | None
    success: bool | None


def judge_images(
    folder: Path,
    catalogue: Catalogue,
    threat_model: ThreatModel,
    *,
    classifier: Classifier | None = None,
    source: str | None = None,
    target: str | None = None,
    image_size: tuple[int, int] | None = None,
    lpips: LPIPS | None = None,
    progress: ReportProgress | None = None,
) -> list[JudgedImage]:
    """Judge every image of a folder against the clean image of its item.

    Args:
        folder: Holds PNG files with 8 bits per channel, named by their item (``<item id>.png``) or as the catalogue
            names its image, or an attack's folder as Catwalk writes it, whose ``attacked_items.csv`` says whose each
            is.
        catalogue: The clean catalogue.
        threat_model: What an image may be changed by.
        classifier: A network to say what is seen in the images.
        source: What success leads away from where there is no target; by default what the network sees in the clean
            image.
        target: What the network shall see.
        image_size: ``(height, width)`` to which images are brought before they are attacked; by default the
            classifier's, or each image's own.
        lpips: What measures LPIPS; None leaves it out.
        progress: Called as images are measured.

    Returns:
        One for each image, in the order of the catalogue.

    Raises:
        CatwalkError: If a file is of no item, two are of one, one is no 8-bit RGB image of the right size, there is
            none, or a category is unknown.
    """
    size = image_size or (None if classifier is None else classifier.image_size)
    named = _files_of(folder, catalogue)
    images = [_read(folder / name, catalogue, item, size) for item, name in named]
    originals = [decode_item(catalogue, item, size) for item, _ in named]
    numbers = np.array([item for item, _ in named], np.int64)
    keys = torch.from_numpy(catalogue.keys[numbers])
    allowed = [
        _is_allowed(threat_model, image, original, keys[[row]], catalogue.item_ids[named[row][0]])
        for row, (image, original) in enumerate(zip(images, originals, strict=True))
    ]
    distances = measure_pairs(originals, images, lpips, progress=progress)
    before, after, success = _seen(images, originals, classifier, source, target)
    return [
        JudgedImage(
            item_id=catalogue.item_ids[item],
            image=name,
            is_allowed=allowed[row],
            pixels=int(distances.changed_pixels[row]),
            l2_levels=float(distances.l2_levels[row]),
            linf_levels=int(distances.linf_levels[row]),
            psnr=float(distances.psnr[row]),
            ssim=float(distances.ssim[row]),
            lpips=None if distances.lpips is None else float(distances.lpips[row]),
            category_before=before[row],
            category_after=after[row],
            success=success[row],
        )
        for row, (item, name) in enumerate(named)
    ]


def write_judged(path: Path, rows: Sequence[JudgedImage]) -> None:
    """Write the rows as CSV with the columns of :class:`JudgedImage`; what is not known is empty."""
    names = [field.name for field in fields(JudgedImage)]
    with open_text(path) as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            cells = {name: "" if value is None or value != value else value for name, value in asdict(row).items()}
            writer.writerow({name: to_cell(value) for name, value in cells.items()})


def _files_of(folder: Path, catalogue: Catalogue) -> list[tuple[int, str]]:
    """Return item and file of each image, in the order of the catalogue."""
    if not folder.is_dir():
        raise CatwalkError(f"folder: {folder} is no folder; give one with a PNG file for each item")
    items = {item: number for number, item in enumerate(catalogue.item_ids)}
    if (folder / ITEMS_FILE).is_file():
        table = read_table(folder / ITEMS_FILE, ["item_id", "image"])
        ids, names = (list(map(from_cell, table.column(name).to_pylist())) for name in ("item_id", "image"))
        unknown = [item for item in ids if item not in items]
        if unknown:
            raise CatwalkError(f"{folder / ITEMS_FILE}: {catalogue.name} has no item {unknown[0]!r}: give its dataset")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CatwalkError(f"{folder / missing[0]} is missing, which {ITEMS_FILE} names")
        found = [(items[item], name) for item, name in zip(ids, names, strict=True)]
    else:
        by_image = {png_name(image): number for number, image in enumerate(catalogue.images)}
        found = []
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.suffix.lower() in LOSSY:
                raise CatwalkError(
                    f"{path}: is no PNG file; save images as PNG, for other formats change what is judged"
                )
            if path.suffix.lower() != ".png" or path.match(PERTURBATION.format("*", "*")):
                continue
            item = by_image.get(name, items.get(path.name[: -len(".png")]))
            if item is None:
                raise CatwalkError(
                    f"{path}: {catalogue.name} has no item {path.stem!r}, nor an image {name}; name each file by its "
                    f"item's id, such as {catalogue.item_ids[0]}.png, or as the catalogue does"
                )
            found.append((item, name))
    if not found:
        raise CatwalkError(f"folder: {folder} holds no image; give one with a PNG file for each item")
    found.sort()
    for (item, name), (following, other) in pairwise(found):
        if item == following:
            raise CatwalkError(f"{folder}: {name} and {other} are both of item {catalogue.item_ids[item]}; keep one")
    return found


def _read(path: Path, catalogue: Catalogue, item: int, size: tuple[int, int] | None) -> UInt8Array:
    """Return an image, 8-bit RGB of the size that it must have."""
    try:
        with Image.open(path) as image:
            mode, kind, is_clear = image.mode, image.format, image.has_transparency_data
    except OSError as error:
        raise CatwalkError(f"image {path} cannot be read: {error}") from error
    if kind != "PNG" or mode not in ("RGB", "L") or is_clear:
        clear = ", with transparency" if is_clear else ""
        raise CatwalkError(
            f"{path}: is {kind} of mode {mode}{clear}; give PNG files of 8-bit RGB, without transparency"
        )
    levels = decode(path)
    expected = size or decode_item(catalogue, item).shape[1:]
    if levels.shape[1:] != tuple(expected):
        (height, width), (its_height, its_width) = expected, levels.shape[1:]
        whose = "images are judged at" if size else f"the image of item {catalogue.item_ids[item]} has"
        raise CatwalkError(
            f"{path}: is {its_width}×{its_height}, and {whose} {width}×{height} pixels (width × height); give images "
            "of that size, or say by image_size to which size the clean images were brought"
        )
    return levels


def _is_allowed(
    threat_model: ThreatModel, image: UInt8Array, original: UInt8Array, key: torch.Tensor, item: str
) -> bool:
    now, then = (torch.from_numpy(levels)[None] for levels in (image, original))
    try:
        threat_model.for_images(to_float(then), key).verify_levels(now, then)
    except ThreatModelError:
        return False
    except MaskError as error:
        raise CatwalkError(f"mask: item {item}: {error.problem}") from error
    return True


def _seen(
    images: Sequence[UInt8Array],
    originals: Sequence[UInt8Array],
    classifier: Classifier | None,
    source: str | None,
    target: str | None,
) -> tuple[list[str | None], list[str | None], list[bool | None]]:
    """Return what the network sees in each image before and after, and whether that is a success."""
    if classifier is None:
        if source is not None or target is not None:
            raise CatwalkError("classifier is missing: source and target are what a network sees; give its checkpoint")
        nothing: list[None] = [None] * len(images)
        return list(nothing), list(nothing), list(nothing)
    names = classifier.category_names
    for argument, name in (("source", source), ("target", target)):
        if name is not None:
            number_of(name, names, argument)
    before, after = (
        [names[number] for number in predict(classifier.network, levels).categories.tolist()]
        for levels in (list(originals), list(images))
    )
    success = [
        now == target if target is not None else now != (source or then)
        for then, now in zip(before, after, strict=True)
    ]
    return list(before), list(after), list(success)
