"""Interactions: who bought what and when."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from catwalk.errors import CatwalkError
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.columns import find_table, read_table
from catwalk.shop.ids import Spellings, doubtful_ids
from catwalk.shop.times import check_times, times_without_digits, trim_times

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Interactions:
    """Purchases (or clicks, or ratings) in the order of ``interactions.csv``; a user counts an item once.

    Attributes:
        user_ids: The shop's own ids of the U users, in the order of their first appearance.
        users: int64 ``(M,)`` in ``0..U-1``.
        items: int64 ``(M,)`` in ``0..N-1``, the catalogue's numbers.
        timestamps: int64 or float64 ``(M,)``, in the unit of ``time_type``.
        num_repeats: Rows left out because the user had interacted with the item before.
        time_type: What the timestamps are: int64 or float64, or the type whose moments they count. None where several
            tables tell time in different ways, or a table does not tell it.
        remarks: What was repaired or is doubtful about ids and times, a sentence each.
    """

    user_ids: tuple[str, ...]
    users: IntArray
    items: IntArray
    timestamps: NDArray[np.generic]
    num_repeats: int
    time_type: pa.DataType | None = None
    remarks: tuple[str, ...] = ()

    @classmethod
    def read(cls, catalogue: Catalogue) -> "Interactions":
        """Read and check ``interactions.csv`` (or ``.parquet``) of the catalogue's folder.

        Timestamps are numbers, or dates and times in ISO 8601. Spellings of an id that differ in surrounding blanks,
        invisible characters or Unicode form are one id, and so are ``123`` and ``123.0``; Unix times in several units
        are brought to one. Of several interactions of a user with an item the
        earliest stays: a recommender never recommends what the user has already, so the others could not be tested.

        Raises:
            CatwalkError: If the file is missing, malformed, or names an item that is not in the catalogue.
        """
        path = find_table(catalogue.folder, "interactions")
        if path is None:
            raise CatwalkError(f"{catalogue.folder} has no interactions.csv, which a recommender needs")
        interactions = cls.from_tables([path], catalogue)
        if interactions.time_type is None:
            raise CatwalkError(f"{path} lacks the column 'timestamp'")
        return interactions

    @classmethod
    def from_tables(cls, paths: list[Path], catalogue: Catalogue) -> "Interactions":
        """Read and check several tables, one after the other, as if they were one.

        Where a table has no timestamps, they are all 0.
        """
        tables, items, kinds, remarks = [], [], set(), list[str]()
        num_items, rewritten, example = len(catalogue), 0, ""
        for path in paths:
            table = read_table(path, ["user_id", "item_id"], ["timestamp"])
            column = table.column("item_id").combine_chunks().dictionary_encode()
            texts = column.dictionary.to_pylist()
            spellings = Spellings.of(texts, catalogue.item_ids)
            rows = column.indices.to_numpy()
            numbers = spellings.places[rows]
            unknown = np.flatnonzero(numbers >= num_items)
            if len(unknown):
                raise CatwalkError(
                    f"{path}, row {unknown[0] + 1}: item {texts[rows[unknown[0]]]!r} is not in the catalogue "
                    f"({len(unknown)} such rows)"
                )
            rewritten += int(spellings.rewritten[rows].sum())
            example = example or spellings.example
            kind, moments, doubts = _parse_timestamps(table, path)
            kinds.add(kind)
            remarks += doubts
            items.append(numbers)
            tables.append(table.append_column("moment", [moments]))
        if rewritten:
            remarks.append(f"{rewritten:,} purchases spell their item's id otherwise than the catalogue: {example}")
        table = pa.concat_tables(tables, promote_options="permissive")
        encoded = table.column("user_id").combine_chunks().dictionary_encode()
        rows = encoded.indices.to_numpy()
        users = Spellings.of(encoded.dictionary.to_pylist())
        if users.rewritten.any():
            count = int(users.rewritten[rows].sum())
            remarks.append(f"{count:,} purchases spell their user's id otherwise than others: {users.example}")
        remarks += doubtful_ids(users.names, "users")
        user_numbers, item_numbers = users.places[rows], np.concatenate(items)
        timestamps = table.column("moment").to_numpy()
        if kinds == {pa.int64(), pa.float64()}:
            kinds.remove(pa.int64())
        time_type = kinds.pop() if len(kinds) == 1 else None
        if time_type is not None:
            timestamps, time_type, found = _check_timestamps(timestamps, time_type, " and ".join(map(str, paths)))
            remarks += found
        kept = first_of_each_pair(user_numbers * num_items + item_numbers, timestamps)
        return cls(
            user_ids=users.names,
            users=user_numbers[kept],
            items=item_numbers[kept],
            timestamps=timestamps[kept],
            num_repeats=len(user_numbers) - len(kept),
            time_type=time_type,
            remarks=tuple(remarks),
        )

    def __len__(self) -> int:
        return len(self.users)

    @property
    def num_users(self) -> int:
        """Number of users, U."""
        return len(self.user_ids)


def first_of_each_pair(pairs: IntArray, timestamps: NDArray[np.generic]) -> IntArray:
    """Return the rows of each pair's earliest interaction, in file order."""
    order = np.lexsort((np.arange(len(pairs)), timestamps, pairs))
    is_first = np.ones(len(pairs), dtype=bool)
    is_first[1:] = pairs[order][1:] != pairs[order][:-1]
    return np.sort(order[is_first])


def _check_timestamps(
    timestamps: NDArray[np.generic], kind: pa.DataType, source: str
) -> tuple[NDArray[np.generic], pa.DataType, list[str]]:
    """Return timestamps in one unit, their type, and what was repaired or is doubtful."""
    is_date = pa.types.is_timestamp(kind)
    checked = check_times(timestamps.view(f"datetime64[{kind.unit}]") if is_date else timestamps, source)
    remarks = [*(f"{count:,} {what}" for what, count in checked.repaired.items()), *checked.remarks]
    return (
        (timestamps, kind, remarks) if is_date else (checked.times, pa.from_numpy_dtype(checked.times.dtype), remarks)
    )


def _parse_timestamps(table: pa.Table, path: Path) -> tuple[pa.DataType | None, pa.Array, tuple[str, ...]]:
    """Return timestamps as int64 or float64, from whole numbers, decimals, or ISO dates and times.

    Returns:
        What they were, the timestamps, and what is doubtful about their texts.
    """
    if "timestamp" not in table.column_names:
        return None, pa.array(np.zeros(table.num_rows, dtype=np.int64)), ()
    column = trim_times(table.column("timestamp").combine_chunks())
    empty = pa.compute.or_kleene(pa.compute.is_null(column), pa.compute.equal(column, ""))
    first = pa.compute.index(empty, True).as_py()
    if first >= 0:
        raise CatwalkError(f"{path}, row {first + 1}: 'timestamp' is empty")
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
        doubts = times_without_digits(column) if kind == pa.float64() else ()
        return kind, parsed.cast(pa.int64()) if pa.types.is_timestamp(kind) else parsed, doubts
    raise CatwalkError(
        f"{path}: the timestamps are neither all numbers nor all ISO 8601 dates and times, all or none of them with a "
        f"time zone; the first is {column[0].as_py()!r}"
    )
