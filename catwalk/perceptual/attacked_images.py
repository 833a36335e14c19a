"""The images of an attack's folder beside their originals: how they look, image by image and on average."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from catwalk.files.atomic import open_text
from catwalk.files.csv_text import to_cell
from catwalk.networks.batching import size_buckets
from catwalk.perceptual.distances import ImageDistances, image_distances
from catwalk.perceptual.lpips_distance import LPIPS
from catwalk.poisoning.records import read_attacked_items
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.decoding import UInt8Array, decode, decode_item
from catwalk.shop.images import ReportProgress


@dataclass(frozen=True)
class AttackedImages:
    """What an attack's images look like.

    Attributes:
        item_ids: The attacked items, in the order of ``attacked_items.csv``.
        distances: Of each, on the CPU.
    """

    item_ids: tuple[str, ...]
    distances: ImageDistances

    def write(self, path: Path) -> None:
        """Write one row per image as CSV, with the columns of :class:`ImageDistances`; what is not there is empty.

        An infinite PSNR is written as ``inf``.
        """
        names = [field.name for field in fields(self.distances)]
        columns = [_cells(getattr(self.distances, name), len(self.item_ids)) for name in names]
        with open_text(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["item_id", *names])
            writer.writerows(zip(map(to_cell, self.item_ids), *columns, strict=True))


def measure_attacked_images(
    folder: Path,
    catalogue: Catalogue,
    lpips: LPIPS | None = None,
    *,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    progress: ReportProgress | None = None,
) -> AttackedImages:
    """Measure every image of a folder that :func:`~catwalk.poisoning.poison` wrote.

    Args:
        folder: The folder.
        catalogue: The clean catalogue. Its images are brought to the size of the adversarial ones, as the attack did.
        lpips: What measures LPIPS; None leaves it out.
        batch_size: Images of one size that are measured at once.
        device: Where to measure.
        progress: Called as images are measured.

    Raises:
        CatwalkError: If the folder holds no attacked images, or not those of this catalogue, or one cannot be read.
    """
    items, rows = read_attacked_items(folder, catalogue)
    item_ids = tuple(row.item_id for row in rows)
    adversarial = [decode(folder / row.image) for row in rows]
    originals = [decode_item(catalogue, item, _size(now)) for item, now in zip(items, adversarial, strict=True)]
    distances = measure_pairs(originals, adversarial, lpips, batch_size=batch_size, device=device, progress=progress)
    return AttackedImages(item_ids, distances)


def measure_pairs(
    originals: Sequence[UInt8Array],
    adversarial: Sequence[UInt8Array],
    lpips: LPIPS | None = None,
    *,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    progress: ReportProgress | None = None,
) -> ImageDistances:
    """Measure images beside their originals, those of one size together.

    Args:
        originals: One image at least, uint8 ``(3, H, W)`` each.
        adversarial: As many, each of its original's size.
        lpips: See :func:`measure_attacked_images`, as for the others.
        batch_size: See there.
        device: See there.
        progress: See there.

    Returns:
        The distances in the order of the images, on the CPU.
    """
    places, parts = [], []
    done = 0
    for numbers, alone in size_buckets(_size(image) for image in adversarial):
        before = done

        def report(count: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + count, len(adversarial))

        then, now = (
            torch.from_numpy(np.stack([images[number] for number in numbers])).to(device)
            for images in (originals, adversarial)
        )
        parts.append(image_distances(then, now, lpips, batch_size=batch_size, alone=alone, progress=report))
        places.append(numbers)
        done += len(numbers)
    order = torch.from_numpy(np.concatenate(places).argsort())
    return _joined(parts, order)


def _joined(parts: Sequence[ImageDistances], order: torch.Tensor) -> ImageDistances:
    """Return the distances of several batches as one, in another order."""

    def joined(name: str) -> torch.Tensor:
        return torch.cat([getattr(part, name).cpu() for part in parts])[order]

    others = {field.name: joined(field.name) for field in fields(ImageDistances) if field.name != "lpips"}
    return ImageDistances(lpips=None if parts[0].lpips is None else joined("lpips"), **others)


def _size(image: UInt8Array) -> tuple[int, int]:
    return image.shape[1], image.shape[2]


def _cells(values: torch.Tensor | None, count: int) -> list[float | int | str]:
    """Return distances as they are written, where NaN is an empty cell."""
    if values is None:
        return [""] * count
    return ["" if value != value else value for value in values.tolist()]
