"""APGD-T: its loss against NumPy, and its runs against those of APGD towards one category after the other."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from edge_images import make_images
from test_apgd import Recording, make_targets, smooth_network
from torch import nn

from catwalk.attacks import APGD, APGDT
from catwalk.attacks.apgd import most_likely_others, targeted_difference_of_logits_ratio
from catwalk.errors import CatwalkError
from catwalk.keyed_random import derived_seed
from catwalk.study.specifications import attack_of


def test_the_loss_is_that_of_numpy():
    logits = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    own, aims = torch.arange(20) % 6, (torch.arange(20) + 2) % 6
    z = logits.double().numpy()
    ordered, rows = -np.sort(-z, axis=1), np.arange(20)
    lead = z[rows, own] - z[rows, aims]
    expected = -lead / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2)
    np.testing.assert_allclose(targeted_difference_of_logits_ratio(logits, own, aims), expected, rtol=1e-4)


def test_others_come_in_the_order_of_their_logits():
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0], [0.0, -1.0, 5.0, 4.0]])
    assert most_likely_others(logits, torch.tensor([1, 3]), 3).tolist() == [[2, 3, 0], [2, 0, 1]]


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 16.0), pytest.param("l2", 90.0, marks=pytest.mark.slow)])
def test_tries_the_next_likely_categories_by_apgd_until_one_will_do(norm, epsilon):
    network, images, keys = smooth_network(), make_images(16), torch.arange(16) * 3
    own = make_targets(network, images, targeted=False)
    others = network(images).argsort(1, descending=True)[:, 1:4]
    result = APGDT(epsilon, norm, num_targets=3, iterations=10, seed=5)(network, images, own, keys=keys)
    costs = []
    for row in range(16):
        one = slice(row, row + 1)
        for place in range(3):
            run = APGD(epsilon, norm, "dlr", 10)
            run.seed = derived_seed(5, place)
            recording = Recording(network)
            points, _ = run.perturb(recording, images[one], others[one, place], keys[one])
            # But for the first pass, by which APGD finds the image's category.
            seen = [int(network(point).argmax()) for point in recording.inputs[1:]]
            if any(category != own[row] for category in seen):
                break
        costs.append(10 * (place + 1))
        misled = any(category != own[row] for category in seen)
        assert bool(result.success[row]) == misled
        if not misled:  # then both keep the point of the largest objective
            # A gradient within rounding of 0 may take either sign.
            assert ((result.images[one] - points).abs() < 2e-4).float().mean() > 0.95
    assert result.iterations.tolist() == costs
    assert len(set(costs)) > 1
    assert 0 < int(result.success.sum()) < 16, "both happen"


def test_leaves_alone_what_is_mistaken_already():
    network, images = smooth_network(), make_images(4)
    wrong = make_targets(network, images, targeted=True)
    result = APGDT(iterations=3)(network, images, wrong, keys=torch.arange(4))
    assert torch.equal(result.images, images)
    assert result.success.all()
    assert result.iterations.tolist() == [0] * 4


def test_takes_no_more_categories_than_there_are():
    network, images = smooth_network(num_classes=4), make_images(4)
    own = make_targets(network, images, targeted=False)
    result = APGDT(0, iterations=3)(network, images, own, keys=torch.arange(4))
    assert result.iterations.tolist() == [9] * 4


def test_needs_four_categories():
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    with pytest.raises(CatwalkError, match="APGDT: needs a network of at least 4 categories, and this one has 3"):
        APGDT(iterations=3)(network, make_images(2), torch.zeros(2, dtype=torch.int64), keys=torch.arange(2))


@pytest.mark.parametrize(("settings", "name"), [({"num_targets": 0}, "num_targets"), ({"iterations": 0}, "iterations")])
def test_bad_settings(settings, name):
    with pytest.raises(CatwalkError, match=f"{name}: must be at least 1"):
        APGDT(**settings)


def test_is_named_and_configured():
    assert (APGDT().name, APGDT(4, "l2").name) == ("APGD-T (ε = 8)", "APGD-T-L2 (ε = 4)")
    path = Path(str(files("configs"))) / "attack/apgd_t8.yaml"
    attack = attack_of(yaml.safe_load(path.read_text())["poison"]["attack"]).instantiate()
    assert isinstance(attack, APGDT)
    assert not attack.targeted
