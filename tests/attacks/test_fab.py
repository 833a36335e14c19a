"""FAB: its projection against a solver, what it finds on linear networks against the optimum, and the algorithm."""

import math
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from edge_images import make_images
from scipy.optimize import linprog, minimize
from test_apgd import make_targets, smooth_network
from torch import nn

from catwalk.attacks import FAB
from catwalk.attacks.fab import steps_to_boundary
from catwalk.errors import CatwalkError
from catwalk.study.specifications import attack_of

every_norm = pytest.mark.parametrize("norm", ["linf", "l2"])


def solve(x, w, value, norm):
    """Return the shortest step from x in [0, 1] to where ``value + w·δ`` is 0, by a solver; None if there is none."""
    size, bounds = len(x), list(zip(-x, 1 - x, strict=True))
    if norm == "linf":
        cost, ones = np.r_[np.zeros(size), 1], np.ones((size, 1))
        sides = np.block([[np.eye(size), -ones], [-np.eye(size), -ones]])
        equal = {"A_eq": [np.r_[w, 0]], "b_eq": [-value]}
        outcome = linprog(cost, A_ub=sides, b_ub=np.zeros(2 * size), **equal, bounds=[*bounds, (0, None)])
        return outcome.x[:-1] if outcome.status == 0 else None
    plane = {"type": "eq", "fun": lambda step: w @ step + value, "jac": lambda step: w}
    outcome = minimize(
        lambda step: step @ step,
        np.zeros(size),
        jac=lambda step: 2 * step,
        bounds=bounds,
        constraints=plane,
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return outcome.x if abs(w @ outcome.x + value) < 1e-6 else None


def length(step, norm):
    return np.abs(step).max() if norm == "linf" else np.linalg.norm(step)


@every_norm
def test_the_step_is_the_shortest_inside_the_box(norm):
    random = torch.Generator().manual_seed(0)
    points, gradient = torch.rand(40, 12, generator=random), torch.randn(40, 12, generator=random)
    points[:, 0], points[:, 1], gradient[:, 2] = 0, 1, 0
    values = torch.randn(40, generator=random, dtype=torch.float64) * torch.tensor([0.3, 3.0]).repeat(20)
    steps = steps_to_boundary(points, gradient, values, norm, torch.ones_like(points)).double().numpy()
    out_of_reach = 0
    for x, w, value, step in zip(
        points.double().numpy(), gradient.double().numpy(), values.tolist(), steps, strict=True
    ):
        assert ((x + step > -1e-7) & (x + step < 1 + 1e-7)).all()
        best = solve(x, w, value, norm)
        if best is None:
            out_of_reach += 1
            towards = -np.sign(w) * np.sign(value)
            corner = np.where(towards > 0, 1 - x, np.where(towards < 0, -x, 0))
            np.testing.assert_allclose(step, corner, atol=1e-6)
        else:
            assert abs(value + w @ step) < 1e-5
            assert length(step, norm) == pytest.approx(length(best, norm), abs=1e-6)
    assert 2 <= out_of_reach <= 20, "both happen"


@every_norm
def test_without_a_box_it_is_the_distance_from_a_plane(norm):
    gradient, values = torch.randn(5, 3, 2, 2), torch.randn(5, dtype=torch.float64)
    gradient[4] = 0
    steps = steps_to_boundary(torch.rand(5, 3, 2, 2), gradient, values, norm, None).flatten(1)
    slopes = gradient.flatten(1)
    distances = values.abs() / slopes.double().norm(p=1 if norm == "linf" else 2, dim=1)
    torch.testing.assert_close(steps[:4].norm(p=math.inf if norm == "linf" else 2, dim=1), distances[:4].float())
    torch.testing.assert_close((steps * slopes).sum(1)[:4], -values[:4].float())
    assert (steps[4] == 0).all()


def bisect(x, w, value, norm):
    """Return the same as :func:`solve`, or the corner of the box where that finds nothing, for many values."""
    towards = -w * np.sign(value) if norm == "l2" else -np.sign(w) * np.sign(value)

    def step(multiplier):
        return np.clip(multiplier * towards, -x, 1 - x)

    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if abs(w @ step(middle)) < abs(value) else (low, middle)
    return step(high)


class Linear(nn.Module):
    def __init__(self, categories=4, size=4):
        super().__init__()
        random = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(categories, 3 * size * size, generator=random))

    def forward(self, images):
        return images.flatten(1) @ self.weight.T


def best_distances(network, images, norm):
    """Return the least distance in grey levels from each image to any other category of a linear network."""
    found = []
    for image in images.flatten(1).double().numpy():
        weights = network.weight.detach().double().numpy()
        z = weights @ image
        own = int(z.argmax())
        planes = [(weights[t] - weights[own], z[t] - z[own]) for t in range(len(z)) if t != own]
        steps = [(bisect(image, w, value, norm), w, value) for w, value in planes]
        found.append(255 * min(length(step, norm) for step, w, value in steps if abs(value + w @ step) < 1e-6))
    return torch.tensor(found)


@every_norm
def test_finds_the_nearest_point_of_a_linear_network(norm):
    network, images = Linear(), torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    own, best = network(images).argmax(1), best_distances(network, images, norm)
    result = FAB(None, norm, iterations=30)(network, images, own)
    distances = 255 * (result.images - images).flatten(1).norm(p=math.inf if norm == "linf" else 2, dim=1)
    assert result.success.all()
    assert ((distances >= best * 0.9999) & (distances < 1.02 * best)).all()
    epsilon = float(best.median()) * 1.02
    bounded = FAB(epsilon, norm, iterations=30)(network, images, own)
    assert torch.equal(bounded.success, distances <= epsilon)
    assert 0 < int(bounded.success.sum()) < 6
    assert (bounded.iterations <= 90).all()


@every_norm
def test_towards_a_category_of_a_linear_network(norm):
    network, images = Linear(2), torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    other, best = 1 - network(images).argmax(1), best_distances(network, images, norm)
    result = FAB(None, norm, iterations=30, targeted=True)(network, images, other)
    distances = 255 * (result.images - images).flatten(1).norm(p=math.inf if norm == "linf" else 2, dim=1)
    assert result.success.all()
    assert ((distances >= best * 0.9999) & (distances < 1.02 * best)).all()


def reference_fab(network, clean, own, aim, norm, iterations):
    """Algorithm 1 towards one boundary for one image, in float64."""
    x, nearest, least, x0 = clean.ravel(), clean.ravel(), math.inf, clean.ravel()

    for _ in range(iterations):
        variable = torch.tensor(x.reshape(1, *clean.shape), requires_grad=True)
        z = network(variable)[0]
        f = z[aim] - z[own]
        f.backward()
        w, value = variable.grad.numpy().ravel(), f.item()
        step, other = bisect(x, w, value, norm), bisect(x0, w, value + w @ (x0 - x), norm)
        a = min(length(step, norm) / (length(step, norm) + length(other, norm)), 0.1)
        x = np.clip((1 - a) * (x + 1.05 * step) + a * (x0 + 1.05 * other), 0, 1)
        if int(network(torch.tensor(x.reshape(1, *clean.shape)))[0].argmax()) != own:
            if length(x - x0, norm) < least:
                nearest, least = x, length(x - x0, norm)
            x = x0 + 0.9 * (x - x0)
    return nearest.reshape(clean.shape), least


@every_norm
def test_equals_a_reference_step_by_step(norm):
    network, images = smooth_network(), make_images(5)
    own = make_targets(network, images, targeted=False)
    ordered = network(images).argsort(1, descending=True)
    result, iterations = FAB(None, norm, num_targets=2, iterations=6).perturb(network, images, own, None)
    assert iterations.tolist() == [12] * 5
    network.double()
    for row in range(5):
        clean, runs = images[row].double().numpy(), []
        for place in (1, 2):
            runs.append(reference_fab(network, clean, int(own[row]), int(ordered[row, place]), norm, 6))
        expected, least = min(runs, key=lambda run: run[1])
        assert math.isfinite(least)
        np.testing.assert_allclose(result[row], expected, atol=2e-5)


def test_hands_out_the_clean_image_where_there_is_no_other_category():
    class Sure(nn.Module):
        def forward(self, images):
            return torch.tensor([[5.0, 1.0, 0.0]]) + 0 * images.mean((1, 2, 3))[:, None]

    images = make_images(3)
    result = FAB(iterations=3)(Sure(), images, torch.zeros(3, dtype=torch.int64))
    assert torch.equal(result.images, images)
    assert not result.success.any()
    assert result.iterations.tolist() == [6] * 3
    mistaken = FAB(iterations=3)(Sure(), images, torch.ones(3, dtype=torch.int64))
    assert torch.equal(mistaken.images, images)
    assert mistaken.success.all()
    assert mistaken.iterations.tolist() == [0] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_targets": 0}, "num_targets: must be at least 1"),
        ({"iterations": 0}, "iterations: must be at least 1"),
        ({"epsilon": -1}, "epsilon: must be"),
        ({"precision": "bf16"}, "precision: bf16 moves the boundary"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(CatwalkError, match=message):
        FAB(**settings)


def test_is_named_and_configured():
    assert (FAB().name, FAB(None).name, FAB(4, "l2", targeted=True).name) == (
        "FAB-T (ε = 8)",
        "FAB-T",
        "FAB-L2 (ε = 4)",
    )
    path = Path(str(files("configs"))) / "attack/fab8.yaml"
    attack = attack_of(yaml.safe_load(path.read_text())["poison"]["attack"], "attack").instantiate()
    assert isinstance(attack, FAB)
    assert attack.targeted


@pytest.mark.slow
@every_norm
def test_comes_as_near_as_a_peer(norm):
    peer = pytest.importorskip("torchattacks")
    network, images = smooth_network(), torch.rand(24, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    own = make_targets(network, images, targeted=False)
    ours = FAB(None, norm, num_targets=6, iterations=40)(network, images, own)
    craft = peer.FAB(
        network, norm={"linf": "Linf", "l2": "L2"}[norm], eps=9.0, steps=40, n_classes=7, multi_targeted=True, seed=0
    )
    order = math.inf if norm == "linf" else 2
    theirs = (craft(images, own) - images).flatten(1).norm(p=order, dim=1)
    distances = (ours.images - images).flatten(1).norm(p=order, dim=1)
    assert ours.success.all()
    assert distances.mean() <= theirs.mean() * 1.01
