"""Networks on which it is known what an attack without gradients can reach, and cannot see."""

import torch
from torch import nn


class Linear(nn.Module):
    """Logits that are linear in the pixels: ``z = W x + b``."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, images):
        return images.flatten(1) @ self.weight.T + self.bias


def linear(size, lead=0.0, seed=0):
    """Two categories of images ``(3, size, size)``; the first leads the other at mid grey by ``lead``."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, 3 * size * size, generator=generator)
    bias = -weight.sum(1) / 2
    bias[0] += lead
    return Linear(weight, bias)


def grey_images(number, size, seed=0):
    """Levels from 100 to 155 divided by 255: no value of them comes near 0 or 255."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(100, 156, (number, 3, size, size), generator=generator).float() / 255


class NoGradients(nn.Module):
    """Another network's logits, of which nobody can have a gradient."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return _Raises.apply(self.network(images))

    def features(self, images):
        return _Raises.apply(self.network.features(images))


class _Raises(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise AssertionError("an attack without gradients has asked for one")
