"""Triplets (user, item bought, item not bought) for pairwise training, a whole epoch at once."""

import torch
from torch import Tensor

from catwalk.counter_random import derived_seed
from catwalk.errors import CatwalkError
from catwalk.ranking import SeenItems


def sample_negatives(users: Tensor, seen: SeenItems, random: torch.Generator) -> Tensor:
    """Draw an item for every user, uniformly from those that the user has not bought in training.

    By rejection: all are drawn at once, those that hit a bought item are drawn again, until none does.

    Args:
        users: int64 ``(T,)``.
        seen: Training items of every user.
        random: Source of randomness, on the device of ``users``.

    Returns:
        int64 ``(T,)``.

    Raises:
        CatwalkError: If a user has bought the whole catalogue.
    """
    full = seen.counts[users] >= seen.num_items
    if full.any():
        raise CatwalkError(f"user number {int(users[full][0])} has bought all {seen.num_items} items: no negative left")
    negatives = torch.empty_like(users)
    pending = torch.arange(len(users), device=users.device)
    while len(pending):
        drawn = torch.randint(seen.num_items, (len(pending),), generator=random, device=users.device)
        negatives[pending] = drawn
        pending = pending[seen.contains(users[pending], drawn)]
    return negatives


def sample_epoch(users: Tensor, items: Tensor, seen: SeenItems, seed: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return one epoch's triplets: every training pair once, in random order, each with a negative of its own.

    Args:
        users: Users of the training pairs, int64 ``(T,)``.
        items: Items of the training pairs, int64 ``(T,)``.
        seen: Training items of every user.
        seed: With ``epoch`` it determines the result.
        epoch: Number of the epoch.

    Returns:
        ``(users, positives, negatives)``, int64 ``(T,)`` each.
    """
    random = torch.Generator(device=users.device)
    random.manual_seed(derived_seed(seed, epoch))
    order = torch.randperm(len(users), generator=random, device=users.device)
    return users[order], items[order], sample_negatives(users[order], seen, random)
