"""Descent on a function of a network's features, written image by image, and a network to try it on."""

import numpy as np
import torch
from torch import nn

from catwalk.networks.network import Network


def smooth_network():
    """Features without kinks, so that float32 and float64 agree on almost every sign of the gradient."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Softplus(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Tanh())
    body.append(nn.Flatten())
    return Network(body, nn.Linear(32, 7), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)).eval()


def plain_descent(loss, clean, start, norm, epsilon, step, iterations):
    """Return the values met on the way from one image, and the points, in float64; ``loss`` takes one image."""
    x, values, points = np.clip(start, 0, 1), [], []
    for _ in range(iterations + 1):
        variable = torch.tensor(x, requires_grad=True)
        value = loss(variable)
        value.backward()
        values.append(value.item())
        points.append(x)
        gradient = variable.grad.numpy()
        if norm == "linf":
            x = np.clip(x - step * np.sign(gradient), clean - epsilon, clean + epsilon)
        else:
            moved = x - step * gradient / np.linalg.norm(gradient.ravel()) - clean
            x = clean + moved * min(1, epsilon / np.linalg.norm(moved.ravel()))
        x = np.clip(x, 0, 1)
    return values, points
