"""Gradients of strided convolutions, against PyTorch's own in float64; and which layers of a network get them."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from frozen_networks import assert_close, evaluate, exact
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from catwalk.networks.building import build_network
from catwalk.networks.frozen import frozen
from catwalk.networks.subpixel_gradient import SubpixelConvolution, input_gradient, subpixel_kernel

PLAIN = {"in_channels": 3, "out_channels": 5, "kernel_size": 7, "stride": 2, "padding": 3}


@given(
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    more=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    channels=st.integers(1, 4),
)
def test_equals_the_transposed_convolution(kernel, stride, padding, more, channels):
    generator = torch.Generator().manual_seed(0)
    size = tuple(max(1, length - 2 * pad) + extra for length, pad, extra in zip(kernel, padding, more, strict=True))
    weight = torch.randn(2, channels, *kernel, generator=generator, dtype=torch.float64)
    images = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    output = F.conv2d(images, weight, stride=stride, padding=padding)
    gradient = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(output, images, gradient)
    found = input_gradient(gradient, subpixel_kernel(weight, stride), stride, padding, size)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_of_the_first_layer_of_a_resnet_and_no_other():
    torch.manual_seed(0)
    network = build_network("torchvision.models.resnet18", {}, 7).eval()
    images = torch.rand(2, 3, 64, 64)
    with (
        frozen(network, images) as view,
        mock.patch.object(SubpixelConvolution, "apply", wraps=SubpixelConvolution.apply) as apply,
    ):
        found = evaluate(view, images)
        shapes = [call.args[1].weight.shape for call in apply.call_args_list]
    assert shapes == [(64, 3, 7, 7)]
    assert_close(found, exact(network, images))


class Doubled(nn.Conv2d):
    """Makes something else of its weight."""

    def _conv_forward(self, images, weight, bias):
        return super()._conv_forward(images, 2 * weight, bias)


LAYERS = {
    "plain": (lambda: nn.Conv2d(**PLAIN), True),
    "stride 1": (lambda: nn.Conv2d(**PLAIN | {"stride": 1}), False),
    "dilated": (lambda: nn.Conv2d(**PLAIN | {"dilation": 2}), False),
    "grouped": (lambda: nn.Conv2d(**PLAIN | {"groups": 3, "out_channels": 6}), False),
    "circular": (lambda: nn.Conv2d(**PLAIN | {"padding_mode": "circular"}), False),
    "padding by name": (lambda: nn.Conv2d(**PLAIN | {"padding": "valid"}), False),
    "subclass": (lambda: Doubled(**PLAIN), False),
    "parametrised": (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(**PLAIN)), False),
}


@pytest.mark.parametrize("name", LAYERS)
def test_which_layers(name):
    make, is_plain = LAYERS[name]
    torch.manual_seed(0)
    layer, images = make(), torch.rand(2, 3, 24, 24, requires_grad=True)
    network = nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    (expected,) = torch.autograd.grad(network(images).square().sum(), images)
    with frozen(network, images, precision="bf16"):
        assert "forward" not in vars(layer)
    with frozen(network, images) as view:
        assert ("forward" in vars(layer)) == is_plain
        (found,) = torch.autograd.grad(view(images).square().sum(), images)
        assert network[0](images[0]).shape[0] == layer.out_channels  # what is no batch goes the ordinary way
    assert "forward" not in vars(layer)
    assert (found - expected).norm() < 1e-5 * expected.norm()
