"""Networks on which the least change is known, for the tests of the attacks that look for it."""

import torch
from torch import nn


class Halves(nn.Module):
    """Sees category 1 on one side of a plane, with a lead of ``weight · x - offset``."""

    def __init__(self, weight, offset):
        super().__init__()
        self.weight, self.offset = weight, offset

    def forward(self, images):
        lead = (images * self.weight).flatten(1).sum(dim=1) - self.offset
        return torch.stack([torch.zeros_like(lead), lead], dim=1)


def halves(images, dtype=torch.float32, seed=0, size=9):
    """Return a plane near the images, and their distances to it in L2 and in L-infinity, while inside of [0, 1]."""
    weight = torch.randn(3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scores = (images.double() * weight).flatten(1).sum(dim=1)
    offset = scores.max() + 0.05 * weight.abs().sum()
    gaps = offset - scores
    network = Halves(weight.to(dtype), offset.to(dtype))
    return network, gaps / weight.norm(), gaps / weight.abs().sum()


def inner_images(number, size=9, seed=1):
    """Return 8-bit images of values around the middle, from which nothing that is tried here leads out of [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(110, 146, (number, 3, size, size), generator=generator).float() / 255


class LinearNetwork(nn.Sequential):
    """Several categories with borders that are planes."""

    def __init__(self, categories=4, values=243, seed=0):
        super().__init__(nn.Flatten(), nn.Linear(values, categories))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self[1].weight.copy_(torch.randn(categories, values, generator=generator))
            self[1].bias.copy_(torch.randn(categories, generator=generator))


class MovedFromTheBorder(nn.Module):
    """Sees category 1 in images whose values are further than 2.5 levels from 0 or 1 on average."""

    def forward(self, images):
        moved = torch.where(images > 0.5, 1 - images, images).flatten(1).mean(dim=1, keepdim=True) * 255
        return torch.cat([torch.zeros_like(moved), 10 * (moved - 2.5)], dim=1)


def at_the_border(size):
    """Return images all of whose values, or all but one, are 0 or 1: white, black, red, chequered, nearly white."""
    white = torch.ones(3, size, size)
    red, checks, spot = white.clone(), white.clone(), white.clone()
    red[1:] = 0
    checks[:, ::2, ::2] = 0
    spot[:, 2, 3] = 254 / 255
    return torch.stack([white, torch.zeros_like(white), red, checks, spot])


def smooth_network(categories=5, seed=0):
    """A network with curved borders, in float64, with an odd number of values per image."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.Softplus(), nn.Flatten(), nn.Linear(96, categories)).double()
