import re
from collections.abc import Sequence

import brute_force
import pytest
import torch

from catwalk.metrics import CategoryHitRatio
from catwalk.metrics.category_hit_ratio import category_hits, category_hits_per_user


@pytest.mark.parametrize("split", brute_force.SPLITS)
@pytest.mark.parametrize("top_k", [3, [10], [7, 1, 10], (12, 12, 2)])
def test_equals_brute_force_however_the_users_are_split(top_k: int | Sequence[int], split: list[int]) -> None:
    data = brute_force.make_data()
    metric = CategoryHitRatio(top_k, data.categories, brute_force.NUM_CATEGORIES)
    for recommended in data.recommended.split(split):
        metric.update(recommended)
    lengths = [top_k] if isinstance(top_k, int) else top_k
    hits = [brute_force.category_hits(data.recommended.numpy(), data.categories.numpy(), k) for k in lengths]
    assert metric.hits.dtype == torch.int64
    assert metric.hits.tolist() == hits
    assert metric.compute().dtype == torch.float64
    assert metric.compute().tolist() == [[count / 61 for count in row] for row in hits]


@pytest.mark.parametrize("top_k", [3, [7, 1, 10]])
def test_hits_of_every_user_equal_brute_force(top_k: int | Sequence[int]) -> None:
    data = brute_force.make_data()
    hits = category_hits_per_user(data.recommended, data.categories, brute_force.NUM_CATEGORIES, top_k)
    recommended, categories = data.recommended.numpy(), data.categories.numpy()
    lengths = [top_k] if isinstance(top_k, int) else top_k
    assert hits.tolist() == [
        [brute_force.category_hits(recommended[user : user + 1], categories, k) for user in range(61)] for k in lengths
    ]


def test_full_lists_of_a_catalogue_with_categories_sum_to_k() -> None:
    generator = torch.Generator().manual_seed(0)
    recommended = torch.rand(50, 30, generator=generator).argsort(dim=1)
    metric = CategoryHitRatio([5, 20], torch.randint(4, (30,), generator=generator), 4)
    metric.update(recommended)
    assert metric.compute().sum(dim=1).tolist() == pytest.approx([5, 20], rel=1e-14)


def test_one_category_can_take_the_whole_list() -> None:
    metric = CategoryHitRatio(3, torch.tensor([1, 1, 1, 0]), 2)
    metric.update(torch.tensor([[0, 1, 2], [2, 0, 1]]))
    assert metric.compute().tolist() == [[0.0, 3.0]]


def test_fillers_and_items_without_a_category_count_for_none() -> None:
    categories = torch.tensor([0, -1, 1])
    hits = category_hits(torch.tensor([[1, -1, -1], [0, 1, -1], [-1, -1, -1]]), categories, 2, 3)
    assert hits.tolist() == [[1, 0]]


def test_users_with_empty_lists_still_count_as_users() -> None:
    metric = CategoryHitRatio(2, torch.tensor([0, 1]), 2)
    metric.update(torch.tensor([[0, 1], [-1, -1]]))
    assert metric.users == 2
    assert metric.compute().tolist() == [[0.5, 0.5]]


def test_nobody_gives_nan() -> None:
    metric = CategoryHitRatio(2, torch.tensor([0, 0]), 1)
    metric.update(torch.zeros(0, 2, dtype=torch.int64))
    assert metric.compute().isnan().all()


def test_categories_are_no_part_of_a_checkpoint() -> None:
    assert not CategoryHitRatio(2, torch.tensor([0, 0]), 1).state_dict()


@pytest.mark.parametrize(
    ("recommended", "message"),
    [(torch.tensor([[0]]), "(B, >= top_k = 2)"), (torch.tensor([[0, 3]]), "has item 3, but categories has 3 items")],
)
def test_refuses_lists_that_do_not_fit(recommended: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        CategoryHitRatio(2, torch.tensor([0, 0, 1]), 2).update(recommended)


@pytest.mark.parametrize(
    ("top_k", "categories", "message"),
    [
        (2, [0, 2], "each in -1..1"),
        (2, [0, -2], "each in -1..1"),
        ([2, 0], [0, 1], "top_k must be at least 1, got 0"),
        ([], [0, 1], "top_k must name at least one"),
    ],
)
def test_refuses_impossible_arguments(top_k: int | list[int], categories: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        CategoryHitRatio(top_k, torch.tensor(categories), 2)
