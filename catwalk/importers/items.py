"""Items of a shop as importers find them, and the checks that all importers share."""

import itertools
import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from catwalk.errors import CatwalkError
from catwalk.importers.purchases import Purchases
from catwalk.shop.ids import id_key, is_invisible, lost_digits

SUFFIXES = frozenset(
    ".avif .bmp .gif .heic .heif .jfif .jp2 .jpe .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split()  # noqa: SIM905
)
"""Endings of the files that are images in a tree of folders, in small letters; HEIC is refused by its name."""

LOOKED_AT = 200_000
"""Files among which one is looked for that has the name of a missing image but for zeros."""

DAMAGED_ITEMS, DAMAGED_PURCHASES = "items whose image is damaged", "purchases of items whose image is damaged"
"""Names of the counts of what is left out with ``--leave-out-damaged``."""

TIDIED_CATEGORIES = "names of categories"
"""Name of the count of categories that :func:`tidy_categories` wrote anew."""

LOST_ZEROS = " (leading zeros were lost: save the table anew, with its ids as text)"
"""Remark where two ids differ in leading zeros alone."""

LOST_DIGITS = " (digits were lost to scientific notation: save the table anew, with its ids as text)"
"""Remark on an id that a spreadsheet has shortened."""


@dataclass
class Items:
    """What is on sale.

    Attributes:
        ids: The shop's own ids, N of them.
        images: Where their images are, relative to the source.
        categories: The names of their categories.
        titles: Their titles, or none at all.
        splits: Their parts of the labelled images, ``train``, ``validation`` or ``test``, or none at all.
        left_out: How many things are left out, by cause.
        without_image: The ids of the items that are left out for want of an image.
        repaired: How many ids and paths were written in another way, by kind.
    """

    ids: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    without_image: list[str] = field(default_factory=list)
    repaired: dict[str, int] = field(default_factory=dict)

    def take(self, rows: Sequence[int]) -> "Items":
        """Keep the items at these places."""

        def kept(column: list[str]) -> list[str]:
            return [column[row] for row in rows] if column else []

        return replace(
            self,
            ids=kept(self.ids),
            images=kept(self.images),
            categories=kept(self.categories),
            titles=kept(self.titles),
            splits=kept(self.splits),
        )

    def where(self, kept: Collection[str], cause: str) -> "Items":
        """Keep the items with these ids; the others are counted under ``cause``."""
        rows = [row for row, one in enumerate(self.ids) if one in kept]
        dropped = self.left_out.get(cause, 0) + len(self.ids) - len(rows)
        return replace(self.take(rows), left_out=self.left_out | {cause: dropped})


def check_images(absent: Sequence[int], items: Items, table: Path, root: Path) -> None:
    """Raise a CatwalkError if more than half of the items have no image, with the name of a file of either side.

    Args:
        absent: Places of the items whose image is missing.
        items: All items.
        table: The file that names them, for the message.
        root: The folder below which the images are.
    """
    if 2 * len(absent) <= len(items.ids):
        return
    row = absent[0]
    found = list(itertools.islice(_images_below(root), LOOKED_AT))
    there = found[0] if found else None
    wanted = _without_zeros(Path(items.images[row]).stem)
    there = next((image for image in found if _without_zeros(Path(image).stem) == wanted), there)
    example = "there is no image at all" if there is None else f"an image that is there is {there!r}"
    zeros = there is not None and _lost_zeros(Path(items.images[row]).stem, Path(there).stem)
    raise CatwalkError(
        f"{table}: {len(absent):,} of {len(items.ids):,} items have no image below {root}; that of item "
        f"{items.ids[row]!r} is {items.images[row]!r}, and {example}{LOST_ZEROS if zeros else ''}"
    )


def check_known(bought: Purchases, on_sale: Collection[str], table: Path, catalogue: Path) -> None:
    """Raise a CatwalkError if more than half of the purchases are of items that are not on sale, with an id of either.

    Args:
        bought: The purchases, all of them.
        on_sale: The ids of all items.
        table: The file that holds the purchases, for the message.
        catalogue: What names the items.
    """
    names = set(on_sale)
    is_unknown = np.array([one not in names for one in bought.item_ids], dtype=bool)
    unknown = int(is_unknown[bought.items].sum())
    if 2 * unknown > len(bought):
        strangers = [one for one in bought.item_ids if one not in names]
        refuse_strangers(unknown, len(bought), strangers, on_sale, table, catalogue)


def refuse_strangers(
    unknown: int,
    total: int,
    strangers: Iterable[str],
    on_sale: Collection[str],
    table: Path,
    catalogue: Path,
    what: str = "purchases",
) -> None:
    """Raise a CatwalkError that shows an id of a purchase and one of the catalogue, alike but for zeros if there are.

    Ids that became floats are compared as the integers that they were.

    Args:
        unknown: How many purchases are of items that are not on sale.
        total: How many purchases there are.
        strangers: The ids of these items, in any order.
        on_sale: The ids of all items, at least one.
        table: The file that holds the purchases.
        catalogue: What names the items.
        what: What purchases are called there.
    """
    bare = {_without_zeros(one): one for one in reversed(list(on_sale))}
    first, own, reason = "", next(iter(on_sale)), ""
    for stranger in strangers:
        first = first or stranger
        twin = bare.get(_without_zeros(stranger))
        if twin is not None:
            first, own, reason = stranger, twin, LOST_ZEROS
            break
    if not reason and lost_digits(first):
        reason = LOST_DIGITS
    raise CatwalkError(
        f"{table}: {unknown:,} of {total:,} {what} are of items that {catalogue} does not have, such as {first!r}; "
        f"its ids are like {own!r}{reason}"
    )


def tidy_categories(names: Sequence[str], table: Path, column: str | None = None) -> tuple[list[str], int]:
    """Return names of categories as people read them, and how many were written in another way.

    Blanks around a name, characters that nobody sees, and the two Unicode forms of one letter make no other category.

    Args:
        names: The names, one for each item.
        table: Where they stand, for the message.
        column: In which column of it; None for folders.

    Raises:
        CatwalkError: If a name is blank.
    """
    spellings: dict[str, str] = {}
    for name in dict.fromkeys(names):
        tidied = _tidy(name)
        key = _key(tidied)
        spellings[key] = min(spellings.get(key, tidied), tidied, key=len)
    kept = {name: spellings[_key(_tidy(name))] for name in dict.fromkeys(names)}
    blank = next((row for row, name in enumerate(names) if not kept[name]), None)
    if blank is not None:
        if column is None:
            raise CatwalkError(f"source: a folder of {table} has the blank name {names[blank]!r}: name the category")
        raise CatwalkError(f"{table}, row {blank + 1}: {column!r} is blank: name the category, or remove the row")
    return [kept[name] for name in names], sum(kept[name] != name for name in names)


def _tidy(name: str) -> str:
    """Return a name in Unicode's composed form, without blanks and invisible characters around it."""
    seen = [place for place, character in enumerate(name) if not (is_invisible(character) or character.isspace())]
    return unicodedata.normalize("NFC", name[seen[0] : seen[-1] + 1]) if seen else ""


def _key(tidied: str) -> str:
    """Return what spellings of one name have in common: within a name invisible characters may join letters."""
    return "".join(one for one in tidied if not is_invisible(one))


def _lost_zeros(one: str, other: str) -> bool:
    return one != other and _without_zeros(one) == _without_zeros(other)


def _without_zeros(text: str) -> str:
    """Return an id without leading zeros and, of an integer that became a float, without the fraction."""
    return id_key(text).lstrip("0")


def _images_below(root: Path) -> Iterator[str]:
    for place, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        for file in sorted(files):
            if not file.startswith(".") and Path(file).suffix.lower() in SUFFIXES:
                yield (Path(place) / file).relative_to(root).as_posix()
