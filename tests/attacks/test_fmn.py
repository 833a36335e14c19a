"""FMN against the paper's algorithm written image by image, and against adversarial-library."""

import math

import pytest
import torch
from least_change_cases import smooth_network

from catwalk.attacks import FMN
from catwalk.attacks.threat_model import linf_levels

each_norm = pytest.mark.parametrize("norm", ["l2", "linf"])


def reference(network, image, category, norm, *, targeted, iterations):
    """Algorithm 1 of the paper for one image, in the order of its authors' code; return the least distance.

    Until the first success the radius grows by γ at least, as ours does.
    """
    p, q = (2, 2) if norm == "l2" else (math.inf, 1)
    point, radius, least = image, math.inf, math.inf
    for step in range(iterations):
        falling = (1 + math.cos(math.pi * step / iterations)) / 2
        alpha, gamma = 0.01 + 0.99 * falling, 0.001 + 0.049 * falling
        x = point.clone().requires_grad_()
        logits = network(x[None])[0]
        others = max(logit for place, logit in enumerate(logits) if place != category)
        margin = logits[category] - others if targeted else others - logits[category]
        (gradient,) = torch.autograd.grad(margin, x)
        length = float((point - image).flatten().norm(p))
        if margin > 1e-5 * logits.abs().max():
            least = min(least, length)
            radius = min(radius * (1 - gamma), least)
        elif least < math.inf:
            radius *= 1 + gamma
        else:
            border = length + float(margin.detach().abs() / gradient.flatten().norm(q))
            radius = border if radius == math.inf else max(border, radius * 1.05)
        moved = point - image + alpha * gradient / gradient.norm()
        if norm == "linf":
            moved = moved.clamp(-radius, radius)
        elif moved.norm() > radius:
            moved = moved * (radius / moved.norm())
        point = (image + moved).clamp(0, 1)
    return least


def images_and_targets(network, targeted, number=6):
    images = torch.rand(number, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    order = network(images).detach().argsort(dim=1, descending=True)
    return images, order[:, 1 if targeted else 0]


@each_norm
@pytest.mark.parametrize("targeted", [True, False])
def test_equals_the_paper(norm, targeted):
    network = smooth_network()
    images, targets = images_and_targets(network, targeted)
    attack = FMN(norm, iterations=40, check_every=40, rounded=False, targeted=targeted)
    found, iterations = attack.perturb(network, images, targets, None)
    assert iterations.tolist() == [40] * 6
    for row in range(6):
        least = reference(network, images[row], int(targets[row]), norm, targeted=targeted, iterations=40)
        length = float((found[row] - images[row]).flatten().norm(2 if norm == "l2" else math.inf))
        # Several points at the very radius may be the nearest by their last bits.
        assert length == pytest.approx(least, rel=1e-9)


@pytest.mark.slow
@each_norm
@pytest.mark.parametrize("targeted", [True, False])
def test_is_as_near_as_adversarial_library(norm, targeted):
    attacks = pytest.importorskip("adv_lib.attacks")
    network = smooth_network()
    images, targets = images_and_targets(network, targeted)
    found, _ = FMN(norm, iterations=60, check_every=60, rounded=False, targeted=targeted).perturb(
        network, images, targets, None
    )
    peer = attacks.fmn(network, images, targets, norm=2.0 if norm == "l2" else math.inf, targeted=targeted, steps=60)
    ours, theirs = ((those - images).flatten(1).norm(2 if norm == "l2" else math.inf, dim=1) for those in (found, peer))
    success = theirs > 0  # it hands out the clean image otherwise
    assert success.sum() >= 2
    assert (ours > 0).all()
    torch.testing.assert_close(ours[success], theirs[success], rtol=0.01, atol=0)


@pytest.mark.slow
def test_is_nearer_in_levels_than_adversarial_library_rounded():
    """Theirs, moved outwards to whole levels until it succeeds again."""
    attacks = pytest.importorskip("adv_lib.attacks")
    network = smooth_network().float()
    images = torch.randint(256, (64, 3, 9, 9), generator=torch.Generator().manual_seed(4)).float() / 255
    targets = network(images).detach().argsort(dim=1, descending=True)[:, 1]
    peer = attacks.fmn(network, images, targets, norm=math.inf, targeted=True, steps=100)
    outwards = (images * 255).round() + ((peer - images) * 255).abs().ceil() * (peer - images).sign()
    peer = outwards.clamp(0, 255) / 255
    theirs = network(peer).argmax(dim=1) == targets
    assert theirs.any()
    result = FMN("linf")(network, images, targets)
    assert result.success[theirs].all()
    assert linf_levels(result.images, images)[theirs].mean() <= linf_levels(peer, images)[theirs].mean()


def test_names_and_defaults():
    attack = FMN()
    assert (attack.name, FMN("linf", iterations=30).name) == ("FMN-L2 (100)", "FMN (30)")
    assert (attack.threat_model.norm, attack.threat_model.epsilon) == ("l2", None)
    assert (attack.step, attack.final_step, attack.gamma, attack.final_gamma) == (255, 2.55, 0.05, 0.001)
    assert (attack.rounded, attack.targeted, attack.random_start) == (True, True, False)
