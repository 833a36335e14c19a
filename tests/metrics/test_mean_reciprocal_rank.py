import brute_force
import pytest
import torch

from catwalk.metrics import MeanReciprocalRank
from catwalk.metrics.mean_reciprocal_rank import reciprocal_rank


@pytest.mark.parametrize("split", brute_force.SPLITS)
@pytest.mark.parametrize("top_k", [1, 5, 12])
def test_equals_brute_force_however_the_users_are_split(top_k: int, split: list[int]) -> None:
    data = brute_force.make_data()
    metric = MeanReciprocalRank(top_k)
    for recommended, targets in zip(data.recommended.split(split), data.targets.split(split), strict=True):
        metric.update(recommended, targets)
    expected = brute_force.mean_reciprocal_rank(data.recommended.numpy(), data.targets.numpy(), top_k)
    assert metric.compute().dtype == torch.float64
    assert metric.compute().item() == pytest.approx(expected, rel=1e-14)
    assert 0 < expected < 1


def test_per_user_is_one_over_the_rank() -> None:
    recommended = torch.tensor([[7, 8, 9], [8, 7, 9], [8, 9, 7], [8, 9, 6], [7, -1, -1]])
    targets = torch.full((5,), 7)
    assert reciprocal_rank(recommended, targets, top_k=3).tolist() == [1.0, 1 / 2, 1 / 3, 0.0, 1.0]
    assert reciprocal_rank(recommended, targets, top_k=1).tolist() == [1.0, 0.0, 0.0, 0.0, 1.0]


def test_nobody_gives_nan() -> None:
    metric = MeanReciprocalRank(2)
    metric.update(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert metric.compute().isnan()
