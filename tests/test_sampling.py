"""Triplets of an epoch."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from catwalk.errors import CatwalkError
from catwalk.ranking import SeenItems
from catwalk.sampling import sample_epoch, sample_negatives

NUM_USERS, NUM_ITEMS = 40, 25


@pytest.fixture
def pairs():
    random = np.random.default_rng(0)
    chosen = random.permutation(NUM_USERS * NUM_ITEMS)[:300]
    return torch.from_numpy(chosen // NUM_ITEMS), torch.from_numpy(chosen % NUM_ITEMS)


@pytest.fixture
def seen(pairs):
    return SeenItems.from_pairs(*pairs, NUM_USERS, NUM_ITEMS)


def test_every_pair_comes_once_with_an_item_that_its_user_has_not_bought(pairs, seen):
    users, positives, negatives = (column.tolist() for column in sample_epoch(*pairs, seen, seed=0, epoch=0))
    bought = list(zip(*(column.tolist() for column in pairs), strict=True))
    assert sorted(zip(users, positives, strict=True)) == sorted(bought)
    assert list(zip(users, positives, strict=True)) != bought  # in random order
    assert not set(zip(users, negatives, strict=True)) & set(bought)
    assert set(negatives) <= set(range(NUM_ITEMS))


def test_seed_and_epoch_decide_everything(pairs, seen):
    def triplets(seed, epoch):
        return torch.stack(sample_epoch(*pairs, seen, seed, epoch))

    state = torch.get_rng_state()
    whole = {(seed, epoch): triplets(seed, epoch) for seed in range(3) for epoch in range(3)}
    assert torch.equal(torch.get_rng_state(), state)
    for (seed, epoch), first in whole.items():
        assert torch.equal(triplets(seed, epoch), first)
        others = [other for key, other in whole.items() if key != (seed, epoch)]
        assert not any(torch.equal(other, first) for other in others)
        assert not any(torch.equal(other[0], first[0]) for other in others)


def test_negatives_are_uniform_over_what_is_left():
    bought = {0: [3], 1: [0, 1, 2, 4, 5, 6], 2: [], 3: [9, 0]}
    pairs = [(user, item) for user, items in bought.items() for item in items]
    users, items = (torch.tensor(column) for column in zip(*pairs, strict=True))
    seen = SeenItems.from_pairs(users, items, 4, 10)
    drawn = sample_negatives(torch.arange(4).repeat(20_000), seen, torch.Generator().manual_seed(0)).view(-1, 4)
    for user, items in bought.items():
        counts = np.bincount(drawn[:, user].numpy(), minlength=10)
        left = [item for item in range(10) if item not in items]
        assert counts.sum() == counts[left].sum() == 20_000
        assert chisquare(counts[left]).pvalue > 1e-3
        # Uniform or not, each draw is independent of the one before.
        table = np.zeros((10, 10))
        np.add.at(table, (drawn[:-1, user].numpy(), drawn[1:, user].numpy()), 1)
        assert chisquare(table[np.ix_(left, left)].ravel()).pvalue > 1e-3


def test_positions_of_the_order_are_uniform(pairs, seen):
    numbers = pairs[0] * NUM_ITEMS + pairs[1]
    first = int(numbers[0])
    places = []
    for epoch in range(600):
        users, positives, _ = sample_epoch(*pairs, seen, seed=5, epoch=epoch)
        places.append(int((users * NUM_ITEMS + positives == first).nonzero()))
    assert chisquare(np.bincount(np.array(places) // 30, minlength=10)).pvalue > 1e-3


def test_a_user_who_has_bought_everything_is_named():
    users, items = torch.tensor([0, 2, 2, 2]), torch.tensor([1, 0, 1, 2])
    seen = SeenItems.from_pairs(users, items, num_users=3, num_items=3)
    with pytest.raises(CatwalkError, match="user number 2 has bought all 3 items: no negative left"):
        sample_epoch(users, items, seen, seed=0, epoch=0)


def test_one_item_left_is_found():
    seen = SeenItems.from_pairs(torch.zeros(49, dtype=torch.int64), torch.arange(49), num_users=1, num_items=50)
    negatives = sample_negatives(torch.zeros(30, dtype=torch.int64), seen, torch.Generator().manual_seed(0))
    assert negatives.tolist() == [49] * 30
