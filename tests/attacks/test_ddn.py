"""DDN against the paper's algorithm written image by image, and against adversarial-library."""

import math

import pytest
import torch
from least_change_cases import smooth_network

from catwalk.attacks import DDN
from catwalk.attacks.threat_model import l2_levels
from catwalk.errors import CatwalkError

AS_PUBLISHED = {"loss": "ce", "final_gamma": 0.05, "check_every": 1000, "rounded": False}


def reference(network, image, category, *, targeted, iterations, gamma=0.05, initial_norm=1.0):
    """Algorithm 1 of the paper for one image: return the nearest success, and its distance."""
    sign = 1 if targeted else -1
    perturbation, norm, nearest, least = torch.zeros_like(image), initial_norm, image, math.inf
    for step in range(iterations):
        x = (image + perturbation).requires_grad_()
        logits = network(x[None])[0]
        success = (int(logits.argmax()) == category) is targeted
        if success and perturbation.norm() < least:
            nearest, least = x.detach(), float(perturbation.norm())
        (gradient,) = torch.autograd.grad(sign * logits.log_softmax(0)[category], x)
        alpha = 0.01 + 0.99 * (1 + math.cos(math.pi * step / iterations)) / 2
        perturbation = perturbation + alpha * gradient / gradient.norm()
        norm *= 1 - gamma if success else 1 + gamma
        perturbation = (image + norm * perturbation / perturbation.norm()).clamp(0, 1) - image
    return nearest, least


def images_and_targets(network, targeted, number=6):
    images = torch.rand(number, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    order = network(images).detach().argsort(dim=1, descending=True)
    return images, order[:, 1 if targeted else 0]


@pytest.mark.parametrize("targeted", [True, False])
def test_equals_the_paper(targeted):
    network = smooth_network()
    images, targets = images_and_targets(network, targeted)
    attack = DDN(iterations=40, targeted=targeted, **AS_PUBLISHED)
    found, iterations = attack.perturb(network, images, targets, None)
    assert iterations.tolist() == [40] * 6
    for row in range(6):
        expected, least = reference(network, images[row], int(targets[row]), targeted=targeted, iterations=40)
        assert least < math.inf
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("targeted", [True, False])
def test_equals_adversarial_library(targeted):
    attacks = pytest.importorskip("adv_lib.attacks")
    network = smooth_network()
    images, targets = images_and_targets(network, targeted)
    found, _ = DDN(iterations=60, targeted=targeted, **AS_PUBLISHED).perturb(network, images, targets, None)
    peer = attacks.ddn(network, images, targets, targeted=targeted, steps=60, levels=None)
    torch.testing.assert_close(found, peer, rtol=0, atol=1e-6)  # theirs keeps ε in float32


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [100, 300])
def test_is_nearer_than_adversarial_library_on_8_bits(iterations):
    attacks = pytest.importorskip("adv_lib.attacks")
    network = smooth_network().float()
    images = torch.randint(256, (64, 3, 9, 9), generator=torch.Generator().manual_seed(4)).float() / 255
    targets = network(images).detach().argsort(dim=1, descending=True)[:, 1]
    peer = attacks.ddn(network, images, targets, targeted=True, steps=iterations)
    result = DDN(iterations=iterations)(network, images, targets)
    theirs = network(peer).argmax(dim=1) == targets
    assert result.success[theirs].all()
    assert l2_levels(result.images, images)[theirs].mean() <= l2_levels(peer, images)[theirs].mean()


def test_follows_the_margin_unless_told_otherwise():
    """The cross-entropy also pulls at categories that play no part: with four of them the paths differ."""
    network = smooth_network()
    images, targets = images_and_targets(network, True)
    by_margin, by_entropy = (
        DDN(iterations=5, loss=loss, rounded=False).perturb(network, images, targets, None)[0]
        for loss in ("margin", "ce")
    )
    assert not torch.equal(by_margin, by_entropy)


def test_name_and_defaults():
    attack = DDN()
    assert attack.name == "DDN (100)"
    assert (attack.threat_model.norm, attack.threat_model.epsilon) == ("l2", None)
    assert (attack.initial_norm, attack.step, attack.final_step, attack.gamma) == (255, 255, 2.55, 0.05)
    assert (attack.rounded, attack.targeted, attack.random_start) == (True, True, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial_norm": 0.0}, "initial_norm: must be a number of grey levels above 0, got 0.0"),
        ({"initial_norm": math.nan}, "initial_norm: .* got nan"),
        ({"loss": "dlr"}, "loss: must be one of margin, ce, got 'dlr'"),
    ],
)
def test_refuses_other_values(arguments, message):
    with pytest.raises(CatwalkError, match=message):
        DDN(**arguments)
