import math

import brute_force
import pytest
import torch

from catwalk.metrics import NormalizedDCG
from catwalk.metrics.normalized_dcg import normalized_dcg


@pytest.mark.parametrize("top_k", [1, 5, 12])
def test_equals_brute_force(top_k: int) -> None:
    data = brute_force.make_data()
    metric = NormalizedDCG(top_k)
    metric.update(data.recommended, data.targets)
    expected = brute_force.normalized_dcg(data.recommended.numpy(), data.targets.numpy(), top_k)
    assert metric.compute().dtype == torch.float64
    assert metric.compute().item() == pytest.approx(expected, rel=1e-14)
    assert 0 < expected < 1


def test_is_the_same_to_the_bit_however_the_users_are_split_and_ordered() -> None:
    data = brute_force.make_data()
    values = set()
    for seed, split in enumerate(brute_force.SPLITS):
        order = torch.randperm(61, generator=torch.Generator().manual_seed(seed))
        metric = NormalizedDCG(10)
        for rows in order.split(split):
            metric.update(data.recommended[rows], data.targets[rows])
        values.add(metric.compute().item())
    assert len(values) == 1


def test_per_user_is_one_over_log2_of_rank_plus_one() -> None:
    recommended = torch.tensor([[7, 8, 9], [8, 7, 9], [8, 9, 7], [8, 9, 6], [7, -1, -1]])
    gains = normalized_dcg(recommended, torch.full((5,), 7), top_k=3)
    assert gains.tolist() == pytest.approx([1.0, 1 / math.log2(3), 0.5, 0.0, 1.0], rel=1e-15)
    assert normalized_dcg(recommended, torch.full((5,), 7), top_k=1).tolist() == [1.0, 0.0, 0.0, 0.0, 1.0]
