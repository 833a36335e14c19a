"""Who bought what and when."""

from dataclasses import dataclass
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
        timestamps: int64 or float64 ``(M,)``, in the unit of ``time_type``.
        num_repeats: Rows left out because the user had interacted with the item before.
        time_type: What the timestamps are: int64 or float64, or the type whose moments they count. None where several
            tables tell time in different ways, or a table does not tell it.
    """

    user_ids: tuple[str, ...]
    users: IntArray
    items: IntArray
    timestamps: NDArray[np.generic]
    num_repeats: int
    time_type: pa.DataType | None = None

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
        interactions = cls.from_tables([path], catalogue)
        if interactions.time_type is None:
            raise CatwalkError(f"{path} lacks the column 'timestamp'")
        return interactions

    @classmethod
    def from_tables(cls, paths: list[Path], catalogue: Catalogue) -> "Interactions":
        """Read and check several tables, one after the other, as if they were one.

        Where a table has no timestamps, they are all 0.
        """
        tables, kinds = [], set()
        for path in paths:
            table = read_table(path, ["user_id", "item_id"], ["timestamp"])
            known = pa.compute.is_in(table.column("item_id"), value_set=pa.array(catalogue.item_ids))
            first = pa.compute.index(known, False).as_py()
            if first >= 0:
                item = table.column("item_id")[first].as_py()
                count = table.num_rows - pa.compute.sum(known).as_py()
                raise CatwalkError(
                    f"{path}, row {first + 1}: item {item!r} is not in the catalogue ({count} such rows)"
                )
            kind, moments = _parse_timestamps(table, path)
            kinds.add(kind)
            tables.append(table.append_column("moment", [moments]))
        table = pa.concat_tables(tables, promote_options="permissive")
        items = pa.compute.index_in(table.column("item_id"), value_set=pa.array(catalogue.item_ids))
        encoded = table.column("user_id").combine_chunks().dictionary_encode()
        users = encoded.indices.to_numpy().astype(np.int64)
        item_numbers = items.to_numpy().astype(np.int64)
        timestamps = table.column("moment").to_numpy()
        kept = first_of_each_pair(users * len(catalogue) + item_numbers, timestamps)
        return cls(
            user_ids=tuple(encoded.dictionary.to_pylist()),
            users=users[kept],
            items=item_numbers[kept],
            timestamps=timestamps[kept],
            num_repeats=len(users) - len(kept),
            time_type=kinds.pop() if len(kinds) == 1 else None,
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


def _parse_timestamps(table: pa.Table, path: Path) -> tuple[pa.DataType | None, pa.Array]:
    """Return timestamps as int64 or float64, from whole numbers, decimals, or ISO dates and times, and which it was."""
    if "timestamp" not in table.column_names:
        return None, pa.array(np.zeros(table.num_rows, dtype=np.int64))
    column = table.column("timestamp").combine_chunks()
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
        return kind, parsed.cast(pa.int64()) if pa.types.is_timestamp(kind) else parsed
    raise CatwalkError(
        f"{path}: the timestamps are neither all numbers nor all ISO 8601 dates and times, all or none of them with a "
        f"time zone; the first is {column[0].as_py()!r}"
    )
