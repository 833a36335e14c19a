import math
import re
from collections.abc import Sequence

import brute_force
import numpy as np
import pytest
import torch

from catwalk.metrics import NormalizedCategoryDCG
from catwalk.metrics.normalized_category_dcg import Ideal, category_gains
from catwalk.shop.user_items import SeenItems


def seen_of(*items_by_user: list[int], num_items: int) -> SeenItems:
    pairs = [(user, item) for user, items in enumerate(items_by_user) for item in items]
    users, items = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    return SeenItems.from_pairs(users, items, len(items_by_user), num_items)


@pytest.mark.parametrize("split", brute_force.SPLITS)
@pytest.mark.parametrize("top_k", [3, [10], [7, 1, 10], (12, 12, 2)])
@pytest.mark.parametrize("ideal", ["candidates", "category"])
def test_equals_brute_force_however_the_users_are_split(
    top_k: int | Sequence[int], split: list[int], ideal: Ideal
) -> None:
    data = brute_force.make_data()
    metric = NormalizedCategoryDCG(top_k, data.categories, brute_force.NUM_CATEGORIES, data.seen, ideal)
    order = torch.randperm(61, generator=torch.Generator().manual_seed(len(split)))
    for users in order.split(split):
        metric.update(data.recommended[users], users)
    seen = (data.scores == brute_force.MASK).numpy() & (ideal == "candidates")
    lengths = [top_k] if isinstance(top_k, int) else top_k
    arrays = data.recommended.numpy(), seen, data.categories.numpy()
    expected = [brute_force.normalized_category_dcg(*arrays, k) for k in lengths]
    assert metric.compute().dtype == torch.float64
    np.testing.assert_allclose(metric.compute().numpy(), expected, rtol=1e-13)
    assert np.ptp(expected) > 0.01


def test_the_random_data_has_users_who_have_seen_all_of_a_category() -> None:
    """Otherwise the test above would not tell who counts."""
    data = brute_force.make_data()
    metric = NormalizedCategoryDCG(3, data.categories, brute_force.NUM_CATEGORIES, data.seen)
    metric.update(data.recommended, torch.arange(61))
    assert (metric.users < 61).any()


def test_is_the_same_to_the_bit_however_the_users_are_split() -> None:
    data = brute_force.make_data()
    values = set()
    for split in brute_force.SPLITS:
        metric = NormalizedCategoryDCG([10, 3], data.categories, brute_force.NUM_CATEGORIES, data.seen)
        for users in torch.arange(61).split(split):
            metric.update(data.recommended[users], users)
        values.add(tuple(metric.compute().flatten().tolist()))
    assert len(values) == 1


def test_a_list_that_begins_with_all_that_there_is_of_a_category_is_ideal() -> None:
    seen = seen_of([0], [], num_items=6)
    categories = torch.tensor([0, 0, 0, 1, 1, 1])
    metric = NormalizedCategoryDCG([2, 4], categories, 2, seen)
    metric.update(torch.tensor([[1, 2, 3, 4], [0, 1, 2, 5]]), torch.tensor([0, 1]))
    third, fourth = 1 / 2, 1 / math.log2(5)
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    expected = [[1.0, 0.0], [1.0, ((third + fourth) / ideal + fourth / ideal) / 2]]
    np.testing.assert_allclose(metric.compute().numpy(), expected, rtol=1e-15)


def test_who_has_seen_all_of_a_category_does_not_count_and_without_others_it_is_nan() -> None:
    seen = seen_of([0, 1], [0], [], num_items=4)
    categories = torch.tensor([0, 0, 1, -1])
    metric = NormalizedCategoryDCG(2, categories, 3, seen)  # nothing is of the third category
    metric.update(torch.tensor([[2, 3]]), torch.tensor([0]))
    assert metric.compute().isnan().tolist() == [[True, False, True]]
    metric.update(torch.tensor([[1, 2], [3, 2]]), torch.tensor([1, 2]))
    assert metric.users.tolist() == [2, 3, 0]
    assert metric.compute()[0, :2].tolist() == pytest.approx([1 / 2, (1 + 2 / math.log2(3)) / 3], rel=1e-15)


def test_fillers_and_items_without_a_category_gain_nothing() -> None:
    metric = NormalizedCategoryDCG(3, torch.tensor([0, -1, 1]), 2, seen_of([], [], num_items=3))
    metric.update(torch.tensor([[1, 0, -1], [-1, -1, -1]]), torch.tensor([0, 1]))
    np.testing.assert_allclose(metric.compute().numpy(), [[1 / math.log2(3) / 2, 0.0]], rtol=1e-15)


def test_gains_of_every_place_sum_to_one_over_the_ideal_list() -> None:
    gains = category_gains(torch.tensor([1, 2, 4, 9]), top_k=4)
    assert [row[:count].sum().item() for row, count in zip(gains, [1, 2, 4, 4], strict=True)] == pytest.approx([1] * 4)
    with pytest.raises(ValueError, match="candidates must be at least 1"):
        category_gains(torch.tensor([1, 0]), top_k=4)


def test_nobody_gives_nan() -> None:
    metric = NormalizedCategoryDCG(2, torch.tensor([0, 1]), 2, seen_of([], num_items=2))
    metric.update(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert metric.compute().isnan().all()


def test_categories_and_seen_items_are_no_part_of_a_checkpoint() -> None:
    assert not NormalizedCategoryDCG(2, torch.tensor([0, 0]), 1, seen_of([0], num_items=2)).state_dict()


@pytest.mark.parametrize(
    ("recommended", "users", "message"),
    [
        ([[2]], [0], "(B, >= top_k = 2)"),
        ([[2, 3]], [0], "has item 3, but categories has 3 items"),
        ([[2, -1]], [0, 1], "users must be (1,)"),
        ([[0, 2]], [0], "of which the user has seen everything"),
    ],
)
def test_refuses_lists_that_do_not_fit(recommended: list[list[int]], users: list[int], message: str) -> None:
    metric = NormalizedCategoryDCG(2, torch.tensor([0, 0, 1]), 2, seen_of([0, 1], [], num_items=3))
    with pytest.raises(ValueError, match=re.escape(message)):
        metric.update(torch.tensor(recommended), torch.tensor(users))


@pytest.mark.parametrize(
    ("top_k", "categories", "message"),
    [
        (2, [0, 2], "each in -1..1"),
        (2, [0, -2], "each in -1..1"),
        (2, [0, 1, 1], "categories must be (2,)"),
        ([2, 0], [0, 1], "top_k must be at least 1, got 0"),
        ([], [0, 1], "top_k must name at least one"),
    ],
)
def test_refuses_impossible_arguments(top_k: int | list[int], categories: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        NormalizedCategoryDCG(top_k, torch.tensor(categories), 2, seen_of([], num_items=2))
