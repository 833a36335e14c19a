"""Reading what an overview is computed from: the tables of a dataset folder and the headers of its images."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from catwalk.overview.facts import Header, SplitFacts
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.colour_profiles import foreign_profile
from catwalk.shop.columns import find_table

PARTS = ("train", "validation", "test")
"""Tables of a published split."""

CHUNK = 256
"""Files that a thread opens before it takes the next ones."""


def purchase_tables(catalogue: Catalogue) -> list[Path]:
    """Return the tables that hold the purchases: those of a published split, otherwise ``interactions``, or none."""
    folder = catalogue.folder / "splits"
    parts = [find_table(folder, part) for part in PARTS] if folder.is_dir() else []
    found = [path for path in parts if path is not None]
    if found:
        return found
    path = find_table(catalogue.folder, "interactions")
    return [] if path is None else [path]


def split_facts(catalogue: Catalogue, tables: Sequence[Path]) -> SplitFacts:
    """Return the sizes of the split on which recommenders are trained and tested by default."""
    from catwalk.shop.splits import read_split  # its import of PyTorch would slow down the help

    split = read_split(catalogue)
    return SplitFacts(
        kind="leave-one-out" if tables[0].parent == catalogue.folder else "published",
        train=len(split.items),
        validation=int(split.validation.counts.sum()),
        test=int(split.test.counts.sum()),
        tested_users=int((split.test.counts > 0).sum()),
        cold=split.num_cold,
        seen_future=split.num_seen_future,
    )


def same_photographs(folder: Path, images: Sequence[str]) -> list[list[str]]:
    """Return the groups of at least two items' images that are byte for byte the same, in the order of the items.

    Args:
        folder: The dataset folder.
        images: The path of every item's image, which may be another item's as well.
    """
    by_size: dict[int, list[str]] = {}
    for image in dict.fromkeys(images):
        by_size.setdefault((folder / image).stat().st_size, []).append(image)
    contents = {
        image: hashlib.sha256((folder / image).read_bytes()).hexdigest() if len(group) > 1 else image
        for group in by_size.values()
        for image in group
    }
    groups: dict[str, list[str]] = {}
    for image in images:
        groups.setdefault(contents[image], []).append(image)
    return [group for group in groups.values() if len(group) > 1]


def read_headers(folder: Path, images: Sequence[str]) -> list[Header | None]:
    """Return width, height and mode of every image, without decoding; None where the header cannot be read.

    The mode names a colour profile that is not sRGB's, and what is done about it: ``"RGB, Display P3, converted"``.

    Args:
        folder: The dataset folder.
        images: Paths relative to ``folder``.
    """

    def read(start: int) -> list[Header | None]:
        return [_header(folder / image) for image in images[start : start + CHUNK]]

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # nothing is decompressed here
        return [header for chunk in pool.map(read, range(0, len(images), CHUNK)) for header in chunk]


def _header(path: Path) -> Header | None:
    try:
        with Image.open(path) as image:
            profile = foreign_profile(image)
            return *image.size, image.mode if profile is None else f"{image.mode}, {profile.name}"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
