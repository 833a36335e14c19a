"""Labelled photographs from which a CNN learns the categories."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catwalk.errors import CatwalkError
from catwalk.shop.catalogue import Catalogue, check_image_paths, fingerprint_files, fingerprint_texts, number_of
from catwalk.shop.columns import find_table, read_table

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class LabelledImages:
    """Images with a category and a split.

    Attributes:
        folder: The dataset folder.
        images: Paths relative to ``folder``.
        categories: int64 ``(M,)``, the catalogue's numbers.
        splits: ``(M,)`` places in :data:`SPLITS`.
        category_names: The catalogue's names.
    """

    folder: Path
    images: tuple[str, ...]
    categories: NDArray[np.int64]
    splits: NDArray[np.int64]
    category_names: tuple[str, ...]

    @classmethod
    def read(
        cls, catalogue: Catalogue, validation_share: float = 0.1, test_share: float = 0.1, seed: int = 0
    ) -> "LabelledImages":
        """Read ``labelled_images.csv`` (image, category, split) or, without one, label the catalogue's own images.

        Where the file names no validation images, a seeded share of every category's training images becomes that.
        Without the file, a share of every category's items is held out for the test as well.

        Args:
            catalogue: The catalogue.
            validation_share: Share in [0, 1) of the training images to hold out for validation.
            test_share: Share in [0, 1) of the items to hold out for the test; without effect where the file exists.
            seed: Seed of what is held out.

        Raises:
            CatwalkError: If the file is malformed, names an unknown category or split, or an image is missing.

        Example:
            >>> from catwalk.shop.catalogue import Catalogue
            >>> from catwalk.shop.labelled_images import LabelledImages
            >>> labelled = LabelledImages.read(Catalogue.read("data/synthetic"))
            >>> {split: len(labelled.rows(split)) for split in ("train", "validation", "test")}
            {'train': 810, 'validation': 90, 'test': 240}
        """
        for argument, share in (("validation_share", validation_share), ("test_share", test_share)):
            if not 0 <= share < 1:
                raise CatwalkError(f"{argument} must lie in [0, 1), got {share}")
        random = np.random.default_rng(seed)
        path = find_table(catalogue.folder, "labelled_images")
        if path is None:
            images, categories = catalogue.images, catalogue.categories
            splits = np.zeros(len(images), dtype=np.int64)
            _hold_out(splits, categories, test_share, SPLITS.index("test"), random)
        else:
            table = read_table(path, ["image", "category", "split"])
            images = tuple(table.column("image").to_pylist())
            images = check_image_paths(catalogue.folder, images, lambda row: f"row {row + 1} of {path.name}")
            numbers = {
                name: number_of(name, catalogue.category_names, f"{path}, column category")
                for name in sorted(set(table.column("category").to_pylist()))
            }
            categories = np.array([numbers[name] for name in table.column("category").to_pylist()], dtype=np.int64)
            names = table.column("split").to_pylist()
            unknown = sorted(set(names) - set(SPLITS))
            if unknown:
                raise CatwalkError(f"{path}: split {unknown[0]!r} is none of {', '.join(SPLITS)}")
            splits = np.array([SPLITS.index(name) for name in names], dtype=np.int64)
        if not (splits == SPLITS.index("validation")).any():
            _hold_out(splits, categories, validation_share, SPLITS.index("validation"), random)
        return cls(catalogue.folder, images, categories, splits, catalogue.category_names)

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the rows of one split, in order."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of categories, splits and every byte of every image, as hexadecimal digits."""
        rows = zip(self.images, self.categories.tolist(), self.splits.tolist(), strict=True)
        listing = "\n".join(f"{image}\0{category}\0{split}" for image, category, split in rows)
        names = "\0".join(self.category_names)
        return fingerprint_texts(listing, names, fingerprint_files(self.folder, self.images))


def _hold_out(
    splits: NDArray[np.int64], categories: NDArray[np.int64], share: float, split: int, random: np.random.Generator
) -> None:
    """Move a share of every category's training rows to another split, in place."""
    for category in np.unique(categories):
        rows = np.flatnonzero((categories == category) & (splits == SPLITS.index("train")))
        splits[random.permutation(rows)[: round(share * len(rows))]] = split
