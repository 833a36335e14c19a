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
        keys: Row of each gradient, int64 ``(T, R, B)``; the last two parts are of items, whose rows come last.
        gradients: ``(T, R * B, K)``.
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
    and adds up what has the same. What meets in the merging is one gradient from then on. The sort keeps no order
    among equal rows, but is the same whenever the rows are, so that each model's are sorted by themselves.

    Args:
        num_tables: T, 3 or 4: parts of the keys, of which the last two are of items.
        num_models: R.
        batch: B.
        num_rows: Number of rows of all tables.
        apart: By how much the keys of the second table of users lie above those of the first.
    """

    def __init__(self, num_tables: int, num_models: int, batch: int, num_rows: int, apart: int) -> None:
        self._user_tables, self._num_models, self._batch = num_tables - 2, num_models, batch
        self._num_rows, self._apart = num_rows, apart
        self._part = num_models * batch
        self._shift = (4 * num_tables * self._part).bit_length()
        bought = torch.arange(self._user_tables * self._part, (num_tables - 1) * self._part)
        others = bought + self._part
        # Numbers of gradients; those of the second kind twice, so that a sum of both can be told from either.
        self._bought = bought.split(batch)
        self._others = (others + (others << self._shift)).split(batch)
        self._is_first = torch.ones(2 * batch, dtype=torch.bool)

    def __call__(self, keys: Tensor, gradients: Tensor) -> RowSums:
        """Add up.

        Args:
            keys: Row of each gradient, int64 ``(T, R, B)``.
            gradients: ``(T + 1, R * B, K)``; those behind T are room that may be written to.
        """
        flat = gradients.view(-1, gradients.shape[-1])
        room = (self._user_tables + 2) * self._part  # where the next gradient of two goes
        rows, orders, bags = [], [], []
        count = 0
        for model in range(self._num_models):
            users, order, begins = self._ordered(keys[0, model])
            rows.append(users.index_select(0, begins))
            orders.append(order + model * self._batch if model else order)
            bags.append(begins + count if count else begins)
            count += len(order)
        for table in range(1, self._user_tables):
            rows += [each + table * self._apart for each in rows[: self._num_models]]
            orders += [each + table * self._part for each in orders[: self._num_models]]
            bags += [each + table * self._part for each in bags[: self._num_models]]
        num_user_rows, count = sum(map(len, rows)), self._user_tables * self._part
        for model in range(self._num_models):
            merged, numbers, room = self._merged(keys[-2:, model], model, flat, room)
            items, order, begins = self._ordered(merged)
            rows.append(items.index_select(0, begins))
            orders.append(numbers.index_select(0, order))
            bags.append(begins + count)
            count += len(order)
        sums = torch.embedding_bag(flat, torch.cat(orders), torch.cat(bags), mode=0)[0]
        return RowSums(torch.cat(rows), sums, num_user_rows)

    def _ordered(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys in the order that coalescing brings them into, where from, and where each new one begins."""
        ordered, order = keys.sort(0)
        is_first = self._is_first[: len(keys)]
        torch.ne(ordered[1:], ordered[:-1], out=is_first[1:])
        return ordered, order, is_first.nonzero().squeeze(1)

    def _merged(self, keys: Tensor, model: int, flat: Tensor, room: int) -> tuple[Tensor, Tensor, int]:
        """Return the keys of items as autograd merges them, the numbers of their gradients, and where there is room."""
        pair = [
            torch.sparse_coo_tensor(own[None], codes[model], (self._num_rows,), check_invariants=False)
            for own, codes in zip(keys, (self._bought, self._others), strict=True)
        ]
        merged = pair[0] + pair[1]
        codes = merged._values()
        numbers = codes & ((1 << self._shift) - 1)
        if len(codes) < 2 * self._batch:  # some have met
            second = codes >> self._shift
            met = ((second != 0) & (numbers != second)).nonzero().squeeze(1)
            end = room + len(met)
            flat[room:end] = flat[numbers[met] - second[met]] + flat[second[met]]
            numbers[met] = torch.arange(room, end)
            room = end
        return merged._indices()[0], numbers, room
