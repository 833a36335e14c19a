"""Base of the attacks on features: steps down along a loss of their own, of which the best point is kept."""

import abc
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import Attack, AttackSettings, check_steps
from catwalk.attacks.pgd import random_point, steepest
from catwalk.attacks.threat_model import GreyLevels, Norm, ThreatModel, grey_levels
from catwalk.errors import CatwalkError


class DescentAttack(Attack, abc.ABC):
    """Base of attacks that lower a loss of each image by projected steps, and keep the least that they met.

    Args:
        epsilon: Radius of the ball in grey levels, at least 0; ``"8/255"`` are 8.
        step: Length of a step in grey levels, above 0; None means ``epsilon / 10``.
        iterations: Number of steps, at least 1.
        norm: Distance that ``epsilon`` bounds, ``"linf"`` or ``"l2"``.
        random_start: Whether to start from a uniformly random point of the ball.
        seed: Seed of the random starts.
        targeted: Whether there is a category to reach.
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    def __init__(
        self,
        epsilon: GreyLevels,
        step: GreyLevels | None,
        iterations: int,
        norm: Norm,
        random_start: bool,
        seed: int,
        *,
        targeted: bool,
        **settings: Unpack[AttackSettings],
    ) -> None:
        epsilon = grey_levels(epsilon)
        step = None if step is None else grey_levels(step, "step")
        super().__init__(norm, epsilon, targeted=targeted, random_start=random_start, seed=seed, **settings)
        check_steps(iterations, step, "epsilon / 10")
        self.step = epsilon / 10 if step is None else step
        self.iterations = iterations

    @abc.abstractmethod
    def loss(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Return what is to be lowered for each image, ``(N,)``; each depends on its own image alone.

        Args:
            network: Has a method ``features`` that takes what :meth:`perturb`'s network takes, and returns ``(N, D)``.
            images: float32 ``(N, 3, H, W)``, coordinates of images.
            targets: As the attack was given.
        """

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch; see :meth:`Attack.perturb`."""
        ball, start = self.threat_model, images
        if self.random_start:
            start = ball.clamp(random_point(images, ball.norm, ball.budget, self.seed, keys))

        def loss(points: Tensor) -> Tensor:
            return self.loss(network, points, targets)

        adversarial = descend(loss, start, images, ball, self.step / 255, self.iterations)
        return adversarial, targets.new_full((len(images),), self.iterations, dtype=torch.int64)

    def passes(self, iterations: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of each image; the last point is looked at without a gradient."""
        return iterations + 1, iterations


def descend(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    clean: Tensor,
    threat_model: ThreatModel,
    length: float,
    iterations: int,
) -> Tensor:
    """Step down along the gradient of a loss, project after every step, and return the least point met.

    Args:
        loss: Maps images ``(N, 3, H, W)`` to one value each, ``(N,)``, which depends on that image alone.
        start: float32 ``(N, 3, H, W)``, inside the ball.
        clean: float32 ``(N, 3, H, W)``, its centre.
        threat_model: The ball.
        length: Length of a step in the ball's norm, where 1 is the range of a pixel.
        iterations: Number of steps.

    Returns:
        float32 ``(N, 3, H, W)``; of points with equal losses the first.
    """
    current = best = start
    least = start.new_full((len(start),), math.inf)
    for number in range(iterations + 1):
        points = current.detach()
        with torch.set_grad_enabled(number < iterations):
            values = loss(points.requires_grad_(number < iterations))
        is_less = values.detach() < least
        least = torch.where(is_less, values.detach(), least)
        best = torch.where(is_less.view(-1, 1, 1, 1), points.detach(), best)
        if number < iterations:
            (gradient,) = torch.autograd.grad(values.sum(), points)
            moved = points.detach() - length * steepest(gradient, threat_model.norm)
            current = threat_model.project(moved, clean)
    return best


@torch.no_grad()
def features_of(network: nn.Module, image: Tensor) -> Tensor:
    """Return a network's features ``(1, D)`` of an image ``(1, 3, H, W)``.

    Raises:
        CatwalkError: If the network does not give them, or they are not finite.
    """
    method = getattr(network, "features", None)
    features = method(image) if callable(method) and not isinstance(method, nn.Module) else None
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 1:
        raise CatwalkError(
            "network: must have a method features(images) that returns (N, D), as catwalk.networks.network.Network has"
        )
    if not bool(features.isfinite().all()):
        raise CatwalkError("network: its features are not finite on the first image; check its weights")
    return features
