"""Items of every user, such as those that were bought or held out, in compressed sparse rows."""

from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import Self

NO_ITEM = -1
"""Fills the end of a list where a user has fewer candidates than the list has places."""


def mask_value(dtype: torch.dtype) -> float:
    """Return what stands among scores of a type for an item that is no candidate: the lowest number of the type.

    It is finite: minus infinity would be the same as a score that has overflowed. No score may be so low.
    """
    return torch.finfo(dtype).min


class UserItems:
    """Some items of every user, none or any number, such as those that were held out for the test.

    Kept in compressed sparse rows: the items of user ``u`` are ``items[offsets[u] : offsets[u + 1]]``, ascending and
    each once.

    Args:
        offsets: int64 ``(U + 1,)``.
        items: int64 ``(number of distinct pairs,)``.
        num_items: Size of the catalogue.

    Example:
        >>> import torch
        >>> from catwalk.shop.user_items import UserItems
        >>> held_out = UserItems.from_pairs(torch.tensor([1, 0, 1]), torch.tensor([2, 0, 1]), num_users=3, num_items=3)
        >>> held_out.counts
        tensor([1, 2, 0])
        >>> held_out.padded(torch.tensor([2, 1]))
        tensor([[-1, -1],
                [ 1,  2]])
    """

    def __init__(self, offsets: Tensor, items: Tensor, num_items: int) -> None:
        self.offsets = offsets
        self.items = items
        self.num_items = num_items

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def from_pairs(cls, users: Tensor, items: Tensor, num_users: int, num_items: int) -> Self:
        """Build from interactions in any order; a pair that occurs several times counts once.

        Args:
            users: int64 ``(n,)``, each in ``0..num_users - 1``.
            items: int64 ``(n,)``, each in ``0..num_items - 1``.
            num_users: Number of users, those without any interaction included.
            num_items: Size of the catalogue.

        Raises:
            ValueError: If the two do not have one and the same length, or an index is out of range.
        """
        if users.ndim != 1 or users.shape != items.shape:
            raise ValueError(f"users and items must be (n,) each, got {tuple(users.shape)} and {tuple(items.shape)}")
        _check_range("users", users, num_users)
        _check_range("items", items, num_items)
        keys = torch.unique(users.long() * num_items + items.long())  # unique sorts
        counts = torch.bincount(keys // num_items, minlength=num_users)
        return cls(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), keys % num_items, num_items)

    @property
    def num_users(self) -> int:
        """Number of users, those without any item included."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> Tensor:
        """How many distinct items each user has, int64 ``(U,)``."""
        return self.offsets.diff()

    @property
    def users(self) -> Tensor:
        """Whose each of ``items`` is, int64 ``(number of distinct pairs,)``, ascending."""
        return torch.repeat_interleave(torch.arange(self.num_users, device=self.items.device), self.counts)

    @cached_property
    def most(self) -> int:
        """The most items that a user has."""
        return int(self.counts.max())

    def padded(self, users: Tensor) -> Tensor:
        """Return the items of some users, filled up with -1 to the most that any user has.

        Args:
            users: int64 ``(B,)``.

        Returns:
            int64 ``(B, max(1, most))``, ascending; those of a user come first, the -1 after them.
        """
        if not len(self):
            return users.new_full((len(users), 1), NO_ITEM)
        places = self.offsets[users][:, None] + torch.arange(self.most, device=users.device)
        items = self.items[places.clamp(max=len(self) - 1)]
        return items.masked_fill_(places >= self.offsets[users + 1][:, None], NO_ITEM)

    def to(self, device: torch.device | str) -> Self:
        """Return this object on ``device``: itself where it is there already."""
        if self.items.device == torch.empty(0, device=device).device:
            return self
        return type(self)(self.offsets.to(device), self.items.to(device), self.num_items)


class SeenItems(UserItems):
    """The training items of every user, which no recommendation may contain.

    Args:
        offsets: int64 ``(U + 1,)``; see :class:`UserItems`.
        items: int64 ``(number of distinct pairs,)``.
        num_items: Size of the catalogue.

    Example:
        >>> import torch
        >>> from catwalk.shop.user_items import SeenItems
        >>> seen = SeenItems.from_pairs(torch.tensor([1, 0, 1]), torch.tensor([2, 0, 1]), num_users=2, num_items=3)
        >>> seen.counts
        tensor([1, 2])
        >>> seen.mask_(torch.zeros(2, 3), torch.tensor([1, 0])) < 0
        tensor([[False,  True,  True],
                [ True, False, False]])
        >>> seen.contains(torch.tensor([0, 0]), torch.tensor([0, 1]))
        tensor([ True, False])
    """

    def __init__(self, offsets: Tensor, items: Tensor, num_items: int) -> None:
        super().__init__(offsets, items, num_items)
        # The last entry is never met; it spares `contains` the case of a position past the end.
        end = items.new_full((1,), torch.iinfo(torch.int64).max)
        self._keys = torch.cat([self.users * num_items + items, end])

    def mask_(self, scores: Tensor, users: Tensor, block: slice | None = None) -> Tensor:
        """Set the scores of what each user has seen to :func:`mask_value`, in place.

        Args:
            scores: Float ``(B, W)``, on the device of this object.
            users: int64 ``(B,)``; the same user may occur several times.
            block: The W items that the columns are of; the whole catalogue where None.

        Returns:
            ``scores``.

        Raises:
            ValueError: If ``scores`` does not have a row per user and a column per item.
        """
        first, stop = (0, self.num_items) if block is None else (block.start, block.stop)
        if scores.shape != (len(users), stop - first):
            raise ValueError(f"scores must be ({len(users)}, {stop - first}), got {tuple(scores.shape)}")
        if stop - first == self.num_items:
            starts, ends = self.offsets[users], self.offsets[users + 1]
        else:
            keys = users * self.num_items
            starts, ends = torch.searchsorted(self._keys, torch.stack([keys + first, keys + stop]))
        counts = ends - starts
        rows = torch.repeat_interleave(torch.arange(len(users), device=users.device), counts)
        before = counts.cumsum(0) - counts  # where each user's entries begin among those of this block
        entries = torch.arange(len(rows), device=users.device) + (starts - before)[rows]
        scores[rows, self.items[entries] - first] = mask_value(scores.dtype)
        return scores

    def contains(self, users: Tensor, items: Tensor) -> Tensor:
        """Tell which pairs are training interactions.

        Args:
            users: int64, any shape, each in ``0..U - 1``.
            items: int64, of a shape that broadcasts against ``users``. Nobody has seen what is not in ``0..N - 1``,
                such as the ``-1`` that fills short lists.

        Returns:
            bool, of the broadcast shape.
        """
        keys = users * self.num_items + items
        found = self._keys[torch.searchsorted(self._keys, keys)] == keys
        return found & (items >= 0) & (items < self.num_items)


def _check_range(name: str, indices: Tensor, size: int) -> None:
    if not indices.numel():
        return
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= size:
        raise ValueError(f"{name} must be in 0..{size - 1}, got {low}..{high}")
