"""Square: what it reaches on a linear network, its proposals against NumPy, and a peer."""

import math
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from black_box import grey_images, linear
from every_attack import make_batch, make_network

from catwalk.attacks import FGSM, PGD, Square
from catwalk.attacks.square import _bumps, _propose_l2, _propose_linf, _tiles
from catwalk.errors import CatwalkError
from catwalk.keyed_random import uniform
from catwalk.study.specifications import attack_of


@pytest.mark.parametrize(("loss", "targeted"), [("ce", True), ("margin", False)])
def test_reaches_the_corner_of_a_linear_network(loss, targeted):
    network, images, keys = linear(3, lead=5.0), grey_images(2, 3), torch.arange(2)
    targets = torch.full((2,), int(targeted))
    square = Square(8, queries=900, loss=loss, targeted=targeted)(network, images, targets, keys=keys)
    corner = FGSM(8, targeted=targeted)(network, images, targets)
    torch.testing.assert_close(square.images, corner.images, atol=1e-6, rtol=0)
    assert square.iterations.tolist() == [900] * 2
    assert not square.success.any()


def test_comes_near_the_best_point_of_a_linear_network_in_l2():
    network, images, keys = linear(6, lead=50.0), grey_images(4, 6), torch.arange(4)
    direction = (network.weight[1] - network.weight[0]).detach()

    def gains(queries):
        attack = Square(60, norm="l2", queries=queries)
        result = attack(network, images, torch.ones(4, dtype=torch.int64), keys=keys).images
        moves = (result - images).flatten(1)
        assert moves.norm(dim=1).sub(60 / 255).abs().max() < 1e-5, "all of the budget is used"
        return moves @ direction

    many, best = gains(600), 60 / 255 * direction.norm()
    assert (many > 0.4 * best).all()
    assert (many > 2 * gains(10)).all()


def test_stops_where_it_has_succeeded():
    network = make_network()
    images, _, keys = make_batch(40)
    predicted = network(images).argmax(1)
    attack = Square(30, queries=200, targeted=False)
    result = attack(network, images, predicted, keys=keys)
    assert 10 < result.success.sum() <= 40
    assert (result.iterations[result.success] < 200).all()
    assert (result.iterations[~result.success] == 200).all()
    for row in result.success.nonzero()[:5, 0].tolist():
        one, cost = slice(row, row + 1), int(result.iterations[row])
        if cost > 1:  # a query less, and it has not
            attack.queries, attack.side = cost - 1, lambda step, shape: Square(queries=200).side(step, shape)
            assert not attack(network, images[one], predicted[one], keys=keys[one]).success
    most = PGD(30, targeted=False)(network, images, predicted, keys=keys).success.sum()
    assert result.success.sum() >= 0.8 * most


@pytest.mark.parametrize(
    ("queries", "step", "side"),
    [
        (10_000, 1, 50),  # √(0.05 · 224²)
        (10_000, 10, 50),
        (10_000, 11, 35),  # halved once
        (10_000, 501, 13),  # four times
        (10_000, 8001, 2),  # nine times
        (1000, 1, 50),
        (1000, 51, 13),
        (1000, 999, 2),
    ],
)
def test_the_side_of_a_square_is_the_papers(queries, step, side):
    assert Square(queries=queries, p_init=0.05).side(step, torch.Size((1, 3, 224, 224))) == side


def test_squares_of_l2_have_a_middle_and_fit_the_image():
    attack = Square(norm="l2", queries=10_000, p_init=0.8)
    sides = [attack.side(step, torch.Size((1, 3, 28, 20))) for step in range(1, 10_000, 7)]
    assert sides[0] == 20
    assert sides[-1] == 3
    assert all(side % 2 for side in sides if side < 20)


def test_a_square_is_where_the_draws_say():
    clean, keys = grey_images(50, 9), torch.arange(50)
    current = clean + 0.01
    points = _propose_linf(current, clean, 4, 0.05, 3, keys).numpy()
    draws = uniform(3, keys, (5,)).double().numpy()
    expected = current.numpy().copy()
    places = set()
    for row in range(50):
        top, left = int(draws[row, 0] * 6), int(draws[row, 1] * 6)
        places.add((top, left))
        for channel in range(3):
            sign = 1 if draws[row, 2 + channel] >= 0.5 else -1
            window = slice(top, top + 4), slice(left, left + 4)
            expected[row, channel][window] = clean.numpy()[row, channel][window] + sign * np.float32(0.05)
    np.testing.assert_allclose(points, expected, atol=1e-7)
    assert len(places) > 20
    assert {place[0] for place in places} == set(range(6))


def bumps_by_loops(side):
    """The paper's η, algorithm 3 and section 3.3, value by value."""

    def bump(height, width):
        values = np.zeros((height, width))
        for row in range(height):
            for column in range(width):
                for number in range(side // 2 + 1):
                    if abs(row - height // 2) <= number and abs(column - width // 2) <= number:
                        values[row, column] += 1 / (number + 1) ** 2
        return values / np.sqrt((values**2).sum())

    both = np.concatenate([bump(side // 2, side), -bump(side - side // 2, side)])
    return both / np.sqrt((both**2).sum())


@pytest.mark.parametrize("side", [2, 3, 4, 5, 9])
def test_bumps_are_the_papers(side):
    np.testing.assert_allclose(_bumps(side, torch.zeros(1)).numpy(), bumps_by_loops(side), atol=1e-6)


def test_a_step_in_l2_is_the_papers():
    radius, side, keys = 0.5, 3, torch.arange(40)
    clean = grey_images(40, 9)
    current = clean + 0.3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)) / math.sqrt(243)
    points = _propose_l2(current, clean, side, radius, 5, keys).double().numpy()
    draws = uniform(5, keys, (8,)).double().numpy()
    for row in range(40):
        perturbation = (current[row] - clean[row]).double().numpy()
        first, second = (
            (slice(top, top + side), slice(left, left + side))
            for top, left in ((draws[row, :4] * 7).astype(int)[[0, 1]], (draws[row, :4] * 7).astype(int)[[2, 3]])
        )
        mask = np.zeros((9, 9), bool)
        mask[first] = mask[second] = True
        left_over = max(radius**2 - (perturbation**2).sum(), 0) / 3
        tile = bumps_by_loops(side)
        tile = tile.T if draws[row, 4] < 0.5 else tile
        new = perturbation.copy()
        new[:, second[0], second[1]] = 0
        for channel in range(3):
            old = perturbation[channel][first]
            added = tile * (1 if draws[row, 5 + channel] >= 0.5 else -1) + old / (np.linalg.norm(old) + 1e-10)
            held = (perturbation[channel][mask] ** 2).sum()
            new[channel][first] = added / np.linalg.norm(added) * math.sqrt(left_over + held)
        expected = clean[row].double().numpy() + radius * new / np.linalg.norm(new)
        np.testing.assert_allclose(points[row], expected, atol=1e-6)


@pytest.mark.parametrize("size", [(4, 4), (5, 9), (28, 28), (31, 17)])
def test_the_start_in_l2_has_the_length_of_the_budget(size):
    images = torch.full((20, 3, *size), 0.5)
    moves = _tiles(images, 0.7, 0, torch.arange(20)) - images
    torch.testing.assert_close(moves.flatten(1).norm(dim=1), torch.full((20,), 0.7))
    assert len({tuple(move.flatten().tolist()) for move in moves}) == 20


def test_names_and_errors():
    assert Square("4/255").name == "Square (ε = 4)"
    assert Square(255, norm="l2").name == "Square-L2 (ε = 255)"
    assert Square().access == "scores"
    for settings, message in (
        ({"queries": 0}, "queries must be at least 1, got 0"),
        ({"p_init": 0}, "p_init: must be a share above 0 and at most 1, got 0"),
        ({"p_init": 1.5}, "p_init: .* got 1.5"),
        ({"loss": "dlr"}, "loss must be one of margin, ce, got 'dlr'"),
        ({"epsilon": -1}, "epsilon: .* got -1"),
    ):
        with pytest.raises(CatwalkError, match=message):
            Square(**settings)
    with pytest.raises(ValueError, match=r"keys: Square .* draws"):
        Square()(make_network(), *make_batch(4)[:2])


@pytest.mark.parametrize(("file", "name"), [("square8", "Square (ε = 8)"), ("square_l2", "Square-L2 (ε = 255)")])
def test_the_configurations_are_accepted(file, name):
    settings = yaml.safe_load(Path(str(files("configs")), "attack", f"{file}.yaml").read_text())
    attack = attack_of(settings["poison"]["attack"]).instantiate()
    assert (type(attack), attack.name, attack.queries) == (Square, name, 5000)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 6.0), ("l2", 90.0)])
def test_succeeds_as_often_as_torchattacks(norm, epsilon):
    torchattacks = pytest.importorskip("torchattacks")
    network = make_network(width=16)
    images, _, keys = make_batch(300)
    predicted = network(images).argmax(1)
    ours = Square(epsilon, norm, queries=300, targeted=False)(network, images, predicted, keys=keys)
    peer = torchattacks.Square(
        network, "Linf" if norm == "linf" else "L2", eps=epsilon / 255, n_queries=300, p_init=0.8, seed=0
    )
    hits = network(peer(images, predicted)).argmax(1) != predicted
    assert 0.2 < float(hits.float().mean()) < 0.95, "else the comparison says nothing"
    assert float(ours.success.float().mean()) > float(hits.float().mean()) - 0.05
