"""NES and SPSA: the estimates against gradients that are known, and what the steps reach."""

import math
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from black_box import grey_images, linear
from torch import nn

from catwalk.attacks import FGSM, NES, SPSA
from catwalk.attacks.queries import Oracle
from catwalk.errors import CatwalkError
from catwalk.keyed_random import derived_seed, normal, uniform
from catwalk.study.specifications import attack_of


class Quadratic(nn.Module):
    """Logits ``(q(x), 0)`` with ``q(x) = xᵀAx + bᵀx``, so that the margin of the first category is q."""

    def __init__(self, size):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(size, size, generator=generator) / size
        self.vector = torch.randn(size, generator=generator)

    def forward(self, images):
        flat = images.flatten(1)
        return torch.stack([(flat @ self.matrix * flat).sum(1) + flat @ self.vector, torch.zeros(len(flat))], 1)

    def gradient(self, images):
        flat = images.flatten(1)
        return (flat @ (self.matrix + self.matrix.T) + self.vector).reshape(images.shape)


def estimate(attack, network, images, targets, keys, number=1):
    rows = torch.arange(len(images))
    oracle = Oracle(lambda points, _: network(points), len(images), 10**6, 64, images.device)
    return attack.estimate(oracle, images, targets, keys, rows, number)


@pytest.mark.parametrize("attack", [NES(samples=400, loss="margin", targeted=False), SPSA(samples=400, targeted=False)])
def test_the_estimate_is_right_on_average(attack):
    network, images = Quadratic(12), grey_images(1, 2).repeat(64, 1, 1, 1)
    estimates = estimate(attack, network, images, torch.zeros(64, dtype=torch.int64), torch.arange(64))
    truth = network.gradient(images[:1])[0]
    error = estimates.mean(dim=0) - truth
    # The variance of an estimate is that of one pair, at most 2‖∇‖², divided by the number of pairs.
    deviation = math.sqrt(2 / (400 * 64)) * float(truth.norm())
    assert float(error.abs().max()) < 4 * deviation
    assert float(error.norm() / truth.norm()) < 0.1
    assert estimates.std(dim=0).min() > 0, "each image has directions of its own"


@pytest.mark.parametrize("make", [NES, SPSA])
def test_the_estimate_is_the_formula_in_numpy(make):
    attack = make(samples=3, sigma=2, loss="margin", targeted=False, seed=5)
    network, images, keys = Quadratic(12), grey_images(2, 2), torch.tensor([4, 9])
    found = estimate(attack, network, images, torch.zeros(2, dtype=torch.int64), keys, number=7).double().numpy()
    matrix, vector = network.matrix.double().numpy(), network.vector.double().numpy()

    def q(x):
        return x @ matrix @ x + vector @ x

    for row in range(2):
        x, expected = images[row].flatten().double().numpy(), np.zeros(12)
        for pair in range(3):
            seed = derived_seed(5, 7, pair)
            if make is NES:
                v = normal(seed, keys, (3, 2, 2))[row].flatten().double().numpy()
            else:
                v = np.where(uniform(seed, keys, (3, 2, 2))[row].flatten().numpy() >= 0.5, 1.0, -1.0)
            expected += (q(x + 2 / 255 * v) - q(x - 2 / 255 * v)) / (2 * 2 / 255) * v / 3
        np.testing.assert_allclose(found[row].flatten(), expected, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize(("make", "norm"), [(NES, "linf"), (NES, "l2"), (SPSA, "linf")])
def test_reaches_the_best_point_of_a_linear_network(make, norm):
    network, images, keys = linear(3, lead=20.0), grey_images(2, 3), torch.arange(2)
    targets, epsilon = torch.ones(2, dtype=torch.int64), 8 if norm == "linf" else 30
    attack = make(epsilon, norm, queries=2000, samples=20, loss="margin")
    result = attack(network, images, targets, keys=keys)
    weight = (network.weight[1] - network.weight[0]).detach()
    if norm == "linf":
        best = FGSM(8)(network, images, targets).images
    else:
        best = images + epsilon / 255 * (weight / weight.norm()).reshape(1, 3, 3, 3)
    reached, possible = (((points - images).flatten(1) @ weight) for points in (result.images, best))
    assert (reached > 0.97 * possible).all()
    assert result.iterations.tolist() == [1 + 41 * 48] * 2


def test_normal_numbers_are_normal():
    draws = normal(3, torch.arange(50), (400,)).double()
    assert abs(float(draws.mean())) < 0.03
    assert abs(float(draws.std()) - 1) < 0.03
    scipy_stats = pytest.importorskip("scipy.stats")
    assert scipy_stats.kstest(draws.flatten().numpy(), "norm").pvalue > 0.01
    assert torch.equal(normal(3, torch.tensor([7]), (400,))[0], normal(3, torch.arange(50), (400,))[7])
    expected = scipy_stats.norm.ppf(uniform(3, torch.arange(2), (9,)).double().numpy() + 2.0**-25)
    np.testing.assert_allclose(normal(3, torch.arange(2), (9,)).numpy(), expected, rtol=1e-4, atol=1e-6)


def test_names_and_errors():
    assert NES("4/255").name == "NES (ε = 4)"
    assert SPSA(255, norm="l2").name == "SPSA-L2 (ε = 255)"
    for make, settings, message in (
        (NES, {"queries": 51}, "queries: .* must be at least 52, got 51; or give fewer samples"),
        (SPSA, {"samples": 0}, "samples must be at least 1, got 0"),
        (SPSA, {"sigma": 0}, "sigma: must be a number of grey levels above 0 .* got 0"),
        (NES, {"momentum": 1}, "momentum: must be a share from 0 to below 1, got 1"),
        (NES, {"step": 0}, "step: must be a number of grey levels above 0"),
        (SPSA, {"learning_rate": -1}, "learning_rate: must be a number of grey levels above 0 .* got -1"),
        (NES, {"loss": "dlr"}, "loss must be one of margin, ce, got 'dlr'"),
    ):
        with pytest.raises(CatwalkError, match=message):
            make(**settings)


@pytest.mark.parametrize(("file", "kind", "name"), [("nes8", NES, "NES (ε = 8)"), ("spsa8", SPSA, "SPSA (ε = 8)")])
def test_the_configurations_are_accepted(file, kind, name):
    settings = yaml.safe_load(Path(str(files("configs")), "attack", f"{file}.yaml").read_text())
    attack = attack_of(settings["poison"]["attack"]).instantiate()
    assert (type(attack), attack.name, attack.queries) == (kind, name, 5000)
