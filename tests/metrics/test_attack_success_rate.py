import brute_force
import pytest
import torch

from catwalk.metrics import AttackSuccessRate


@pytest.mark.parametrize("split", brute_force.SPLITS)
def test_equals_brute_force_however_the_images_are_split(split: list[int]) -> None:
    data = brute_force.make_data()
    images = (data.predicted_before, data.predicted_after, data.classes)
    metric = AttackSuccessRate()
    for batch in zip(*(tensor.split(split) for tensor in images), strict=True):
        metric.update(*batch)
    rates = metric.compute()
    assert all(rate.dtype == torch.float64 for rate in rates.values())
    assert {name: rate.item() for name, rate in rates.items()} == brute_force.attack_success_rates(
        *(tensor.numpy() for tensor in images)
    )
    assert 0 < rates["sr_net"] < rates["sr"] < 1


def test_an_attack_that_only_found_what_was_there_has_no_net_success() -> None:
    metric = AttackSuccessRate()
    metric.update(torch.tensor([2, 2]), torch.tensor([2, 2]), torch.tensor([2, 2]))
    rates = metric.compute()
    assert (rates["sr"], rates["sr_clean"]) == (1.0, 1.0)
    assert rates["sr_net"].isnan()


def test_an_attack_can_drive_images_out_of_the_target_class() -> None:
    metric = AttackSuccessRate()
    metric.update(torch.tensor([2, 2, 0]), torch.tensor([1, 2, 0]), torch.tensor([2, 2, 2]))
    rates = {name: rate.item() for name, rate in metric.compute().items()}
    assert rates == {"sr": 1 / 3, "sr_clean": 2 / 3, "sr_net": 0.0}


def test_an_untargeted_attack_succeeds_where_the_network_sees_another_class_than_the_one_to_leave() -> None:
    metric = AttackSuccessRate(targeted=False)
    metric.update(torch.tensor([2, 2, 0, 2]), torch.tensor([1, 2, 0, 0]), torch.full((4,), 2))
    rates = {name: rate.item() for name, rate in metric.compute().items()}
    assert rates == {"sr": 3 / 4, "sr_clean": 1 / 4, "sr_net": 2 / 3}


def test_refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="must be"):
        AttackSuccessRate().update(torch.zeros(3), torch.zeros(3), torch.zeros(1))
