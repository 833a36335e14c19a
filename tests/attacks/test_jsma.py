"""The saliency map attack against NumPy that tries all pairs, on linear networks and others."""

from itertools import combinations

import numpy as np
import pytest
import torch
from every_attack import make_batch, make_network
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from catwalk.attacks import JSMA
from catwalk.attacks.jsma import hardly_inferior
from catwalk.errors import CatwalkError


def linear(categories, size, seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, categories)).eval()


def reference(weights, bias, image, target, pixels, theta, pairs, direction, targeted):
    """JSMA on logits ``W x + b`` of one image ``(3, H, W)``, one pair after the other of all there are."""
    clean, size = image.reshape(-1).astype(np.float64), image[0].size
    x, gone, steps = clean.copy(), set(), 0
    rising = weights[target] if targeted else weights.sum(axis=0) - weights[target]
    falling = weights.sum(axis=0) - weights[target] if targeted else weights[target]
    while True:
        steps += 1
        if ((weights @ x + bias).argmax() == target) == targeted:
            break
        touched = {p % size for p in np.flatnonzero(x != clean)}
        moves = []
        for p in range(x.size):
            for sign in (1, -1):
                is_open = x[p] < 1 - 1e-6 if sign > 0 else x[p] > 1e-6
                if is_open and (p, -sign) not in gone and direction in ("both", "up" if sign > 0 else "down"):
                    moves.append((p, sign))
        best, chosen = 0.0, None
        for group in combinations(moves, 2) if pairs else [(move,) for move in moves]:
            new = {p % size for p, _ in group} - touched
            alpha = sum(sign * rising[p] for p, sign in group)
            beta = sum(sign * falling[p] for p, sign in group)
            if alpha > 0 > beta and len(touched | new) <= pixels and -alpha * beta > best * (1 + 1e-9):
                best, chosen = -alpha * beta, group
        if chosen is None:
            break
        for p, sign in chosen:
            x[p] = np.clip(x[p] + sign * theta / 255, 0, 1)
            gone.add((p, sign))
    return x.reshape(image.shape), steps


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("direction", ["both", "up", "down"])
@pytest.mark.parametrize(("pairs", "theta"), [(True, 255.0), (True, 40.0), (False, 255.0), (False, 90.0)])
def test_equals_a_search_of_all_pairs(targeted, direction, pairs, theta):
    random = np.random.default_rng(5)
    for seed, pixels in enumerate((1, 2, 3, 5)):
        network = linear(4, 3, seed)
        image = random.integers(0, 256, (3, 3, 3)) / 255
        image[:, 0] = 1.0
        weights, bias = (parameter.detach().double().numpy() for parameter in network[1].parameters())
        order = (weights @ image.reshape(-1) + bias).argsort()
        target = int(order[0] if targeted else order[-1])
        expected, steps = reference(weights, bias, image, target, pixels, theta, pairs, direction, targeted)
        images = torch.from_numpy(image).float()[None]
        attack = JSMA(pixels, theta, pairs, direction, targeted)
        result = attack(network, images, torch.tensor([target]))
        assert np.allclose(result.images[0].numpy(), expected, atol=1e-5), (seed, pixels)
        assert result.iterations.tolist() == [steps]


def test_one_move_of_a_linear_network_is_the_closed_form():
    network = linear(3, 4, 0)
    weights = network[1].weight.detach().double()
    images, target = torch.full((1, 3, 4, 4), 0.5), torch.tensor([1])
    others = weights.sum(dim=0) - weights[1]
    product = torch.where(weights[1] * others < 0, (weights[1] * others).abs(), 0)
    network[1].bias.data[1] = -100.0  # so that no move is enough
    result = JSMA(pixels=1, pairs=False)(network, images, target)
    place = int(product.view(3, 16).amax(dim=0).argmax())
    assert (result.images != images).any(dim=1).flatten().nonzero().tolist() == [[place]]
    value = int(product.argmax())
    assert result.images.flatten()[value] == float(weights[1, value] > 0)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 12), levels=st.integers(2, 8))
def test_the_best_pair_is_among_what_is_hardly_inferior(seed, count, levels):
    random = np.random.default_rng(seed)
    rises, falls = random.integers(-levels, levels + 1, (2, count)).astype(np.float32)
    chosen = random.random(count) < 0.8
    kept = hardly_inferior(rises, falls, chosen).tolist()

    def best(moves):
        pairs = [(rises[p] + rises[q], falls[p] + falls[q]) for p, q in combinations(moves, 2)]
        return max([a * b for a, b in pairs if a > 0 and b > 0], default=0)

    assert best(kept) == best(np.flatnonzero(chosen))
    assert set(kept) <= set(np.flatnonzero(chosen))


def test_8_bit_images_stay_so_and_no_more_pixels_than_allowed_change():
    network = make_network()
    images, targets, _ = make_batch(16)
    few, many = (JSMA(pixels, theta=100)(network, images, targets) for pixels in (4, 40))
    assert torch.equal(many.images, (many.images * 255).round() / 255)
    changed = (few.images != images).any(dim=1).sum(dim=(1, 2))
    assert 0 < changed.max() <= 4
    assert few.success.sum() <= many.success.sum()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pixels": -1}, "pixels must be at least 0, got -1"),
        ({"pixels": 2.5}, r"pixels must be a whole number, got 2\.5"),
        ({"theta": 0}, "theta: must be a number of grey levels above 0 and at most 255, got 0"),
        ({"theta": "many"}, "theta: must be a number of grey levels"),
        ({"direction": "left"}, "direction must be one of both, up, down, got 'left'"),
    ],
)
def test_refuses_other_values(arguments, message):
    with pytest.raises(CatwalkError, match=message):
        JSMA(**arguments)
