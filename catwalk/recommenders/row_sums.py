"""Sums of gradients over the rows of tables that a batch uses several times."""

from typing import NamedTuple

import torch
from torch import Tensor


class RowSums(NamedTuple):
    """The gradients of rows.

    Attributes:
        rows: Numbers of the rows, int64 ``(n,)``. Where a row stands several times, its sum does as well.
        sums: Their gradients, ``(n, K)``.
        num_user_rows: How many of them, the first ones, are of users.
    """

    rows: Tensor
    sums: Tensor
    num_user_rows: int


def static_row_sums(keys: Tensor, gradients: Tensor) -> RowSums:
    """Add up gradients by row, in the order in which they stand, in shapes that do not depend on the rows' numbers.

    A row stands in the result as often as in the batch, each time with the same sum, so that writing it several times
    writes the same. Nothing waits for the device.

    Args:
        keys: Row of each gradient, int64 ``(T, n)``; the last two parts are of items, whose rows come last.
        gradients: ``(T, n, K)``.
    """
    ordered, order = torch.sort(keys.view(-1), stable=True)
    begins = torch.searchsorted(ordered, ordered)
    ends = torch.searchsorted(ordered, ordered, right=True)
    places = torch.arange(len(ordered), device=keys.device)
    # A bag for each place: the first of a row has all of them, and those behind it have none.
    offsets = torch.where(begins == places, places, ends)
    sums = torch.embedding_bag(gradients.flatten(0, 1), order, offsets, mode=0)[0]
    return RowSums(ordered, sums.index_select(0, begins), keys[:-2].numel())


class CoalescedRowSums:
    """Adds up gradients by row as autograd does with the sparse gradients of embeddings, to the bit, on a CPU.

    Autograd merges the gradients of the items bought with those of the items not bought, before it sorts them by row
    and adds up what has the same. What meets in the merging is one gradient from then on.

    Args:
        num_tables: T, 3 or 4: parts of the keys, of which the last two are of items.
        batch: Number of gradients of each part.
        num_rows: Number of rows of all tables.
        apart: By how much the keys of the second table of users lie above those of the first.
    """

    def __init__(self, num_tables: int, batch: int, num_rows: int, apart: int) -> None:
        self._num_tables, self._batch, self._num_rows, self._apart = num_tables, batch, num_rows, apart
        self._shift = (8 * batch).bit_length()
        bought = torch.arange((num_tables - 2) * batch, (num_tables - 1) * batch)
        others = bought + batch
        # Numbers of gradients; those of the second kind twice, so that a sum of both can be told from either.
        self._bought, self._others = bought, others + (others << self._shift)
        self._is_first = torch.ones(2 * batch, dtype=torch.bool)

    def __call__(self, keys: Tensor, gradients: Tensor) -> RowSums:
        """Add up.

        Args:
            keys: Row of each gradient, int64 ``(T, B)``.
            gradients: ``(T + 1, B, K)``; those behind T are room that may be written to.
        """
        batch, tables = self._batch, self._num_tables
        flat = gradients.view(-1, gradients.shape[-1])
        users, order, begins = self._ordered(keys[0])
        parts = [order + number * batch for number in range(1, tables - 2)]
        item_keys, numbers = self._merged(keys[-2], keys[-1], flat)
        items, item_order, item_begins = self._ordered(item_keys)
        used = users.index_select(0, begins)
        of_users = [used, *(used + number * self._apart for number in range(1, tables - 2))]
        offsets = [*(begins + number * batch for number in range(tables - 2)), item_begins + (tables - 2) * batch]
        sums = torch.embedding_bag(
            flat, torch.cat([order, *parts, numbers.index_select(0, item_order)]), torch.cat(offsets), mode=0
        )[0]
        rows = torch.cat([*of_users, items.index_select(0, item_begins)])
        return RowSums(rows, sums, (tables - 2) * len(used))

    def _ordered(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys in the order that coalescing brings them into, where from, and where each new one begins."""
        ordered, order = keys.sort(0)
        is_first = self._is_first[: len(keys)]
        torch.ne(ordered[1:], ordered[:-1], out=is_first[1:])
        return ordered, order, is_first.nonzero().squeeze(1)

    def _merged(self, bought: Tensor, others: Tensor, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys of items as autograd merges them, and the numbers of their gradients."""
        size = (self._num_rows,)
        pair = [
            torch.sparse_coo_tensor(keys[None], codes, size, check_invariants=False)
            for keys, codes in ((bought, self._bought), (others, self._others))
        ]
        merged = pair[0] + pair[1]
        codes = merged._values()
        numbers = codes & ((1 << self._shift) - 1)
        if len(codes) < 2 * self._batch:  # some have met
            second = codes >> self._shift
            met = ((second != 0) & (numbers != second)).nonzero().squeeze(1)
            room = torch.arange(len(met)) + self._num_tables * self._batch
            flat[room] = flat[numbers[met] - second[met]] + flat[second[met]]
            numbers[met] = room
        return merged._indices()[0], numbers
