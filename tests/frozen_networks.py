"""Small networks whose BatchNorms cannot be overlooked, and how their quickest form is compared with float64."""

import copy
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from catwalk.networks.frozen import frozen


def far_from_defaults(network, seed=0):
    """Give BatchNorms statistics, scales and offsets that no one could leave out, and last layers a size that shows."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor, low, high):
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            draw(module.running_mean, -0.7, 0.7)
            draw(module.running_var, 0.2, 3)
        if isinstance(module, _BatchNorm) and module.affine:
            draw(module.weight, -0.5, 2)
            draw(module.bias, -0.5, 0.5)
        if isinstance(module, nn.Linear):
            draw(module.weight, -0.3, 0.3)
    return network


def convolution(inputs=3, outputs=8, **settings):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **settings)


def tail(channels=8):
    return nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 5))


def small_network():
    torch.manual_seed(0)
    parts = convolution(), nn.BatchNorm2d(8), nn.ReLU(inplace=True), convolution(8), nn.BatchNorm2d(8), tail()
    return far_from_defaults(nn.Sequential(*parts)).eval()


def make_images(number=2, size=12, seed=0):
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(seed))


def evaluate(function, images):
    """Return what a function gives, and the gradient of a weighted sum of that with respect to the images."""
    images = images.clone().requires_grad_()
    values = function(images)
    weights = torch.linspace(-1, 1, values[0].numel(), dtype=values.dtype).view_as(values[:1])
    return values.detach(), torch.autograd.grad(values, images, weights.expand_as(values))[0]


def exact(network, images, method="forward"):
    reference = copy.deepcopy(network).double().eval()
    return evaluate(getattr(reference, method), images.double())


def assert_close(pair, expected, tolerance=2e-5):
    """Compare values and gradients, by the largest of each."""
    for one, other in zip(pair, expected, strict=True):
        assert one.shape == other.shape
        assert float(other.abs().max()) > 0
        assert float((one.detach().double() - other).abs().max() / other.abs().max()) < tolerance


def num_batch_norms(function, images):
    with mock.patch.object(F, "batch_norm", wraps=F.batch_norm) as spy:
        function(images)
    return spy.call_count


def check(network, images=None, left=None, **settings):
    """Compare logits and gradients with those in float64, and the number of BatchNorms that are left."""
    images = make_images() if images is None else images
    expected = exact(network, images)
    with frozen(network, images, **settings) as view:
        assert_close(evaluate(view, images), expected)
        if left is not None:
            assert num_batch_norms(view, images) == left
    assert_close(evaluate(network, images), expected)


class Module(nn.Module):
    """A network of parts, whose forward is given as a function."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, images):
        return self.function(self, images)


def basic(function=lambda m, x: m.tail(m.norm(m.conv(x))), **parts):
    torch.manual_seed(1)
    parts = {"conv": convolution(), "norm": nn.BatchNorm2d(8), "tail": tail()} | parts
    return far_from_defaults(Module(function, **parts)).eval()
