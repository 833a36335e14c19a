import re

import brute_force
import pytest
import torch

from catwalk.metrics import HitRate
from catwalk.metrics.hit_rate import hit_rate


@pytest.mark.parametrize("split", brute_force.SPLITS)
@pytest.mark.parametrize("top_k", [1, 5, 12])
def test_equals_brute_force_however_the_users_are_split(top_k: int, split: list[int]) -> None:
    data = brute_force.make_data()
    metric = HitRate(top_k)
    for recommended, targets in zip(data.recommended.split(split), data.targets.split(split), strict=True):
        metric.update(recommended, targets)
    value = metric.compute()
    assert value.dtype == torch.float64
    assert value.item() == brute_force.hit_rate(data.recommended.numpy(), data.targets.numpy(), top_k)
    assert 0 < value < 1


def test_per_user() -> None:
    data = brute_force.make_data(1)
    hits = hit_rate(data.recommended, data.targets, 5)
    rows = zip(data.recommended.tolist(), data.targets.tolist(), strict=True)
    assert hits.tolist() == [float(target in row[:5]) for row, target in rows]


def test_fillers_hit_nothing_and_nobody_gives_nan() -> None:
    metric = HitRate(2)
    metric.update(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert metric.compute().isnan()
    metric.update(torch.tensor([[3, -1], [-1, -1]]), torch.tensor([3, 0]))
    assert metric.compute() == 0.5
    metric.reset()
    assert not metric.rank_counts.any()


@pytest.mark.parametrize(
    ("recommended", "targets", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), "top_k = 4), got (2, 3)"),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int64), "top_k = 4), got (4,)"),
        (torch.zeros(2, 4), torch.zeros(3, dtype=torch.int64), "targets must be (2,)"),
        (torch.full((2, 4), -1), torch.tensor([1, -1]), "negative"),
    ],
)
def test_refuses_what_does_not_fit(recommended: torch.Tensor, targets: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        HitRate(4).update(recommended, targets)


def test_refuses_a_list_length_of_zero() -> None:
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        HitRate(0)
