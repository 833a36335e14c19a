"""Triplets of an epoch."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from catwalk.errors import CatwalkError
from catwalk.shop.splits import Split
from catwalk.shop.triplets import TripletSampler
from catwalk.shop.user_items import SeenItems, UserItems

KINDS = ("uniform", "popularity")
NUM_USERS, NUM_ITEMS = 40, 25


def make_sampler(pairs, num_users, num_items, negatives="uniform"):
    users, items = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    nobody = torch.zeros(0, dtype=torch.int64)
    nothing = UserItems.from_pairs(nobody, nobody, num_users, num_items)
    split = Split(tuple(f"user {number}" for number in range(num_users)), users, items, nothing, nothing)
    seen = SeenItems.from_pairs(torch.from_numpy(users), torch.from_numpy(items), num_users, num_items)
    return TripletSampler(split, seen, negatives)


@pytest.fixture(scope="module")
def pairs():
    """300 pairs in no order; items 22, 23 and 24 are cold, and some items are far more popular than others."""
    random = np.random.default_rng(0)
    shares = np.outer(np.ones(NUM_USERS), 1 / np.arange(1, 23)).ravel()
    chosen = random.choice(NUM_USERS * 22, 300, replace=False, p=shares / shares.sum())
    pairs = [(int(number) // 22, int(number) % 22) for number in chosen]
    assert {item for _, item in pairs} == set(range(22))
    return pairs


def triplets(sampler, *arguments, **settings):
    return list(zip(*(column.tolist() for column in sampler.sample_epoch(*arguments, **settings)), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_comes_once_with_an_item_that_is_neither_bought_nor_cold(pairs, kind):
    sampler, bought = make_sampler(pairs, NUM_USERS, NUM_ITEMS, kind), set(pairs)
    for epoch in range(20):
        rows = triplets(sampler, 0, epoch)
        assert sorted((user, positive) for user, positive, _ in rows) == sorted(pairs)
        assert [(user, positive) for user, positive, _ in rows] != pairs  # in random order
        assert not {(user, negative) for user, _, negative in rows} & bought
        assert {negative for _, _, negative in rows} <= set(range(22))


@pytest.mark.parametrize("kind", KINDS)
def test_seed_and_epoch_decide_everything(pairs, kind):
    sampler = make_sampler(pairs, NUM_USERS, NUM_ITEMS, kind)
    state = torch.get_rng_state()
    whole = {(seed, epoch): triplets(sampler, seed, epoch) for seed in range(3) for epoch in range(3)}
    assert torch.equal(torch.get_rng_state(), state)
    for key, first in whole.items():
        assert triplets(make_sampler(pairs, NUM_USERS, NUM_ITEMS, kind), *key) == first
        for other in (whole[other] for other in whole if other != key):
            assert [row[:2] for row in other] != [row[:2] for row in first]  # another order
            # Other negatives of the same pairs: no more of them agree than by chance.
            assert len(set(other) & set(first)) < 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 299, 300, 301])
def test_processes_share_the_epoch_of_one(pairs, kind, world_size):
    sampler = make_sampler(pairs, NUM_USERS, NUM_ITEMS, kind)
    whole = triplets(sampler, 4, 5)
    shares = [triplets(sampler, 4, 5, rank=rank, world_size=world_size) for rank in range(world_size)]
    per_rank = -(-300 // world_size)
    filled_up = whole + whole[: per_rank * world_size - 300]
    assert shares == [filled_up[rank::world_size] for rank in range(world_size)]
    assert all(len(share) == per_rank for share in shares)


@pytest.mark.parametrize("kind", KINDS)
def test_a_negative_depends_on_the_number_of_its_pair_and_not_on_other_users(pairs, kind):
    """Users 0..19 have the same negatives when the others have bought other things, as popular as theirs."""
    swap = {user: 20 + (user + 1) % 20 for user in range(20, NUM_USERS)}
    others = [(swap.get(user, user), item) for user, item in pairs]
    first, second = (triplets(make_sampler(rows, NUM_USERS, NUM_ITEMS, kind), 0, 0) for rows in (pairs, others))
    assert [row for row in first if row[0] < 20] == [row for row in second if row[0] < 20]
    assert first != second


BOUGHT = {0: [3], 1: [0, 1, 2, 4, 5, 6], 2: [9, 0], 3: [0, 1, 2, 3, 4, 6, 8, 9], 4: [3, 0, 1, 8], 5: [0, 3, 5]}
"""Of ten items, of which 7 is cold; user 3 has but item 5 left. User 6 has bought nothing."""


@pytest.mark.parametrize("kind", KINDS)
def test_negatives_are_as_probable_as_they_shall_be(kind):
    pairs = [(user, item) for user, items in BOUGHT.items() for item in items]
    sampler = make_sampler(pairs, 7, 10, kind)
    popularity = Counter(item for _, item in pairs)
    assert max(popularity.values()) == 5
    drawn = {pair: [] for pair in pairs}
    for epoch in range(3000):
        for user, positive, negative in triplets(sampler, 1, epoch):
            drawn[user, positive].append(negative)
    for (user, _), negatives in drawn.items():
        left = [item for item in range(10) if item not in BOUGHT[user] and popularity[item]]
        weights = np.array([popularity[item] if kind == "popularity" else 1 for item in left])
        counts = np.bincount(negatives, minlength=10)
        assert counts.sum() == counts[left].sum() == 3000
        if len(left) == 1:
            assert left == [5]
            continue
        expected = weights / weights.sum()
        assert chisquare(counts[left], 3000 * expected).pvalue > 1e-4
        # No draw depends on that of the epoch before.
        table = np.zeros((10, 10))
        np.add.at(table, (negatives[:-1], negatives[1:]), 1)
        assert chisquare(table[np.ix_(left, left)].ravel(), 2999 * np.outer(expected, expected).ravel()).pvalue > 1e-4


def test_negatives_of_one_user_do_not_depend_on_each_other():
    sampler = make_sampler([(0, 0), (0, 1), *((user, user + 1) for user in range(1, 5))], 5, 6)
    first, second = [], []
    for epoch in range(4000):
        negatives = {row[:2]: row[2] for row in triplets(sampler, 0, epoch)}
        first.append(negatives[0, 0])
        second.append(negatives[0, 1])
    table = np.zeros((6, 6))
    np.add.at(table, (first, second), 1)
    assert table[2:, 2:].sum() == 4000
    assert chisquare(table[2:, 2:].ravel()).pvalue > 1e-3


def test_positions_of_the_order_are_uniform(pairs):
    sampler = make_sampler(pairs, NUM_USERS, NUM_ITEMS)
    orders = [[row[:2] for row in triplets(sampler, 5, epoch)] for epoch in range(600)]
    for pair in (pairs[0], pairs[150], pairs[-1]):
        places = np.array([order.index(pair) for order in orders])
        assert chisquare(np.bincount(places // 30, minlength=10)).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_who_owns_nearly_everything_popular_gets_the_rest(kind):
    """The item left has one purchase among 2,000."""
    pairs = [(user, 0) for user in range(1, 1951)] + [(0, item) for item in range(49)] + [(1, 49)]
    sampler = make_sampler(pairs, 1951, 50, kind)
    assert {row[2] for row in triplets(sampler, 0, 0) if row[0] == 0} == {49}


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_who_has_bought_all_that_is_not_cold_is_named(kind):
    pairs = [(0, 1), (2, 0), (2, 1), (2, 2)]
    message = "user 'user 2' has bought all 3 items that anybody has in training, .* leave this user out"
    with pytest.raises(CatwalkError, match=message):
        make_sampler(pairs, num_users=3, num_items=5, negatives=kind)
    make_sampler([*pairs, (1, 4)], num_users=3, num_items=5, negatives=kind)


def test_a_sampler_moves_to_a_device_with_all_that_it_has(pairs):
    sampler = make_sampler(pairs, NUM_USERS, NUM_ITEMS)
    moved = sampler.to("meta")
    assert {value.device.type for value in vars(moved).values() if isinstance(value, torch.Tensor)} == {"meta"}
    assert triplets(sampler, 0, 0) == triplets(sampler.to("cpu"), 0, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_draws_the_same_triplets(pairs, kind):
    sampler = make_sampler(pairs, NUM_USERS, NUM_ITEMS, kind)
    assert triplets(sampler.to("cuda"), 0, 3) == triplets(sampler, 0, 3)
