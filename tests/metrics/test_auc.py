import re

import brute_force
import pytest
import torch

from catwalk.errors import DivergedError
from catwalk.metrics import AUC
from catwalk.metrics.auc import auc
from catwalk.shop.user_items import mask_value

INF = float("inf")
MASK = mask_value(torch.float32)


@pytest.mark.parametrize("split", brute_force.SPLITS)
def test_equals_brute_force_however_the_users_are_split(split: list[int]) -> None:
    data = brute_force.make_data()
    metric = AUC()
    for scores, targets in zip(data.scores.split(split), data.targets.split(split), strict=True):
        metric.update(scores, targets)
    assert metric.compute().dtype == torch.float64
    assert metric.compute().item() == pytest.approx(brute_force.auc(data.scores.numpy(), data.targets.numpy()), 1e-14)
    assert metric.count == 60  # one of the 61 has no other candidate


def test_per_user() -> None:
    scores = torch.tensor(
        [
            [3.0, 1.0, 2.0, 0.0],  # above all
            [0.0, 1.0, 2.0, 3.0],  # below all
            [1.0, 1.0, 1.0, 1.0],  # level with all
            [1.0, 1.0, 0.0, MASK],  # level with one, above one
            [3e38, 3e38, -3e38, MASK],
            [1.0, MASK, MASK, MASK],  # alone
        ]
    )
    values = auc(scores, torch.zeros(6, dtype=torch.int64))
    assert values[:5].tolist() == [1.0, 0.0, 0.5, 0.75, 0.75]
    assert values[5].isnan()


def test_users_without_other_candidates_are_not_counted() -> None:
    metric = AUC()
    metric.update(torch.tensor([[1.0, MASK], [2.0, 1.0]]), torch.tensor([0, 0]))
    assert metric.compute() == 1.0
    metric.reset()
    metric.update(torch.tensor([[1.0, MASK]]), torch.tensor([0]))
    assert metric.compute().isnan()


def test_no_users_change_nothing() -> None:
    metric = AUC()
    metric.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    assert metric.count == 0


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        ([[0.0, MASK, 1.0]], [1], "among the seen items"),
        ([[0.0, torch.nan, 1.0]], [0], "NaN"),
        ([[0.0, torch.nan, INF], [MASK, 1.0, 1.0]], [0, 1], "NaN"),
        ([[0.0, 1.0, 1.0]], [-1], "0..2"),
        ([[0.0, 1.0, 1.0]], [3], "0..2"),
        ([[0.0, 1.0, 1.0]], [0, 1], "got (1, 3) and (2,)"),
    ],
)
def test_refuses_what_has_no_auc(scores: list[list[float]], targets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        AUC().update(torch.tensor(scores), torch.tensor(targets))


@pytest.mark.parametrize("value", [INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("targets", [[2], [3], [[2, 3]], [[2, -1]]])
def test_an_infinite_score_is_no_purchase(targets: list, dtype: torch.dtype, value: float) -> None:
    """Neither that of a held-out item nor that of another candidate."""
    with pytest.raises(DivergedError, match=re.escape(f"a score is infinite ({value})")):
        auc(torch.tensor([[0.25, 1.0, 0.5, value]], dtype=dtype), torch.tensor(targets))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_mask_is_that_of_the_type(dtype: torch.dtype) -> None:
    scores = torch.tensor([[0.25, 1.0, 0.5, torch.finfo(dtype).min]], dtype=dtype)
    assert auc(scores, torch.tensor([2])).tolist() == [0.5]
