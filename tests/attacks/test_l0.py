"""Budgets in pixels, against brute force."""

import dataclasses
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from catwalk.attacks import PGD, ThreatModel, ThreatModelError
from catwalk.attacks.masks import Border
from catwalk.errors import CatwalkError


def nearest_by_trying_all(image, clean, pixels, allowed=None):
    """The nearest image in [0, 1] that differs from the clean one in so few pixels, and how far it is."""
    places = [place for place in np.ndindex(image.shape[1:]) if allowed is None or allowed[place]]
    best, least = None, np.inf
    for chosen in combinations(places, min(pixels, len(places))):
        candidate = clean.copy()
        for place in chosen:
            candidate[(slice(None), *place)] = image[(slice(None), *place)].clip(0, 1)
        distance = ((candidate - image) ** 2).sum()
        if distance < least - 1e-12:
            best, least = candidate, distance
    return best, least


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), pixels=st.integers(0, 5), masked=st.booleans())
def test_the_projection_is_the_nearest_of_all(seed, pixels, masked):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(0, 256, (2, 3, 3, 4), generator=generator).float() / 255
    images = clean + (torch.rand(clean.shape, generator=generator) - 0.5) * 2
    ball = ThreatModel("l0", pixels, mask=Border(1) if masked else None).for_images(clean, None)
    projected = ball.project(images, clean)
    ball.verify(projected, clean)
    region = Border(1).region(clean, None)[0, 0].numpy() if masked else None
    for row in range(2):
        image, its_clean = images[row].double().numpy(), clean[row].double().numpy()
        if masked:  # what is outside goes back first, whatever it costs
            image = np.where(region, image, its_clean)
        _, least = nearest_by_trying_all(image, its_clean, pixels, region)
        distance = ((projected[row].double().numpy() - image) ** 2).sum()
        assert distance == pytest.approx(least, abs=1e-6)
        assert (projected[row] != clean[row]).any(dim=0).sum() <= pixels


def test_of_pixels_that_matter_alike_the_first_are_kept():
    clean = torch.zeros(1, 3, 2, 3)
    projected = ThreatModel("l0", 2).project(torch.full_like(clean, 0.5), clean)
    assert projected[0, 0].tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("quantisation", ["inside", "round", "truncate"])
@pytest.mark.parametrize("space", ["pixels", "normalised"])
def test_every_way_to_8_bits_keeps_the_other_pixels(quantisation, space):
    generator = torch.Generator().manual_seed(1)
    levels = torch.randint(0, 256, (4, 3, 6, 6), generator=generator).to(torch.uint8)
    clean = levels.float() / 255
    std = (0.229, 0.224, 0.225) if space == "normalised" else None
    ball = ThreatModel("l0", 3, quantisation, space, std=std)
    scale = 1.0 if std is None else torch.tensor(std).view(1, 3, 1, 1)
    moved = ball.project(torch.rand(clean.shape, generator=generator) / scale, clean / scale) * scale
    images = ball.restore(moved.clamp(0, 1), clean)
    ball.verify(images, clean)
    saved = ball.quantise(images, clean)
    ball.verify_levels(saved, levels)
    assert (saved != levels).any(dim=1).flatten(1).sum(dim=1).tolist() == [3] * 4
    with pytest.raises(ThreatModelError, match="adversarial image 2 differs from the clean image in 3 pixels, beyond"):
        dataclasses.replace(ball, epsilon=2).verify_levels(saved[2:], levels[2:], first=2)


def test_a_budget_of_pixels_is_whole():
    with pytest.raises(CatwalkError, match=r"epsilon: in l0 it is a whole number of pixels, got 2\.5"):
        ThreatModel("l0", 2.5)


def test_attacks_that_follow_a_gradient_in_a_ball_refuse_it():
    with pytest.raises(CatwalkError, match="norm: must be one of linf, l2, got 'l0'"):
        PGD(norm="l0")
