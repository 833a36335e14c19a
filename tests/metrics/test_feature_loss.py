import brute_force
import pytest
import torch

from catwalk.metrics import FeatureLoss
from catwalk.metrics.feature_loss import feature_loss


@pytest.mark.parametrize("split", brute_force.SPLITS)
def test_equals_brute_force_however_the_items_are_split(split: list[int]) -> None:
    data = brute_force.make_data()
    metric = FeatureLoss()
    for before, after in zip(data.features_before.split(split), data.features_after.split(split), strict=True):
        metric.update(before, after)
    expected = brute_force.feature_loss(data.features_before.numpy(), data.features_after.numpy())
    assert metric.compute().dtype == torch.float64
    assert metric.compute().item() == pytest.approx(expected, rel=1e-14)


def test_per_item() -> None:
    data = brute_force.make_data()
    values = feature_loss(data.features_before, data.features_after)
    rows = zip(data.features_before.numpy(), data.features_after.numpy(), strict=True)
    assert values.tolist() == pytest.approx([brute_force.feature_loss(*row) for row in rows], rel=1e-14)


def test_small_differences_of_float32_features_are_not_lost() -> None:
    before = torch.full((1, 4), 1.0)
    after = before + 2.0**-23  # the next float32
    assert feature_loss(before, after).item() == 2.0**-46


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (3,)])
def test_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        FeatureLoss().update(torch.zeros(3, 4), torch.zeros(shape))
