"""The catalogue of a shop: its items, their images and their categories."""

import functools
import hashlib
import json
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catwalk.configuration.names import closest
from catwalk.errors import CatwalkError
from catwalk.shop.columns import find_table, read_table
from catwalk.shop.ids import first_clash, id_key, item_keys, plain_id

LISTED = 20
"""Categories that a message lists at most."""


@dataclass(frozen=True)
class Catalogue:
    """Items on sale, in the order of ``items.csv``; an item's place in it is its number everywhere inside Catwalk.

    Attributes:
        folder: The dataset folder.
        name: Name of the dataset, for tables.
        item_ids: The shop's own ids, one per item.
        images: Paths of the images relative to ``folder``, in POSIX form.
        categories: Category of every item, int64 ``(N,)`` in ``0..C-1``.
        category_names: The C names.
    """

    folder: Path
    name: str
    item_ids: tuple[str, ...]
    images: tuple[str, ...]
    categories: NDArray[np.int64]
    category_names: tuple[str, ...]

    @classmethod
    def read(cls, folder: str | Path) -> "Catalogue":
        """Read and check ``items.csv`` (or ``items.parquet``) of a dataset folder.

        Categories are numbered in the order of ``categories`` in ``dataset.json`` where that is given, otherwise in
        alphabetical order.

        Raises:
            CatwalkError: If the folder or the file is missing or malformed, an item id occurs twice, perhaps in two
                spellings, or an image is missing or lies outside the folder.

        Example:
            >>> from catwalk.shop.catalogue import Catalogue
            >>> catalogue = Catalogue.read("data/synthetic")  # as `catwalk data synthetic data/synthetic` writes it
            >>> len(catalogue), catalogue.item_ids[0], catalogue.images[0]
            (240, 'item-000', 'images/items/000.png')
            >>> catalogue.category_names[catalogue.categories[0]]
            'Bag'
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CatwalkError(
                f"{folder} is not a dataset folder: it {'is a file' if folder.exists() else 'does not exist'}; "
                "`catwalk data --help` lists how to make one"
            )
        path = find_table(folder, "items")
        if path is None:
            raise CatwalkError(f"{folder} is not a dataset folder: it has no items.csv; see `catwalk data --help`")
        table = read_table(path, ["item_id", "image", "category"])
        item_ids = tuple(table.column("item_id").to_pylist())
        repeated = [item for item, count in Counter(item_ids).items() if count > 1]
        if repeated:
            raise CatwalkError(f"{path}: item id {repeated[0]!r} occurs {item_ids.count(repeated[0])} times")
        clash = first_clash(item_ids)
        if clash is not None:
            one, other = clash
            raise CatwalkError(
                f"{path}, rows {one + 1} and {other + 1}: the item ids {item_ids[one]!a} and "
                f"{item_ids[other]!a} are two spellings of one: remove a row, or rename the item in all tables"
            )
        images = tuple(table.column("image").to_pylist())
        images = check_image_paths(folder, images, lambda row: f"item {item_ids[row]!r}")
        info = read_dataset_info(folder)
        _check_printable(folder, str(info.get("name", "")), "the dataset's name")
        labels = table.column("category").to_pylist()
        names = category_order(labels, info.get("categories"), source=str(path))
        for name in names:
            _check_printable(path, name, "a category")
            if not plain_id(name):
                raise CatwalkError(f"{path}: a category has the blank name {name!r}: give it one that can be read")
        numbers = {name: number for number, name in enumerate(names)}
        return cls(
            folder=folder,
            name=str(info.get("name", folder.resolve().name)),
            item_ids=item_ids,
            images=images,
            categories=np.array([numbers[label] for label in labels], dtype=np.int64),
            category_names=names,
        )

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def num_categories(self) -> int:
        """Number of categories, C."""
        return len(self.category_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the ids, the categories and every byte of every image, as hexadecimal digits.

        The folder's place and name do not enter into it: a copy has the same fingerprint.
        """
        rows = zip(self.item_ids, self.images, self.categories.tolist(), strict=True)
        listing = "\n".join(f"{item}\0{image}\0{category}" for item, image, category in rows)
        names = "\0".join(self.category_names)
        return fingerprint_texts(listing, names, fingerprint_files(self.folder, self.images))

    @cached_property
    def allow_truncated(self) -> bool:
        """Whether images that end too early are taken as far as they go (:func:`truncated_images_allowed`)."""
        return truncated_images_allowed(self.folder)

    @cached_property
    def keys(self) -> NDArray[np.int64]:
        """A 64-bit number per item, int64 ``(N,)``, made from its id alone: it seeds what is random about the item."""
        return item_keys(self.item_ids)

    def category(self, name: str, argument: str) -> int:
        """Return the number of a category.

        Args:
            name: The category's name.
            argument: What the caller calls it, for the message.

        Raises:
            CatwalkError: If there is no such category.
        """
        return number_of(name, self.category_names, argument)


def _check_printable(path: Path, text: str, what: str) -> None:
    """Raise a CatwalkError if what stands in tables and metrics holds commands to a terminal."""
    if any(unicodedata.category(character) == "Cc" and character not in "\t\n\r" for character in text):
        raise CatwalkError(f"{path}: {what} holds control characters: {text[:80]!r}")


def number_of(name: str, names: Sequence[str], argument: str) -> int:
    """Return the place of a category's name among ``names``, or raise a CatwalkError that suggests and lists them.

    A name that is not there leads to the only one that :func:`~catwalk.shop.ids.id_key` calls a spelling of it.
    """
    if name not in names:
        spelled = [number for number, other in enumerate(names) if id_key(other) == id_key(name)]
        if len(spelled) == 1:
            return spelled[0]
        count, similar = f"{len(names)} " if len(names) > LISTED else "", closest(name, names)
        listed = ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")
        hint = f"did you mean {' or '.join(similar)}? The" if similar else "the"
        raise CatwalkError(f"{argument}: there is no category {name!r}; {hint} {count}categories are {listed}")
    return list(names).index(name)


def item_names(catalogue: Catalogue) -> list[str]:
    """Return what messages call each item."""
    return [f"item {item!r}" for item in catalogue.item_ids]


def read_dataset_info(folder: Path) -> dict[str, Any]:
    """Return ``dataset.json`` of a dataset folder, or an empty dictionary where there is none."""
    path = folder / "dataset.json"
    if not path.is_file():
        return {}
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CatwalkError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(info, dict):
        raise CatwalkError(f"{path} must hold a JSON object")
    return info


def truncated_images_allowed(folder: Path) -> bool:
    """Return whether ``dataset.json`` of a dataset folder says that truncated images are taken as far as they go."""
    return read_dataset_info(folder).get("allow_truncated") is True


def category_order(labels: Sequence[str], declared: Any, source: str) -> tuple[str, ...]:
    """Return the category names in their order: as declared in ``dataset.json``, otherwise alphabetical.

    Raises:
        CatwalkError: If a label is not among the declared categories, or those are no list of different names.
    """
    if declared is None:
        return tuple(sorted(set(labels)))
    if not (isinstance(declared, list) and all(isinstance(name, str) for name in declared)):
        raise CatwalkError(f"{source}: categories in dataset.json must be a list of names")
    if len(set(declared)) < len(declared):
        raise CatwalkError(f"{source}: categories in dataset.json names a category twice")
    unknown = sorted(set(labels) - set(declared))
    if unknown:
        raise CatwalkError(f"{source}: category {unknown[0]!r} is not among the categories of dataset.json")
    return tuple(declared)


def check_image_paths(folder: Path, images: Sequence[str], owner: Callable[[int], str]) -> tuple[str, ...]:
    """Raise a CatwalkError unless all ``images`` are existing files below ``folder``, and no links that lead out of it.

    Args:
        folder: The dataset folder.
        images: Paths as they stand in a table.
        owner: Says, for the message, whose image that of a row is.

    Returns:
        The paths as they are on the disk, see :func:`on_disk`.
    """
    root = folder.resolve()
    inside: set[str] = set()
    found = []
    listings: Listings = {}
    for row, image in enumerate(images):
        parent = image.rpartition("/")[0]
        # What nearly all are is seen by one look, without a Path, which takes longer to make than the look.
        if parent in inside and _is_plain_file(os.path.join(folder, image)):
            found.append(image)
            continue
        relative = PurePosixPath(image)
        if relative.is_absolute() or ".." in relative.parts or "\0" in image:
            raise CatwalkError(f"image {image!r} of {owner(row)} must be a path below {folder}")
        try:
            spelled = on_disk(folder, image, listings)
        except OSError as error:  # a name that is too long, for one
            raise CatwalkError(f"image {image[:80]!r} of {owner(row)} cannot be found: {error.strerror}") from error
        if spelled is None:
            raise CatwalkError(f"image {folder / relative} of {owner(row)} does not exist")
        if spelled != image:
            relative = PurePosixPath(spelled)
        path = folder / relative
        for place in [path.parent, *([path] if path.is_symlink() else [])]:
            if not place.resolve().is_relative_to(root):
                raise CatwalkError(f"image {path} of {owner(row)} lies behind a link that leads out of {folder}")
        if spelled == image:
            inside.add(parent)
        found.append(spelled)
    return tuple(found)


def _is_plain_file(path: str) -> bool:
    """Return whether there is a file that is no link."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


Listings = dict[Path, dict[str, list[str]]]
"""The names in folders that were looked into, by their composed Unicode form (NFC)."""


def on_disk(folder: Path, image: str, listings: Listings) -> str | None:
    """Return the path of a file below a folder as it is on the disk, or None if there is no such file.

    A name may be there in another Unicode form than in a table: macOS decomposes letters with accents (NFD) that most
    programs write composed (NFC). A name in the other form is found if it is the only one.

    Args:
        folder: The folder.
        image: The path below it, in POSIX form.
        listings: What was seen so far, which is added to.

    Raises:
        OSError: If a name is too long, or a folder cannot be looked into.
    """
    if (folder / image).is_file():
        return image
    if image.isascii():
        return None
    place = folder
    for part in PurePosixPath(image).parts:
        if not (place / part).exists():
            if place not in listings:
                listings[place] = {}
                for entry in sorted(os.listdir(place)) if place.is_dir() else []:
                    listings[place].setdefault(unicodedata.normalize("NFC", entry), []).append(entry)
            entries = listings[place].get(unicodedata.normalize("NFC", part), [])
            if len(entries) != 1:
                return None
            part = entries[0]
        place = place / part
    return place.relative_to(folder).as_posix() if place.is_file() else None


def fingerprint_files(folder: Path, files: Sequence[str]) -> str:
    """Return the SHA-256 of the contents of ``files``, in the order given."""
    digest = hashlib.sha256()
    read = _file_digest if len(set(files)) == len(files) else functools.cache(_file_digest)  # items may share images
    for file in files:
        digest.update(read(os.path.join(folder, file)))
    return digest.hexdigest()


def _file_digest(path: str) -> bytes:
    with open(path, "rb", buffering=0) as content:
        return hashlib.sha256(content.read()).digest()


def fingerprint_texts(*texts: str) -> str:
    """Return the SHA-256 of several texts, each with its length, as hexadecimal digits."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(f"{len(encoded)}\0".encode() + encoded)
    return digest.hexdigest()
