"""On a GPU convolutions compute in TF32 unless they are told not to; what judges images must be exact float32."""

import copy

import pytest
import torch
import torch.nn.functional as F
from gpu import DEVICE
from torch import nn

from catwalk.networks.building import build_network
from catwalk.networks.frozen import GPU_LAYOUTS, exact_convolutions, frozen
from catwalk.networks.prediction import predict


def error(outcome, exact):
    return float((outcome.detach().cpu().double() - exact).abs().max() / exact.abs().max())


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    network = build_network("torchvision.models.resnet18", {}, 10)
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.rand(16, 3, 64, 64))
    return network.eval()


@pytest.fixture(scope="module")
def resnet_on_gpu(resnet):
    return copy.deepcopy(resnet).to(DEVICE)


def test_exact_convolutions(record_property):
    images, weight = noise(16, 64, 32, 32) - 0.5, noise(64, 64, 3, 3) - 0.5
    exact = F.conv2d(images.double(), weight.double(), padding=1)

    def convolve():
        return F.conv2d(images.to(DEVICE), weight.to(DEVICE), padding=1)

    before = torch.backends.cudnn.allow_tf32
    usual = error(convolve(), exact)
    with exact_convolutions():
        inside = error(convolve(), exact)
    record_property("largest error, usual and exact", [usual, inside])
    assert inside < 3e-6
    assert usual > 10 * inside  # or there is nothing to be turned off
    assert torch.backends.cudnn.allow_tf32 == before
    assert error(convolve(), exact) == pytest.approx(usual, rel=0.5)


def test_features_and_categories_are_those_of_the_cpu(resnet, resnet_on_gpu, record_property):
    levels = (noise(70, 3, 64, 64) * 255).round().to(torch.uint8)
    found, expected = predict(resnet_on_gpu, levels), predict(resnet, levels)
    difference = float((found.features - expected.features).abs().max() / expected.features.abs().max())
    record_property("largest difference of a feature, as a share of the largest", difference)
    assert difference < 2e-5
    assert torch.equal(found.categories, expected.categories)
    assert found.features.device.type == "cpu"


def test_features_in_batches_of_any_size(resnet_on_gpu, record_property):
    levels = (noise(70, 3, 64, 64) * 255).round().to(torch.uint8)
    whole, *parts = (predict(resnet_on_gpu, levels, batch_size=size) for size in (64, 7, 1))
    record_property("equal bits", [torch.equal(part.features, whole.features) for part in parts])
    for part in parts:
        assert float((part.features - whole.features).abs().max() / whole.features.abs().max()) < 1e-5
    assert torch.equal(parts[0].features, parts[1].features)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_gradients_are_exact_in_either_layout(resnet, resnet_on_gpu, layout, monkeypatch, record_property):
    images, targets = noise(16, 3, 64, 64), torch.arange(16) % 10

    def gradient_of(network, points, goals):
        points = points.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(network(points), goals, reduction="sum"), points)[0]

    exact = gradient_of(copy.deepcopy(resnet).double(), images.double(), targets)
    monkeypatch.setitem(GPU_LAYOUTS, "32", layout)
    with frozen(resnet_on_gpu, images.to(DEVICE)) as view:
        found = gradient_of(view, images.to(DEVICE), targets.to(DEVICE)).cpu().double()
    difference = float((found - exact).norm() / exact.norm())
    record_property("error of the gradients, by their length", difference)
    assert difference < 1e-4


@pytest.mark.parametrize("precision", ["32", "tf32", "bf16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_frozen_networks(precision, compiled, record_property):
    """BatchNorms are folded, logits and gradients are those of the network, and later calls leave earlier ones be."""
    torch.manual_seed(0)
    network = build_network("catwalk.networks.compact_cnn", {"width": 16}, 10)
    for _ in range(3):
        network.train()(torch.rand(16, 3, 32, 32))
    images = noise(32, 3, 32, 32)
    reference = copy.deepcopy(network).double().eval()
    network = network.eval().to(DEVICE)

    def evaluate(function, batch):
        batch = batch.clone().requires_grad_()
        logits = function(batch)
        return logits.detach(), torch.autograd.grad(logits.logsumexp(dim=1).sum(), batch)[0]

    exact = evaluate(reference, images.double())
    with frozen(network, images.to(DEVICE), precision=precision, compiled=compiled) as view:
        assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        kept = evaluate(view, images.to(DEVICE))
        copies = [tensor.clone() for tensor in kept]
        for seed in range(4):
            others = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed))
            evaluate(view, others.to(DEVICE))
        for tensor, copied in zip(kept, copies, strict=True):
            assert torch.equal(tensor, copied)
            assert tensor.dtype == torch.float32
    found = [float((one.cpu().double() - other).norm() / other.norm()) for one, other in zip(kept, exact, strict=True)]
    record_property("errors of logits and gradients, by their lengths", found)
    assert max(found) < {"32": 1e-4, "tf32": 0.05, "bf16": 0.2}[precision]  # TF32 has 10 bits, bfloat16 7
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
