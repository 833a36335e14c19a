"""Adversarial training written out in plain PyTorch, to compare with. Nothing of ours but the network itself."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batches = Iterable[tuple[Tensor, Tensor]]


def pgd(network: nn.Module, x: Tensor, y: Tensor, epsilon: float, step: float, iterations: int, start: bool) -> Tensor:
    """Madry's inner maximisation, in pixels of [0, 1]."""
    flags = {module: module.training for module in network.modules()}
    network.eval()
    adversarial = x.clone()
    if start:
        adversarial = torch.clamp(x + (torch.rand_like(x) * 2 - 1) * epsilon, 0, 1)
    for _ in range(iterations):
        adversarial = adversarial.detach().requires_grad_(True)
        total = F.cross_entropy(network(adversarial), y, reduction="sum")
        (gradient,) = torch.autograd.grad(total, [adversarial])
        moved = adversarial.detach() + step * torch.sign(gradient)
        moved = torch.max(torch.min(moved, x + epsilon), x - epsilon)
        adversarial = torch.clamp(moved, 0, 1)
    for module, flag in flags.items():
        module.training = flag
    return adversarial.detach()


def adversarial_training(
    network: nn.Module, batches: Batches, lr: float, epsilon: float, step: float, iterations: int
) -> list[float]:
    """PGD adversarial training with plain SGD; return the losses."""
    network.train()
    losses = []
    for x, y in batches:
        adversarial = pgd(network, x, y, epsilon, step, iterations, start=False)
        loss = F.cross_entropy(network(adversarial), y)
        network.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= lr * parameter.grad
        losses.append(float(loss.detach()))
    return losses


def free_adversarial_training(
    network: nn.Module, batches: Batches, lr: float, epsilon: float, replays: int, batch_size: int
) -> tuple[list[float], Tensor]:
    """Free adversarial training with plain SGD; return the losses of all replays and the perturbation."""
    network.train()
    losses, delta = [], None
    for x, y in batches:
        if delta is None:
            delta = torch.zeros(batch_size, *x.shape[1:])
        rows = delta[: len(x)]
        for _ in range(replays):
            perturbed = torch.clamp(x + rows, 0, 1).requires_grad_(True)
            loss = F.cross_entropy(network(perturbed), y)
            network.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter -= lr * parameter.grad
                rows.copy_(torch.clamp(rows + epsilon * torch.sign(perturbed.grad), -epsilon, epsilon))
            losses.append(float(loss.detach()))
    return losses, delta


def trades_loss(network: nn.Module, x: Tensor, perturbed: Tensor, y: Tensor, beta: float) -> Tensor:
    """TRADES's objective, written out with probabilities."""
    p, q = torch.softmax(network(x), dim=1), torch.softmax(network(perturbed), dim=1)
    right = p[torch.arange(len(y)), y]
    return -right.log().mean() + beta * (p * (p.log() - q.log())).sum() / len(y)


def trades(
    network: nn.Module, batches: Batches, lr: float, epsilon: float, step: float, iterations: int, beta: float
) -> list[float]:
    """TRADES with plain SGD, on batches that bring the noise of the start along; return the losses."""
    network.train()
    losses = []
    for x, y, noise in batches:  # type: ignore[misc]
        flags = {module: module.training for module in network.modules()}
        network.eval()
        p = torch.softmax(network(x), dim=1).detach()
        perturbed = x + 0.001 * noise
        for _ in range(iterations):
            perturbed = perturbed.detach().requires_grad_(True)
            q = torch.softmax(network(perturbed), dim=1)
            (gradient,) = torch.autograd.grad((p * (p.log() - q.log())).sum(), [perturbed])
            moved = perturbed.detach() + step * torch.sign(gradient)
            perturbed = torch.clamp(torch.max(torch.min(moved, x + epsilon), x - epsilon), 0, 1)
        for module, flag in flags.items():
            module.training = flag
        loss = trades_loss(network, x, perturbed.detach(), y, beta)
        network.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= lr * parameter.grad
        losses.append(float(loss.detach()))
    return losses
