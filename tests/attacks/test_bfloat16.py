"""Attacks on a network that computes in bfloat16: judged in float32, and hardly weaker."""

import torch
from frozen_networks import convolution, far_from_defaults, make_images
from torch import nn

from catwalk.attacks import PGD, CarliniWagner
from catwalk.networks.frozen import frozen

SEARCH = {"initial_c": 0.03, "searches": 3, "iterations": 60, "check_every": 10, "learning_rate": 0.02}


def make_task(number):
    """Return a network, images and the category that it finds next to likely in each."""
    torch.manual_seed(0)
    parts = convolution(), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 144, 5)
    network = far_from_defaults(nn.Sequential(*parts)).eval()
    images = (make_images(number) * 255).round() / 255
    with torch.no_grad():
        return network, images, network(images).topk(2).indices[:, 1]


def hits(network, images, targets):
    with torch.no_grad():
        return network(images).argmax(1) == targets


def test_success_is_what_the_network_says_in_float32():
    network, images, targets = make_task(512)
    keys = torch.arange(512)
    plain, result = (PGD(1.0, precision=name)(network, images, targets, keys=keys) for name in ("32", "bf16"))
    assert float((result.images - images).abs().max()) <= 1.0001 / 255
    assert 0 <= float(result.images.min()) < float(result.images.max()) <= 1
    assert abs(int(result.success.sum()) - int(plain.success.sum())) <= 5 < int(result.success.sum())
    assert torch.equal(result.success, hits(network, result.images, targets))
    with frozen(network, images, precision="bf16") as view:
        assert not torch.equal(result.success, hits(view, result.images, targets)), "bfloat16 sees some otherwise"


def test_carlini_wagner_hands_out_the_clean_image_where_only_bfloat16_saw_a_success():
    network, images, targets = make_task(64)
    attack = CarliniWagner(**SEARCH, confidence=1e-3, precision="bf16")
    result = attack(network, images, targets)
    with frozen(network, images, precision="bf16") as view:
        found, _ = attack.perturb(view, images, targets, None)
    success = hits(network, found, targets)
    assert torch.equal(result.success, success)
    assert torch.equal(result.images, torch.where(success[:, None, None, None], found, images))
    is_undone = (found != images).flatten(1).any(1) & ~success
    assert 0 < int(is_undone.sum()) < int(success.sum())
