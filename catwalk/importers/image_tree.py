"""Items of a tree of folders, one for each category, with or without folders for their splits."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NoReturn

from catwalk.errors import CatwalkError
from catwalk.importers.items import (
    SUFFIXES,
    TIDIED_CATEGORIES,
    Items,
    tidy_categories,
)
from catwalk.importers.purchases import (
    LONGEST_ID,
    SPELLED_ITEMS,
    is_file_name,
)
from catwalk.shop.ids import has_controls, id_key, plain_id

Layout = Literal["categories", "splits"]
"""Meanings of the folders in a tree of images."""

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
    "dev": "validation",
    "eval": "validation",
    "holdout": "test",
}
"""The splits by the names that folders have, in small letters and without :data:`SPLIT_ENDING`."""


SPLIT_ENDING = re.compile(r"[-_ ]?(set|images?|data|split)\Z")
"""Words allowed behind a split's name, as in ``training_set`` and ``test_images``."""


def read_tree(source: Path, purchases: Path | None = None, layout: Layout | None = None) -> Items:
    """Find the images in ``source/Category/…/item.jpg`` or ``source/train/Category/…/item.jpg``, ordered by path.

    Args:
        source: The folder whose folders are the categories, or the splits.
        purchases: A file that may lie in it as well.
        layout: What the folders are; None goes by their names.

    Raises:
        CatwalkError: If there is none, a folder is a link, two files give the same id, or it is not plain what the
            folders are.
    """
    found, paths, causes = Items(), [], Counter[str]()
    for place, folders, files in os.walk(source, onerror=_refuse):
        inside = Path(place).relative_to(source)
        causes["hidden files and folders"] += sum(entry.startswith(".") for entry in [*folders, *files])
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        for entry in folders:
            if (Path(place) / entry).is_symlink():
                raise CatwalkError(f"source: {Path(place) / entry} is a link to a folder: put the folder itself there")
        for entry in sorted(entry for entry in files if not entry.startswith(".")):
            path = inside / entry
            if path.suffix.lower() not in SUFFIXES:
                is_log = purchases is not None and (source / path).resolve() == purchases.resolve()
                causes["files that are no images"] += not is_log
            else:
                _check_name(source, path)
                paths.append(path)
    has_splits = _has_splits(source, paths, layout)
    depth = 2 if has_splits else 1
    kept = [path for path in paths if len(path.parts) > depth]
    causes["images outside the folders of categories"] += len(paths) - len(kept)
    if not kept:
        listed = "; ".join(f"{count:,} {cause}" for cause, count in causes.items() if count)
        example = f"{source}/{paths[0].parts[0] if has_splits else 'Shoes'}/{'Shoes/' if has_splits else ''}item.jpg"
        raise CatwalkError(
            f"source: {source} has no images in folders of categories, as in {example}"
            f"{f' ({listed})' if listed else ''}; or list them in a table with --items"
        )
    names = [path.stem for path in kept]
    if has_splits and purchases is None and len({id_key(name) for name in names}) < len(kept):
        names = ["-".join(path.with_suffix("").parts) for path in kept]  # nobody else knows these items
    owners: dict[str, Path] = {}
    for name, path in zip(names, kept, strict=True):
        one = plain_id(name)
        if not one:
            raise CatwalkError(f"source: the name of {source}/{path.as_posix()!a} is blank: rename it")
        if has_controls(one):
            raise CatwalkError(f"source: the name of {source}/{path.as_posix()!a} holds control characters: rename it")
        if id_key(one) in owners:
            raise CatwalkError(
                f"source: {source / owners[id_key(one)]} and {source / path} both give the item {one!r}: rename one of "
                "them"
            )
        if not is_file_name(one):
            raise CatwalkError(f"source: {source / path} gives the item {one[:80]!r}…, of over {LONGEST_ID} bytes")
        owners[id_key(one)] = path
        found.ids.append(one)
    found.categories, tidied = tidy_categories([path.parts[depth - 1] for path in kept], source)
    found.repaired = {
        SPELLED_ITEMS: sum(one != name for one, name in zip(found.ids, names, strict=True)),
        TIDIED_CATEGORIES: tidied,
    }
    found.images = [path.as_posix() for path in kept]
    found.splits = [_split_of(path.parts[0]) or "" for path in kept] if has_splits else []
    found.left_out |= causes
    return found


def _split_of(folder: str) -> str | None:
    """Return the split that a folder's name stands for, or None."""
    return SPLIT_NAMES.get(SPLIT_ENDING.sub("", plain_id(folder).casefold()))


def _has_splits(source: Path, images: Sequence[Path], layout: Layout | None) -> bool:
    """Return whether the folders in a source are splits, or raise a CatwalkError if they may be either."""
    if layout == "categories":
        return False
    named = sorted({path.parts[0] for path in images if len(path.parts) > 1})
    splits = [name for name in named if _split_of(name) is not None]
    others = [name for name in named if name not in splits]
    if layout == "splits" and (others or not splits):
        raise CatwalkError(
            f"layout: {source} has the folders {_listed(named)}, and splits are called {', '.join(SPLIT_NAMES)}"
        )
    if splits and not others:
        return True
    if len(set(map(_split_of, splits))) > 1:
        raise CatwalkError(
            f"source: {source} has the splits {_listed(splits)} and beside them {_listed(others)}: move these away, or "
            "give --layout categories if all of them are categories"
        )
    below = {path.parts[1] for path in images if len(path.parts) > 2}
    splits_below = set(map(_split_of, below))
    if len(splits_below - {None}) > 1:
        if None in splits_below:
            return False
        raise CatwalkError(
            f"source: the folders in {source}/{named[0]} are called {_listed(sorted(below))}, as splits are: give "
            f"{source}/{named[0]} if the categories are in these, put the splits first, as in "
            f"{source}/{sorted(below)[0]}/{named[0]}/item.jpg, or give --layout categories to take no notice of them"
        )
    return False


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    shown = names if len(names) <= 8 else [*names[:8], "…"]
    return ", ".join(shown) or "none"


def _refuse(error: OSError) -> NoReturn:
    raise CatwalkError(f"source: {error.filename} cannot be looked into: {error.strerror}") from error


def _check_name(source: Path, path: Path) -> None:
    """Raise a CatwalkError unless the name of an image's file can be an item's id."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise CatwalkError(f"source: the name of {source}/{shown} is not UTF-8: rename the file") from None
    if not is_file_name(path.stem):
        raise CatwalkError(
            f"source: the name of {source / path} cannot be an item's id: no backslashes, at most {LONGEST_ID} bytes"
        )
