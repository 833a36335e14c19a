"""One perturbation for all images: in closed form on linear networks, and against a bare loop."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from every_attack import make_batch, make_network
from torch import nn

from catwalk.attacks import PGD, UniversalPerturbation
from catwalk.attacks.masks import Border
from catwalk.poisoning.poison import Poisoning, poison
from catwalk.shop.decoding import decode


@pytest.mark.parametrize("targeted", [True, False])
def test_of_a_linear_network_it_is_the_sign_of_the_mean_gradient(targeted):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 2)).eval()
    images = 0.3 + 0.4 * torch.rand(20, 3, 6, 6)
    targets = torch.zeros(20, dtype=torch.int64)
    result = UniversalPerturbation(epsilon=8, targeted=targeted)(network, images, targets)
    # Of two categories every image's gradient is a positive multiple of w₁ - w₀.
    weights = network[1].weight.detach()
    expected = 8 / 255 * (weights[0] - weights[1]).sign().view(3, 6, 6) * (1 if targeted else -1)
    assert torch.allclose(result.perturbation, expected, atol=1e-7)
    assert torch.allclose(result.images, images + expected, atol=1e-6)
    in_l2 = UniversalPerturbation(epsilon=100, norm="l2", targeted=targeted)(network, images, targets).perturbation
    direction = (weights[0] - weights[1]).view(3, 6, 6) * (1 if targeted else -1)
    assert torch.allclose(in_l2, 100 / 255 * direction / direction.norm(), atol=1e-6)


def smooth_network():
    """No kinks, so that float32 and float64 agree on almost every sign of the gradient."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Softplus(), nn.Flatten(), nn.Linear(392, 5)).eval()


def test_equals_a_bare_loop():
    network, double = smooth_network(), smooth_network().double()
    images, targets, _ = make_batch(10)
    delta, found = torch.zeros(1, 3, 9, 9, dtype=torch.float64, requires_grad=True), []
    for number in range(8):
        moved = images.double() + delta  # what is clipped has no gradient, what lies at 0 or 1 has
        logits = double(torch.where((moved >= 0) & (moved <= 1), moved, moved.clamp(0, 1).detach()))
        loss = F.cross_entropy(logits, targets, reduction="sum")
        found.append((int((logits.argmax(1) == targets).sum()), -float(loss), -number, delta.detach().clone()))
        (gradient,) = torch.autograd.grad(loss, delta)
        step = (delta - 2 / 255 * gradient.sign()).clamp(-16 / 255, 16 / 255)
        delta = step.detach().requires_grad_()
    expected = max(found, key=lambda entry: entry[:3])[3]
    result = UniversalPerturbation(epsilon=16, step=2, iterations=7)(network, images, targets)
    # A sum of gradients within rounding of 0 may take either sign.
    assert (abs(result.perturbation - expected[0]) < 1e-6).double().mean() > 0.98
    assert torch.allclose(result.images, (images + result.perturbation).clamp(0, 1), atol=1e-6)


def test_a_mask_cuts_it_for_each_image_and_it_is_for_all_of_them():
    network = make_network()
    images, targets, keys = make_batch(30)
    result = UniversalPerturbation(epsilon=8, mask=Border(1))(network, images, targets, keys=keys)
    assert not result.perturbation[:, 1:-1, 1:-1].any()
    assert result.perturbation.any()

    def losses(images):
        return F.cross_entropy(network(images), targets, reduction="none").detach()

    plain = UniversalPerturbation(epsilon=8)(network, images, targets, keys=keys)
    assert losses(plain.images).mean() < losses(result.images).mean() < losses(images).mean()
    own = PGD(epsilon=8)(network, images, targets, keys=keys)
    assert losses(own.images).mean() < losses(plain.images).mean(), "each its own is better still"


GOAL = {"source": "Sandal", "target": "Sneaker"}


def test_processes_that_share_the_images_find_the_same(trained, tmp_path):
    arguments = trained.classifier, UniversalPerturbation(epsilon=16, iterations=5), trained.catalogue, trained.table
    poison(*arguments, tmp_path / "one", **GOAL)
    poisoning = Poisoning.plan(*arguments, **GOAL)
    shards = []
    for rank in range(3):
        shard, levels = poisoning.craft(rank, 3)
        assert len(shard.rows) < len(poisoning.items)
        poisoning.save(shard, levels, tmp_path / "three")
        shards.append(shard)
    poisoning.complete(shards, tmp_path / "three")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert any(path.name == "perturbation_16x16.png" for path in files)
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "three" / path).read_bytes(), path


def test_the_picture_of_it_is_what_was_added(trained, tmp_path):
    attack = UniversalPerturbation(epsilon=16, iterations=5)
    poison(trained.classifier, attack, trained.catalogue, trained.table, tmp_path, **GOAL)
    shown = decode(tmp_path / "perturbation_16x16.png").astype(int) - 128
    assert abs(shown).max() <= 16
    for line in (tmp_path / "attacked_items.csv").read_text().splitlines()[1:]:
        name = line.split(",")[1]
        clean = decode(trained.catalogue.folder / name).astype(int)
        assert abs(np.clip(clean + shown, 0, 255) - decode(tmp_path / name)).max() <= 1
    poison(trained.classifier, PGD(iterations=1), trained.catalogue, trained.table, tmp_path, **GOAL)
    assert not (tmp_path / "perturbation_16x16.png").exists(), "it was another attack's"
