"""Groups of items by popularity, and of users by what they bought: for metrics that are told apart by them."""

import torch
from torch import Tensor

from catwalk.shop.user_items import UserItems

POPULARITY_GROUPS = ("cold", "tail", "head")
"""Groups of items, in the order of :func:`popularity_groups`."""

HEAD_SHARE = 0.2
"""Largest share of the catalogue that is the head."""

USER_GROUPS = ("neither", "source", "target", "both")
"""Groups of users, in the order of :func:`user_groups`."""


def popularity_groups(purchases: Tensor) -> Tensor:
    """Return the popularity group of each item: 0 for ``cold``, 1 for ``tail``, 2 for ``head``.

    - ``cold``: nobody bought it in training;
    - ``head``: one of the most popular items, which are a fifth of the catalogue (Abdollahpouri et al., *The unfairness
      of popularity bias in recommendation*, RMSE at RecSys 2019; Kowald, Schedl and Lex, *The unfairness of popularity
      bias in music recommendation: a reproducibility study*, ECIR 2020). Of equally popular items either all are in the
      head or none is, so that it may be less than a fifth;
    - ``tail``: the others.

    Args:
        purchases: int64 ``(N,)``, how many users bought each item in training.

    Returns:
        int64 ``(N,)``.

    Example:
        >>> import torch
        >>> from catwalk.metrics.groups import POPULARITY_GROUPS, popularity_groups
        >>> print(*(POPULARITY_GROUPS[group] for group in popularity_groups(torch.tensor([9, 0, 2, 1, 2]))))
        head cold tail tail tail
    """
    size = len(purchases)
    as_popular = size - torch.searchsorted(purchases.sort().values, purchases)
    is_head = (purchases > 0) & (as_popular <= HEAD_SHARE * size)
    return (purchases > 0).long() + is_head.long()


def user_groups(bought: UserItems, categories: Tensor, source: int, target: int | None = None) -> Tensor:
    """Return the group of each user: 0 for ``neither``, 1 for ``source``, 2 for ``target``, 3 for ``both``.

    Args:
        bought: What each user bought in training.
        categories: int64 ``(N,)``, the category of each item.
        source: Number of the source category.
        target: Number of the target category; None where there is none.

    Returns:
        int64 ``(U,)``: of which of the two categories the user bought items, of others or not.

    Example:
        >>> import torch
        >>> from catwalk.metrics.groups import USER_GROUPS, user_groups
        >>> from catwalk.shop.user_items import UserItems
        >>> bought = UserItems.from_pairs(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 2, 1]), 4, 3)
        >>> print(*(USER_GROUPS[group] for group in user_groups(bought, torch.tensor([5, 6, 7]), source=5, target=7)))
        source both neither neither
    """
    group = torch.zeros_like(bought.counts)
    of_purchases = categories[bought.items]
    for value, category in enumerate((source, target), 1):
        if category is not None:
            group[bought.users[of_purchases == category].unique()] += value
    return group


def joint_groups(groups: Tensor, chosen: Tensor, count: int) -> Tensor:
    """Return groups of items in which chosen items are told apart: ``group`` of others, ``count + group`` of chosen.

    Args:
        groups: int64 ``(N,)``, each in ``0..count - 1``, or -1 for an item of no group, which stays so.
        chosen: int64 ``(n,)``, numbers of the chosen items.
        count: Number of groups.

    Returns:
        int64 ``(N,)``, each in ``-1..2 * count - 1``.

    Example:
        >>> import torch
        >>> from catwalk.metrics.groups import joint_groups
        >>> joint_groups(torch.tensor([0, 1, 1, 2]), chosen=torch.tensor([1, 3]), count=3)
        tensor([0, 4, 1, 5])
    """
    joint = groups.clone()
    joint[chosen] += count
    return joint.masked_fill_(groups < 0, -1)
