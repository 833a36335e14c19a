"""Groups of items by popularity and of users by purchases, as their definitions say, item by item and user by user."""

import numpy as np
import pytest
import torch

from catwalk.metrics.groups import (
    POPULARITY_GROUPS,
    USER_GROUPS,
    joint_groups,
    popularity_groups,
    user_groups,
)
from catwalk.shop.user_items import UserItems


@pytest.mark.parametrize("most", [1, 3, 50])
@pytest.mark.parametrize("size", [1, 4, 5, 37, 100])
def test_popularity_is_what_its_definition_says(most, size):
    purchases = np.random.default_rng(size + most).integers(0, most + 1, size)
    found = [POPULARITY_GROUPS[group] for group in popularity_groups(torch.from_numpy(purchases))]
    for count, group in zip(purchases, found, strict=True):
        share = np.count_nonzero(purchases >= count) / size
        assert group == ("cold" if count == 0 else "head" if share <= 0.2 else "tail")
    assert found.count("head") <= size / 5
    if most == 50 and size == 100:
        assert found.count("head") >= 15


def test_where_all_are_equally_popular_there_is_no_head():
    assert popularity_groups(torch.full((10,), 4)).tolist() == [1] * 10
    assert popularity_groups(torch.zeros(3, dtype=torch.int64)).tolist() == [0] * 3
    assert popularity_groups(torch.zeros(0, dtype=torch.int64)).tolist() == []


@pytest.mark.parametrize("target", [2, None])
def test_users_are_told_apart_by_what_they_bought(target):
    random = np.random.default_rng(0)
    users, items, categories = random.integers(0, 40, 70), random.integers(0, 20, 70), random.integers(0, 4, 20)
    bought = UserItems.from_pairs(torch.from_numpy(users), torch.from_numpy(items), 41, 20)
    found = [USER_GROUPS[group] for group in user_groups(bought, torch.from_numpy(categories), 1, target)]
    for user in range(41):
        theirs = set(categories[items[users == user]])
        names = [name for name, category in (("source", 1), ("target", target)) if category in theirs]
        assert found[user] == ("both" if len(names) == 2 else names[0] if names else "neither")
    assert set(found) == (set(USER_GROUPS) if target is not None else {"neither", "source"})


def test_joint_groups_tell_the_chosen_apart_and_change_nothing():
    groups = torch.tensor([2, 1, -1, 0])
    assert joint_groups(groups, torch.tensor([0, 2]), 3).tolist() == [5, 1, -1, 0]
    assert groups.tolist() == [2, 1, -1, 0]
