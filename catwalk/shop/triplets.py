"""Triplets (user, item bought, item not bought) for pairwise training, a process's share of an epoch at once."""

import copy
from typing import Literal

import torch
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.keyed_random import derived_seed, integers, permutation
from catwalk.shop.splits import Split
from catwalk.shop.user_items import SeenItems

Negatives = Literal["uniform", "popularity"]
"""Probability of an item as a negative: that of any other, or in proportion to its number of training purchases."""


class TripletSampler:
    """Draws epochs of triplets: every training pair once, in random order, with an item that its user has not bought.

    A negative is never an item that its user has in training, nor a cold one, which nobody has in training. All others
    have the weight 1, or the number of their purchases. It is drawn without rejection: think of the catalogue as a line
    on which each item has as many places as its weight. A user's own items take some of the places; a free one is
    drawn by its number among the free, and a binary search over the user's items tells how many of them lie before it.
    So any user costs the same, one who has all but one item, too.

    The order depends on ``(seed, epoch)`` alone and a negative on these and the number of its training pair, whatever
    the device and however many processes share the epoch.

    Args:
        split: Training pairs, each once.
        seen: Its training items of every user.
        negatives: How probable an item is as a negative.

    Raises:
        CatwalkError: If a user has all items that anybody has in training.
    """

    def __init__(self, split: Split, seen: SeenItems, negatives: Negatives = "uniform") -> None:
        self._users, self._items = torch.from_numpy(split.users), torch.from_numpy(split.items)
        purchases = self._items.bincount(minlength=seen.num_items)
        weights = purchases if negatives == "popularity" else (purchases > 0).long()
        self._item_at = torch.arange(seen.num_items).repeat_interleave(weights)
        # A user's items, in the order of the line, with the places that they and those before them take.
        owners = torch.arange(seen.num_users).repeat_interleave(seen.counts)
        taken = weights[seen.items]
        self._taken_before = torch.cat([taken.new_zeros(1), taken.cumsum(0)])
        self._first = seen.offsets[:-1]
        free_before = (weights.cumsum(0) - weights)[seen.items]
        free_before -= self._taken_before[:-1] - self._taken_before[self._first][owners]
        self._stride = len(self._item_at) + 1
        self._keys = owners * self._stride + free_before
        self._num_free = len(self._item_at) - self._taken_before[seen.offsets].diff()
        stuck = torch.nonzero((self._num_free == 0) & (seen.counts > 0)).squeeze(1)
        if len(stuck):
            user = int(stuck[0])
            raise CatwalkError(
                f"user {split.user_ids[user]!r} has bought all {int(seen.counts[user])} items that anybody has in "
                "training, so there is no item to compare them with: leave this user out of the training interactions"
            )

    def to(self, device: torch.device | str) -> "TripletSampler":
        """Return a sampler that works on ``device``."""
        moved = copy.copy(self)
        moved.__dict__ |= {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return moved

    def sample_epoch(self, seed: int, epoch: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Return a process's triplets of an epoch: those at the places ``rank``, ``rank + world_size``, … of its order.

        Each process takes as many as the others: the epoch is filled up from its own beginning.

        Args:
            seed: At least 0.
            epoch: Number of the epoch.
            rank: This process, ``0..world_size - 1``.
            world_size: Number of processes.

        Returns:
            ``(users, positives, negatives)``, int64 ``(ceil(M / world_size),)`` each, of M training pairs, on the
            sampler's device.
        """
        count, device = len(self._users), self._users.device
        order = permutation(derived_seed(seed, epoch, 0), count, device)
        places = torch.arange(-(-count // world_size), device=device) * world_size + rank
        pairs = order[places % count] if world_size > 1 else order
        users = self._users[pairs]
        return users, self._items[pairs], self._sample_negatives(users, pairs, derived_seed(seed, epoch, 1))

    def _sample_negatives(self, users: Tensor, keys: Tensor, seed: int) -> Tensor:
        """Return an item for every user, int64 ``(T,)``, which depends on the seed, the user and the key alone."""
        free = integers(seed, keys, self._num_free[users])
        end = torch.searchsorted(self._keys, users * self._stride + free, right=True)
        taken = self._taken_before[end] - self._taken_before[self._first[users]]
        return self._item_at[free + taken]
