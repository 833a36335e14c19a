"""The random search for pixels against NumPy, step by step."""

import numpy as np
import pytest
import torch
from every_attack import make_batch, make_network

from catwalk.attacks import SparseRS
from catwalk.attacks.masks import Border, Patch
from catwalk.attacks.sparse_rs import share_exchanged
from catwalk.errors import CatwalkError
from catwalk.keyed_random import derived_seed, uniform


def reference(network, image, target, key, pixels, queries, alpha, targeted, seed, allowed=None):
    """The search for one image ``(3, H, W)``, by sets of places."""
    size = image[0].size
    places = set(range(size)) if allowed is None else set(np.flatnonzero(allowed))
    pixels = min(pixels, len(places))

    def draws(step):
        return uniform(derived_seed(seed, step), torch.tensor([key]), (2, size))[0].numpy()

    def first(order, among, count):
        return set(sorted(among, key=lambda place: (order[place], place))[:count])

    def colour(draw):
        return [int(draw * 8) >> bit & 1 for bit in range(3)]

    def look(painted):
        candidate = image.reshape(3, -1).copy()
        for place, its_colour in painted.items():
            candidate[:, place] = its_colour
        with torch.no_grad():
            logits = network(torch.from_numpy(candidate.reshape(1, *image.shape)).float())[0].double().numpy()
        hit = logits.argmax() == target
        if targeted:
            return candidate, np.log(np.exp(logits - logits[target]).sum()), hit
        return candidate, logits[target] - np.delete(logits, target).max(), not hit

    order, colours = draws(0)
    painted = {place: colour(colours[place]) for place in first(order, places, pixels)}
    best, loss, hit = look(painted)
    for asked in range(1, queries):
        if hit:
            return best, asked
        order, colours = draws(asked)
        number = min(max(int(share_exchanged(asked, queries, alpha) * pixels), 1), pixels)
        leaving = first(order, painted, number)
        free = places - set(painted)
        coming = leaving if len(free) < number else first(order, free, number)
        trial = {place: value for place, value in painted.items() if place not in leaving}
        trial |= {place: colour(colours[place]) for place in coming}
        candidate, its_loss, hit = look(trial)
        if hit or its_loss < loss:
            painted, best, loss = trial, candidate, its_loss
    return best, queries


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("mask", [None, Border(1), Patch(0.34)])
def test_equals_a_search_by_sets(targeted, mask):
    network = make_network()
    images, targets, keys = make_batch(20)
    attack = SparseRS(pixels=9, queries=40, alpha=0.6, targeted=targeted, seed=3, mask=mask)
    result = attack(network, images, targets, keys=keys)
    for row in range(20):
        allowed = None if mask is None else mask.region(images[row : row + 1], None)[0, 0].numpy()
        image, target, key = images[row].numpy(), int(targets[row]), int(keys[row])
        expected, queries = reference(network, image, target, key, 9, 40, 0.6, targeted, 3, allowed)
        assert np.array_equal(result.images[row].numpy(), expected.reshape(image.shape)), row
        assert int(result.iterations[row]) == queries
    assert 1 <= result.iterations.min() < result.iterations.max() == 40 or not targeted


def test_the_share_falls_as_in_the_paper():
    steps = [1, 50, 51, 200, 201, 1000, 1001, 2000, 2001, 8000, 8001, 10000]
    shares = [share_exchanged(step, 10000, 1.0) for step in steps]
    assert [round(1 / share) for share in shares] == [2, 2, 4, 4, 5, 6, 8, 8, 10, 15, 20, 20]
    assert share_exchanged(1, 100, 1.0) == share_exchanged(100, 10000, 1.0)


def test_pixels_are_corners_of_the_colours_and_the_clean_image_stays_elsewhere():
    images, targets, keys = make_batch(16)
    result = SparseRS(pixels=5, queries=30)(make_network(), images, targets, keys=keys)
    changed = (result.images != images).any(dim=1, keepdim=True).expand_as(images)
    assert set(result.images[changed].unique().tolist()) <= {0.0, 1.0} | set(images[changed].unique().tolist())
    assert (changed[:, 0].sum(dim=(1, 2)) <= 5).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pixels": -1}, "pixels must be at least 0, got -1"),
        ({"queries": 0}, "queries must be at least 1, got 0"),
        ({"alpha": 0}, "alpha: must be a share of the pixels above 0 and at most 1, got 0"),
    ],
)
def test_refuses_other_values(arguments, message):
    with pytest.raises(CatwalkError, match=message):
        SparseRS(**arguments)
