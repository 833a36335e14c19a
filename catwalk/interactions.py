"""Who bought what and when, and its division into training, validation and test."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from catwalk.catalogue import Catalogue
from catwalk.errors import CatwalkError
from catwalk.tables import find_table, read_table

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Interactions:
    """Purchases (or clicks, or ratings) in the order of ``interactions.csv``; a user counts an item once.

    Attributes:
        user_ids: The shop's own ids of the U users, in the order of their first appearance.
        users: int64 ``(M,)`` in ``0..U-1``.
        items: int64 ``(M,)`` in ``0..N-1``, the catalogue's numbers.
        timestamps: int64 or float64 ``(M,)``; only their order matters.
        num_repeats: Rows left out because the user had interacted with the item before.
    """

    user_ids: tuple[str, ...]
    users: IntArray
    items: IntArray
    timestamps: NDArray[np.generic]
    num_repeats: int

    @classmethod
    def read(cls, catalogue: Catalogue) -> "Interactions":
        """Read and check ``interactions.csv`` (or ``.parquet``) of the catalogue's folder.

        Timestamps are numbers, or dates and times in ISO 8601. Of several interactions of a user with an item the
        earliest stays: a recommender never recommends what the user has already, so the others could not be tested.

        Raises:
            CatwalkError: If the file is missing, malformed, or names an item that is not in the catalogue.
        """
        path = find_table(catalogue.folder, "interactions")
        if path is None:
            raise CatwalkError(f"{catalogue.folder} has no interactions.csv, which a recommender needs")
        return cls.from_tables([path], catalogue)

    @classmethod
    def from_tables(cls, paths: list[Path], catalogue: Catalogue) -> "Interactions":
        """Read and check several tables, one after the other, as if they were one."""
        tables = []
        for path in paths:
            table = read_table(path, ["user_id", "item_id", "timestamp"])
            known = pa.compute.is_in(table.column("item_id"), value_set=pa.array(catalogue.item_ids))
            first = pa.compute.index(known, False).as_py()
            if first >= 0:
                item = table.column("item_id")[first].as_py()
                count = table.num_rows - pa.compute.sum(known).as_py()
                raise CatwalkError(
                    f"{path}, row {first + 1}: item {item!r} is not in the catalogue ({count} such rows)"
                )
            tables.append(table.append_column("moment", [_parse_timestamps(table.column("timestamp"), path)]))
        table = pa.concat_tables(tables, promote_options="permissive")
        items = pa.compute.index_in(table.column("item_id"), value_set=pa.array(catalogue.item_ids))
        encoded = table.column("user_id").combine_chunks().dictionary_encode()
        users = encoded.indices.to_numpy().astype(np.int64)
        item_numbers = items.to_numpy().astype(np.int64)
        timestamps = table.column("moment").to_numpy()
        kept = _first_of_each_pair(users * len(catalogue) + item_numbers, timestamps)
        return cls(
            user_ids=tuple(encoded.dictionary.to_pylist()),
            users=users[kept],
            items=item_numbers[kept],
            timestamps=timestamps[kept],
            num_repeats=len(users) - len(kept),
        )

    def __len__(self) -> int:
        return len(self.users)

    @property
    def num_users(self) -> int:
        """Number of users, U."""
        return len(self.user_ids)


@dataclass(frozen=True)
class Split:
    """Training pairs, and at most one validation item and one test item per user.

    Attributes:
        user_ids: The shop's own ids of the U users.
        users: Users of the training pairs, int64 ``(M,)``.
        items: Items of the training pairs, int64 ``(M,)``.
        validation: Held-out item of every user for validation, int64 ``(U,)``; -1 where there is none.
        test: Held-out item of every user for the test, int64 ``(U,)``; -1 where there is none.
        num_repeats: Rows left out because the user had interacted with the item before.
    """

    user_ids: tuple[str, ...]
    users: IntArray
    items: IntArray
    validation: IntArray
    test: IntArray
    num_repeats: int = 0

    @property
    def num_users(self) -> int:
        """Number of users, U."""
        return len(self.user_ids)

    @cached_property
    def purchases_per_user(self) -> IntArray:
        """Training pairs of every user, int64 ``(U,)``."""
        return np.bincount(self.users, minlength=self.num_users)


def read_split(catalogue: Catalogue, validation: bool = False) -> Split:
    """Read a dataset folder's interactions, divided as its publisher did or by time-aware leave-one-out.

    Where the folder has ``splits/train.csv`` and ``splits/test.csv`` (and perhaps ``splits/validation.csv``), those
    are used as they are. Otherwise see :func:`leave_one_out`.

    Raises:
        CatwalkError: If a table is missing or malformed, or a published split has two held-out items of a user, or an
            item of a user in two of its parts.
    """
    folder = catalogue.folder / "splits"
    paths = {name: find_table(folder, name) for name in ("train", "validation", "test")} if folder.is_dir() else {}
    train_path, test_path = paths.get("train"), paths.get("test")
    if train_path is None or test_path is None:
        if any(paths.values()):
            raise CatwalkError(f"{folder} needs both train.csv and test.csv to be a split")
        return leave_one_out(Interactions.read(catalogue), validation)
    parts = {name: path for name, path in paths.items() if path is not None}
    # All parts together first, so that the users have the same numbers in each.
    everyone = Interactions.from_tables(list(parts.values()), catalogue)
    numbers = {user: number for number, user in enumerate(everyone.user_ids)}
    pairs = {}
    for name, path in parts.items():
        part = Interactions.from_tables([path], catalogue)
        pairs[name] = (np.array([numbers[user] for user in part.user_ids])[part.users], part.items)
    held_out = {name: np.full(everyone.num_users, -1, dtype=np.int64) for name in ("validation", "test")}
    for name, items in held_out.items():
        if name in pairs:
            users, its_items = pairs[name]
            if len(np.unique(users)) < len(users):
                raise CatwalkError(f"{parts[name]} holds more than one item of a user; one is supported")
            items[users] = its_items
            for other in ("train", "validation"):
                if other == name or other not in pairs:
                    continue
                other_users, other_items = pairs[other]
                if np.isin(users * len(catalogue) + its_items, other_users * len(catalogue) + other_items).any():
                    raise CatwalkError(f"{parts[name]} holds an item that the same user has in {parts[other].name}")
    return Split(everyone.user_ids, *pairs["train"], held_out["validation"], held_out["test"], everyone.num_repeats)


def leave_one_out(interactions: Interactions, validation: bool = False) -> Split:
    """Hold out every user's last interaction by (timestamp, file order) for the test (He et al. 2018, section 5.1).

    Args:
        interactions: All interactions.
        validation: Hold out the one before it as well, from users with at least three.

    Returns:
        The split. Users with a single interaction have it in training and are not tested.
    """
    num_users = interactions.num_users
    order = np.lexsort((np.arange(len(interactions)), interactions.timestamps, interactions.users))
    counts = np.bincount(interactions.users, minlength=num_users)
    last = np.cumsum(counts) - 1  # each user's last row in `order`
    held_out = np.zeros(len(interactions), dtype=bool)
    items = {}
    for name, steps_back, smallest, wanted in (("test", 0, 2, True), ("validation", 1, 3, validation)):
        items[name] = np.full(num_users, -1, dtype=np.int64)
        if wanted:
            chosen = np.flatnonzero(counts >= smallest)
            rows = order[last[chosen] - steps_back]
            items[name][chosen] = interactions.items[rows]
            held_out[rows] = True
    return Split(
        user_ids=interactions.user_ids,
        users=interactions.users[~held_out],
        items=interactions.items[~held_out],
        validation=items["validation"],
        test=items["test"],
        num_repeats=interactions.num_repeats,
    )


def _first_of_each_pair(pairs: IntArray, timestamps: NDArray[np.generic]) -> IntArray:
    """Return the rows of each pair's earliest interaction, in file order."""
    order = np.lexsort((np.arange(len(pairs)), timestamps, pairs))
    is_first = np.ones(len(pairs), dtype=bool)
    is_first[1:] = pairs[order][1:] != pairs[order][:-1]
    return np.sort(order[is_first])


def _parse_timestamps(column: pa.ChunkedArray, path: Path) -> pa.Array:
    """Return timestamps as int64 or float64, from whole numbers, decimals, or ISO dates and times."""
    column = column.combine_chunks()
    times = [pa.timestamp(unit, zone) for unit in ("us", "ns") for zone in (None, "UTC")]
    for kind in (pa.int64(), pa.float64(), *times):
        try:
            parsed = column.cast(kind)
        except pa.ArrowInvalid:
            continue
        if kind == pa.float64():
            first = pa.compute.index(pa.compute.is_finite(parsed), False).as_py()
            if first >= 0:
                raise CatwalkError(f"{path}, row {first + 1}: timestamp {column[first].as_py()!r} is no time")
        return parsed.cast(pa.int64()) if pa.types.is_timestamp(kind) else parsed
    raise CatwalkError(
        f"{path}: the timestamps are neither all numbers nor all ISO 8601 dates and times, all or none of them with a "
        f"time zone; the first is {column[0].as_py()!r}"
    )
