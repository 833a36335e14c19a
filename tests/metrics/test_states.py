import pickle

import brute_force
import pytest
import torch
from torchmetrics import Metric

from catwalk.metrics import (
    AUC,
    AttackSuccessRate,
    CategoryHitRatio,
    Exposure,
    FeatureLoss,
    HitRate,
    ItemRanks,
    ItemReach,
    MeanReciprocalRank,
    NormalizedCategoryDCG,
    NormalizedDCG,
    Precision,
    Recall,
)
from catwalk.metrics.item_reach import item_ranks

DATA = brute_force.make_data()
LISTS = (DATA.recommended, DATA.targets)
PREDICTIONS = (DATA.predicted_before, DATA.predicted_after, DATA.classes)
CASES = [
    pytest.param(HitRate(5), LISTS, id="HitRate"),
    pytest.param(NormalizedDCG(5), LISTS, id="NormalizedDCG"),
    pytest.param(MeanReciprocalRank(5), LISTS, id="MeanReciprocalRank"),
    pytest.param(Precision(5), LISTS, id="Precision"),
    pytest.param(Recall(5), LISTS, id="Recall"),
    pytest.param(AUC(), (DATA.scores, DATA.targets), id="AUC"),
    pytest.param(CategoryHitRatio(5, DATA.categories, 5), LISTS[:1], id="CategoryHitRatio"),
    pytest.param(
        NormalizedCategoryDCG([5, 2], DATA.categories, 5, DATA.seen),
        (DATA.recommended, torch.arange(61)),
        id="NormalizedCategoryDCG",
    ),
    pytest.param(Exposure([5, 2], DATA.seen), LISTS[:1], id="Exposure"),
    pytest.param(ItemReach([5, 2], torch.tensor([0, 3]), DATA.scores.shape[1]), LISTS[:1], id="ItemReach"),
    pytest.param(
        ItemRanks([5, 2], torch.tensor([3, 0]), DATA.scores.shape[1]),
        (DATA.recommended, item_ranks(DATA.scores, torch.tensor([3, 0]))),
        id="ItemRanks",
    ),
    pytest.param(AttackSuccessRate(), PREDICTIONS, id="AttackSuccessRate"),
    pytest.param(FeatureLoss(), (DATA.features_before, DATA.features_after), id="FeatureLoss"),
]


@pytest.mark.parametrize(("metric", "arguments"), CASES)
def test_measures_outside_inference_mode_after_a_reset_inside(
    metric: Metric, arguments: tuple[torch.Tensor, ...]
) -> None:
    metric = metric.clone()
    metric.update(*arguments)
    expected = metric.compute()
    with torch.inference_mode():
        metric.reset()
    metric.update(*arguments)
    torch.testing.assert_close(metric.compute(), expected, rtol=0, atol=0)
    with torch.inference_mode():
        metric.update(*arguments)
    torch.testing.assert_close(metric.compute(), expected)


@pytest.mark.parametrize(("metric", "arguments"), CASES)
def test_survives_pickling_and_forgets_on_reset(metric: Metric, arguments: tuple[torch.Tensor, ...]) -> None:
    metric = metric.clone()
    metric.update(*arguments)
    expected = metric.compute()
    copy = pickle.loads(pickle.dumps(metric))
    torch.testing.assert_close(copy.compute(), expected, rtol=0, atol=0)
    copy.reset()
    copy.update(*(tensor[:7] for tensor in arguments))
    fresh = metric.clone()
    fresh.reset()
    torch.testing.assert_close(copy.compute(), fresh(*(tensor[:7] for tensor in arguments)), rtol=0, atol=0)
