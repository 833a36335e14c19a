import brute_force
import pytest
import torch

from catwalk.metrics import Precision, Recall
from catwalk.metrics.precision import precision
from catwalk.metrics.recall import recall


@pytest.mark.parametrize("split", brute_force.SPLITS)
@pytest.mark.parametrize("top_k", [1, 5, 12])
def test_they_equal_brute_force_however_the_users_are_split(top_k: int, split: list[int]) -> None:
    data = brute_force.make_data()
    lists = data.recommended.numpy(), data.targets.numpy()
    metrics = {"precision": Precision(top_k), "recall": Recall(top_k)}
    for batch in zip(data.recommended.split(split), data.targets.split(split), strict=True):
        for metric in metrics.values():
            metric.update(*batch)
    assert metrics["precision"].compute().item() == pytest.approx(brute_force.precision(*lists, top_k), rel=1e-14)
    # a user has one relevant item, so that it is found or not
    assert metrics["recall"].compute().item() == brute_force.hit_rate(*lists, top_k)


def test_per_user() -> None:
    recommended, targets = torch.tensor([[7, 8, 9, 1], [8, 9, 6, 7], [7, -1, -1, -1]]), torch.full((3,), 7)
    assert precision(recommended, targets, 4).tolist() == [0.25, 0.25, 0.25]  # empty places count all the same
    assert precision(recommended, targets, 3).tolist() == pytest.approx([1 / 3, 0, 1 / 3], rel=1e-15)
    assert recall(recommended, targets, 4).tolist() == [1.0, 1.0, 1.0]
    assert recall(recommended, targets, 3).tolist() == [1.0, 0.0, 1.0]
