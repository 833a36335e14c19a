"""ZOO: its derivatives, the distance of a plane, and what it tells of wrong arguments."""

from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml
from black_box import grey_images, linear
from every_attack import make_batch, make_network

from catwalk.attacks import ZOO
from catwalk.attacks.queries import Oracle, margins
from catwalk.attacks.zoo import _Descent
from catwalk.errors import CatwalkError
from catwalk.study.specifications import attack_of


def test_derivatives_are_those_of_the_margin():
    network, (images, targets, _) = make_network().double(), make_batch(4)
    images = images.double().clamp(0.01, 0.99)
    network = torch.nn.Sequential(network[0], torch.nn.Tanh(), *network[6:])  # without kinks
    chosen = torch.randint(243, (4, 9), generator=torch.Generator().manual_seed(0))
    variable = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(margins(network(variable), targets, True).sum(), variable)
    oracle = Oracle(lambda points, rows: network(points), 4, 1000, 64, images.device)
    with torch.no_grad():
        found = ZOO(confidence=1000)._derivatives(oracle, images, chosen, targets, torch.arange(4))
    torch.testing.assert_close(found, gradient.flatten(1).gather(1, chosen), rtol=1e-3, atol=1e-6)
    assert oracle.asked.tolist() == [18] * 4


def test_derivatives_at_the_border_of_the_box_are_one_sided():
    network = linear(2)
    images = torch.tensor([0.0, 1.0] * 6).reshape(1, 3, 2, 2)
    oracle = Oracle(lambda points, rows: network(points), 1, 1000, 64, images.device)
    chosen, target = torch.arange(12)[None], torch.tensor([1])
    with torch.no_grad():
        found = ZOO(confidence=1000)._derivatives(oracle, images, chosen, target, torch.arange(1))
    torch.testing.assert_close(found[0], (network.weight[0] - network.weight[1]).detach(), rtol=1e-2, atol=1e-3)


def test_a_step_is_adams_in_the_chosen_values_alone():
    clean, c = grey_images(1, 2), torch.tensor([3.0])
    descent = _Descent(clean, c)
    values = clean.flatten().clone().requires_grad_()
    adam = torch.optim.Adam([values], lr=0.01)
    derivatives = torch.linspace(-1, 1, 12)
    for _ in range(4):  # all of the values at every step is Adam itself
        descent.step(torch.arange(12)[None], derivatives[None], 0.01)
        values.grad = 3 * derivatives + 2 * (values.detach() - clean.flatten())
        adam.step()
    torch.testing.assert_close(descent.points.flatten(), values.detach())
    before = descent.points.flatten().clone()
    descent.step(torch.tensor([[3, 7]]), torch.ones(1, 2), 0.01)
    assert (descent.points.flatten() != before).nonzero().flatten().tolist() == [3, 7]


def test_comes_near_the_distance_of_a_plane():
    network, images, keys = linear(3, lead=0.9), grey_images(4, 3), torch.arange(4)
    weight = (network.weight[1] - network.weight[0]).detach()
    logits = network(images).detach()
    nearest = ((logits[:, 0] - logits[:, 1]) / weight.norm()).clamp(min=0)
    attack = ZOO(3000, coordinates=27, constants=6, initial_c=0.1, learning_rate=1.5, rounded=False)
    result = attack(network, images, torch.ones(4, dtype=torch.int64), keys=keys)
    found = (result.images - images).flatten(1).norm(dim=1)
    assert result.success.all()
    assert (nearest > 0.05).sum() >= 3
    assert (found >= nearest * 0.999).all()
    away = nearest > 0.05
    assert (found[away] < 1.2 * nearest[away]).all()


def test_names_and_errors():
    assert ZOO().name == "ZOO (20000)"
    for settings, message in (
        ({"queries": 515}, "queries: .* must be at least 516, got 515; or give fewer coordinates"),
        ({"coordinates": 0}, "coordinates must be at least 1, got 0"),
        ({"constants": 0}, "constants must be at least 1, got 0"),
        ({"confidence": -1}, "confidence must be at least 0, got -1"),
        ({"initial_c": 0}, "initial_c: must be a number above 0"),
        ({"h": 0}, "h: must be a number of grey levels above 0 .* got 0"),
        ({"learning_rate": 300}, "learning_rate: must be .* at most 255, got 300"),
    ):
        with pytest.raises(CatwalkError, match=message):
            ZOO(**settings)


def test_the_configuration_is_accepted():
    settings = yaml.safe_load(Path(str(files("configs")), "attack", "zoo.yaml").read_text())
    attack = attack_of(settings["poison"]["attack"]).instantiate()
    assert (type(attack), attack.name, attack.threat_model.norm) == (ZOO, "ZOO (20000)", "l2")
