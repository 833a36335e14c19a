import re
from collections.abc import Sequence

import brute_force
import numpy as np
import pytest
import torch

from catwalk.metrics import Exposure
from catwalk.metrics.exposure import gini_index, own_popularity
from catwalk.shop.user_items import SeenItems


def seen_of(users: list[int], items: list[int], num_users: int, num_items: int) -> SeenItems:
    return SeenItems.from_pairs(torch.tensor(users), torch.tensor(items), num_users, num_items)


@pytest.mark.parametrize("split", brute_force.SPLITS)
@pytest.mark.parametrize("top_k", [3, [7, 1, 10], (12, 12, 2)])
def test_equals_brute_force_however_the_users_are_split(top_k: int | Sequence[int], split: list[int]) -> None:
    data = brute_force.make_data()
    metric = Exposure(top_k, data.seen)
    for recommended in data.recommended.split(split):
        metric.update(recommended)
    lengths = [top_k] if isinstance(top_k, int) else top_k
    seen = (data.scores == brute_force.MASK).numpy()
    expected = [brute_force.exposure(data.recommended.numpy(), seen, k) for k in lengths]
    found = metric.compute()
    assert {values.dtype for values in found.values()} == {torch.float64}
    assert set(found) == set(expected[0])
    for name, values in found.items():
        np.testing.assert_allclose(values.reshape(-1).numpy(), [figures[name] for figures in expected], rtol=1e-13)


def test_lists_that_show_everything_alike_are_not_concentrated_and_those_of_one_item_are() -> None:
    seen = seen_of([0], [3], num_users=2, num_items=4)
    metric = Exposure([1, 2], seen)
    metric.update(torch.tensor([[0, 1], [0, 3], [0, 2], [0, -1]]))
    found = metric.compute()
    assert found["gini"][0] == 1 - 1 / 4
    assert found["coverage"].tolist() == [1 / 4, 1.0]
    metric.reset()
    metric.update(torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]]))
    assert metric.compute()["gini"].tolist() == [0.0, 0.0]


def test_what_nobody_bought_is_as_novel_as_what_one_user_bought() -> None:
    seen = seen_of([0, 1, 2, 3, 4], [0, 0, 0, 0, 1], num_users=8, num_items=3)
    novelty = {}
    for item in range(3):
        metric = Exposure(1, seen)
        metric.update(torch.tensor([[item]]))
        novelty[item] = metric.compute()["novelty"].item()
    assert novelty == {0: 1.0, 1: 3.0, 2: 3.0}  # log2 of 8/4, 8/1 and 8/1


def test_lists_of_what_users_bought_themselves_have_no_lift() -> None:
    users, items = [0, 0, 1, 1, 2, 2], [0, 1, 0, 2, 0, 3]
    metric = Exposure(2, seen_of(users, items, num_users=4, num_items=5))  # the fourth user bought nothing
    metric.update(torch.tensor(items).view(3, 2))
    assert metric.compute()["arp"] == 2.0
    assert metric.compute()["popularity_lift"] == 0.0
    metric.reset()
    metric.update(torch.tensor([[0, -1], [0, -1]]))
    assert metric.compute()["popularity_lift"] == 0.5  # 3 instead of 2
    metric.reset()
    metric.update(torch.tensor([[4, -1]]))
    assert metric.compute()["popularity_lift"] == -1.0


def test_own_popularity_is_a_mean_over_users_and_not_over_purchases() -> None:
    assert own_popularity(seen_of([0, 1, 1, 1], [0, 0, 1, 2], num_users=3, num_items=3)) == (2 + 4 / 3) / 2


@pytest.mark.parametrize("counts", [[1, 2, 3, 4], [0, 0, 5], [7], [3, 1, 0, 0, 9, 9]])
def test_gini_index_is_half_the_relative_mean_difference(counts: list[int]) -> None:
    differences = np.abs(np.subtract.outer(counts, counts)).mean()
    assert gini_index(torch.tensor(counts)).item() == pytest.approx(differences / np.mean(counts) / 2, rel=1e-15)


def test_large_counts_are_added_without_loss() -> None:
    counts = torch.tensor([2**53, 2**53 + 2])
    assert gini_index(counts).item() == pytest.approx(1 / (2**54 + 2), rel=1e-15)


def test_empty_lists_cover_nothing_and_have_no_other_figure() -> None:
    metric = Exposure(2, seen_of([0], [0], num_users=1, num_items=3))
    metric.update(torch.tensor([[-1, -1]]))
    found = metric.compute()
    assert found.pop("coverage") == 0
    assert all(value.isnan() for value in found.values())


def test_purchases_are_no_part_of_a_checkpoint() -> None:
    assert not Exposure(2, seen_of([0], [0], num_users=1, num_items=3)).state_dict()


@pytest.mark.parametrize(
    ("top_k", "recommended", "message"),
    [
        (2, [[0]], "(B, >= top_k = 2)"),
        (1, [[3]], "has item 3, but categories has 3 items"),
        (0, [[0]], "top_k must be at least 1, got 0"),
        ([], [[0]], "top_k must name at least one"),
    ],
)
def test_refuses_what_does_not_fit(top_k: int | list[int], recommended: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Exposure(top_k, seen_of([0], [0], num_users=1, num_items=3)).update(torch.tensor(recommended))
