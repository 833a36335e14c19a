"""Purchases as a publisher gives them, and what of them is left out before they become a dataset folder."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from catwalk.errors import CatwalkError
from catwalk.shop.ids import Spellings, doubtful_ids, first_clash, has_controls, plain_id
from catwalk.shop.interactions import first_of_each_pair
from catwalk.shop.times import CheckedTimes, check_times

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

SPELLED_ITEMS = "ids of items in their table, spelled in another way"
"""Name of the count of item ids that importers wrote in plain form."""

LONGEST_ID = 200
"""Bytes of the longest id of an item; file systems take 255 with the ending."""


@dataclass(frozen=True)
class Purchases:
    """Who bought what and when, in the publisher's order. Every method returns what is left, and counts the rest.

    Attributes:
        user_ids: The publisher's ids of the users, U of them.
        item_ids: The publisher's ids of the items, N of them.
        users: int64 ``(M,)`` in ``0..U-1``.
        items: int64 ``(M,)`` in ``0..N-1``.
        timestamps: ``(M,)``: numbers, or ``datetime64`` where the publisher gives days or times of day.
        left_out: How many purchases are left out so far, by cause.
        repaired: How many ids and times of purchases were repaired, by kind.
        remarks: What is doubtful about ids and times, a sentence each.
    """

    user_ids: Sequence[str]
    item_ids: Sequence[str]
    users: IntArray
    items: IntArray
    timestamps: NDArray[np.generic]
    left_out: dict[str, int] = field(default_factory=dict)
    repaired: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.users)

    def tidied(
        self, item_ids: Sequence[str], source: object, user_ids: Sequence[str] = (), has_times: bool = True
    ) -> "Purchases":
        """Lead spellings of an id to one id, and times to one unit, where it is certain; say what is doubtful.

        Every importer calls this before anything is left out.

        Args:
            item_ids: The ids of the items on sale; what the purchases spell otherwise becomes one of them.
            source: What the purchases were read from, for the messages.
            user_ids: Ids of users that are known from elsewhere.
            has_times: Whether the timestamps are times.

        Raises:
            CatwalkError: If an id is blank, that of a user holds control characters, or it is not certain in which
                units times are.
        """
        users, items = Spellings.of(self.user_ids, user_ids), Spellings.of(self.item_ids, item_ids)
        for what, spellings in (("user", users), ("item", items)):
            if "" in spellings.names:
                raise CatwalkError(f"{source}: the id of {'an' if what == 'item' else 'a'} {what} is blank")
        controlled = next(filter(has_controls, users.names), None)
        if controlled is not None:
            raise CatwalkError(f"{source}: the id of a user holds control characters: {controlled[:80]!a}")
        repaired = {
            f"ids of {what} spelled in another way ({spellings.example})": int(spellings.rewritten[column].sum())
            for what, spellings, column in (("users", users, self.users), ("items", items, self.items))
            if spellings.example
        }
        checked = check_times(self.timestamps, str(source)) if has_times else CheckedTimes(self.timestamps)
        remarks = [*doubtful_ids(users.names, "users"), *doubtful_ids(items.names, "items"), *checked.remarks]
        return replace(
            self,
            user_ids=users.names,
            item_ids=items.names,
            users=users.places[self.users],
            items=items.places[self.items],
            timestamps=checked.times,
            repaired=self.repaired | repaired | checked.repaired,
            remarks=(*self.remarks, *remarks),
        )

    def where(self, kept: BoolArray, cause: str) -> "Purchases":
        """Keep the purchases for which ``kept`` is true; the others are counted under ``cause``."""
        dropped = len(self) - int(kept.sum())
        left_out = self.left_out | {cause: self.left_out.get(cause, 0) + dropped}
        return replace(
            self, users=self.users[kept], items=self.items[kept], timestamps=self.timestamps[kept], left_out=left_out
        )

    def of_items(self, on_sale: Collection[str], cause: str) -> "Purchases":
        """Keep the purchases of these items."""
        wanted = set(on_sale)
        return self.where(np.array([item in wanted for item in self.item_ids], dtype=bool)[self.items], cause)

    def without_repeats(self) -> "Purchases":
        """Keep the earliest purchase of each user and item, the first in the publisher's order where times are equal.

        A recommender never recommends what a user has, so that another purchase of it could not be tested.
        """
        kept = np.zeros(len(self), dtype=bool)
        kept[first_of_each_pair(self.users * len(self.item_ids) + self.items, self.timestamps)] = True
        return self.where(kept, "repeated purchases of an item by the same user")

    def core(self, least: int, one_pass: bool = False) -> "Purchases":
        """Keep the ``least``-core: see :func:`k_core`."""
        check_core(least)
        how = "one pass" if one_pass else "repeated until nothing changes"
        kept = k_core(self.users, self.items, least, one_pass)
        return self.where(kept, f"purchases of users or items with fewer than {least} ({how})")

    def between(self, first: np.datetime64 | None, last: np.datetime64 | None) -> "Purchases":
        """Keep the purchases from the day ``first`` to the day ``last``, both included; None sets no bound."""
        days = self.timestamps.astype("datetime64[D]")
        kept = np.ones(len(self), dtype=bool)
        if first is not None:
            kept &= days >= first
        if last is not None:
            kept &= days <= last
        return self.where(kept, "purchases outside the dates")

    @cached_property
    def items_bought(self) -> frozenset[str]:
        """The items of which a purchase is left."""
        return frozenset(self.item_ids[item] for item in np.unique(self.items).tolist())

    def columns(self) -> tuple[list[str], list[str], list[int] | list[float] | list[str]]:
        """Return user ids, item ids and timestamps of all purchases, as they are written; times as ISO 8601."""
        if np.issubdtype(self.timestamps.dtype, np.datetime64):
            moments, places = np.unique(self.timestamps, return_inverse=True)  # millions of purchases, few days
            texts = np.datetime_as_string(moments).tolist()
            times = [texts[place] for place in places]
        else:
            times = self.timestamps.tolist()
        users, items = self.user_ids, self.item_ids
        return [users[user] for user in self.users], [items[item] for item in self.items], times

    def check_some_left(self, source: object) -> None:
        """Raise a CatwalkError if nothing is left, which tells what took it away."""
        if len(self) == 0:
            causes = "; ".join(f"{count:,} {cause}" for cause, count in self.left_out.items() if count)
            raise CatwalkError(f"{source}: no purchase is left ({causes or 'it has none'})")


def k_core(users: IntArray, items: IntArray, least: int, one_pass: bool = False) -> BoolArray:
    """Find the purchases of users and items that have at least ``least`` of them among those found.

    Args:
        users: int64 ``(M,)``, numbers from 0.
        items: int64 ``(M,)``, numbers from 0.
        least: Purchases that a user and an item must have.
        one_pass: Drop the users with fewer, and then the items, once, as the paper's code does: afterwards some users
            may have fewer. Without it this is repeated until nothing changes, which gives the one largest core.

    Returns:
        bool ``(M,)``.
    """
    kept = np.ones(len(users), dtype=bool)
    while True:
        before = int(kept.sum())
        for numbers in (users, items):
            kept &= (np.bincount(numbers[kept], minlength=numbers.max(initial=-1) + 1) >= least)[numbers]
        if one_pass or kept.sum() == before:
            return kept


def check_core(least: int) -> None:
    """Raise a CatwalkError unless there is such a core; an importer asks before it reads."""
    if least < 1:
        raise CatwalkError(f"core must be at least 1, got {least}")


def fits(texts: pa.Scalar | pa.Array, kind: pa.DataType) -> bool:
    """Return whether a text, or all of several, can be read as ``kind``, a type of numbers, days or times."""
    try:
        texts.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def first_misfit(texts: Sequence[pa.Array], kind: pa.DataType) -> int:
    """Return the row, from 0, of the first text that cannot be read as ``kind``; there must be one.

    Args:
        texts: Strings, ``(M,)`` in all.
        kind: A type of numbers, days or times.
    """
    rows = 0
    for part in texts:
        if not fits(part, kind):
            return rows + next(row for row, text in enumerate(part) if not fits(text, kind))
        rows += len(part)
    raise ValueError(f"all are {kind}")


class Numbering:
    """Numbers ids in the order of their first appearance, batch by batch, so that long files need no second reading."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._parts: list[NDArray[np.int32]] = []

    def add(self, ids: pa.Array) -> None:
        """Add a batch of ids, a string array."""
        encoded = ids.dictionary_encode()
        numbers = self._numbers
        own = [numbers.setdefault(name, len(numbers)) for name in encoded.dictionary.to_pylist()]
        self._parts.append(np.array(own, dtype=np.int32)[encoded.indices.to_numpy()])

    def finish(self) -> tuple[list[str], IntArray]:
        """Return the ids, and the numbers of everything that was added, int64 ``(M,)``."""
        parts = self._parts or [np.zeros(0, dtype=np.int32)]
        return list(self._numbers), np.concatenate(parts).astype(np.int64)


def check_ids(ids: Sequence[str], path: Path, column: str) -> list[str]:
    """Return the ids of items in plain form, see :func:`catwalk.shop.ids.plain_id`.

    Args:
        ids: The items' ids, of which the paths of their images are made.
        path: Where they stand, for the message.
        column: In which column.

    Raises:
        CatwalkError: If an id is blank, occurs twice, perhaps in two spellings, would be no plain file name, or holds
            control characters.
    """
    plain: dict[str, int] = {}
    for row, name in enumerate(ids):
        text = plain_id(name)
        if not text:
            raise CatwalkError(f"{path}, row {row + 1}: {column} {name!a} is blank")
        other = plain.setdefault(text, row)
        if other != row:
            if ids[other] == name:
                raise CatwalkError(f"{path}, row {row + 1}: {column} {name!r} occurs a second time")
            raise _clash(path, column, ids, other, row)
        if not is_file_name(text):
            raise CatwalkError(
                f"{path}, row {row + 1}: {column} {name[:80]!r} cannot be the name of a file: no slashes, at most "
                f"{LONGEST_ID} bytes"
            )
        if has_controls(text):
            raise CatwalkError(f"{path}, row {row + 1}: {column} {name[:80]!a} holds control characters: remove them")
    clash = first_clash(ids)
    if clash is not None:
        raise _clash(path, column, ids, *clash)
    return list(plain)


def _clash(path: Path, column: str, ids: Sequence[str], one: int, other: int) -> CatwalkError:
    return CatwalkError(
        f"{path}, rows {one + 1} and {other + 1}: {column} {ids[one]!a} and {ids[other]!a} are two spellings "
        "of one id: keep one of the rows"
    )


def is_file_name(name: str) -> bool:
    """Return whether a name can be that of a file everywhere, with an ending added."""
    return name not in (".", "..") and not any(mark in name for mark in "/\\\0") and len(name.encode()) <= LONGEST_ID
