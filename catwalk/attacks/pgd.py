"""Projected gradient descent."""

import math

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import Attack, AttackSettings, check_steps, cross_entropy_gradient
from catwalk.attacks.threat_model import Distance, GreyLevels, Norm, grey_levels
from catwalk.keyed_random import uniform


class PGD(Attack):
    """Steps along the loss's gradient, each followed by a projection onto the L-infinity or the L2 ball.

    From ``x = clip(x₀ + U(-ε, ε))``, or ``x₀`` without a random start, it repeats
    ``x ← clip(x₀ + clamp(x - α·sign ∇CE(z(x), t) - x₀, -ε, ε))`` towards the target category t; away from a category
    the step is added (Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
    section 2.1; the targeted form solves Eq. 3 of the reproduced paper, whose ten steps of ε/6 are the defaults).

    With the norm ``"l2"`` a step goes along ``∇CE / ‖∇CE‖₂`` instead of the sign, the random start is uniform in the
    Euclidean ball (see :func:`random_point`), and a perturbation that is longer than ε is scaled back to ε. An image
    without gradient stays where it is. ε and α are then Euclidean lengths over all values of an image: 255 is a
    distance of 1 between images in [0, 1], and changes each of the 3·64·64 values of a small image by 2.3 grey levels
    if it changes all alike.

    Args:
        epsilon: Radius of the ball in grey levels, at least 0; ``"8/255"`` are 8.
        step: Length α of a step in grey levels, above 0; None means ``epsilon / 6``.
        iterations: Number of steps, at least 1.
        random_start: Whether to start from a uniformly random point of the ball.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        seed: Seed of the random starts.
        norm: Distance that ``epsilon`` bounds: ``"linf"``, the largest change of a value, or ``"l2"``, the Euclidean
            one.
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from catwalk.attacks import PGD
        >>> from catwalk.networks.building import build_network
        >>> network = build_network("catwalk.networks.compact_cnn", {"width": 8}, num_classes=6)
        >>> images, targets, keys = torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64), torch.arange(4)
        >>> attack = PGD(epsilon=4)
        >>> result = attack(network, images, targets, keys=keys)  # the keys of the items give each its random start
        >>> attack.threat_model.verify(result.images, images)  # raises if one has left the ball
        >>> result.iterations
        tensor([10, 10, 10, 10])
    """

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        step: GreyLevels | None = None,
        iterations: int = 10,
        random_start: bool = True,
        targeted: bool = True,
        seed: int = 0,
        norm: Norm = "linf",
        **settings: Unpack[AttackSettings],
    ) -> None:
        epsilon = grey_levels(epsilon)
        step = None if step is None else grey_levels(step, "step")
        super().__init__(norm, epsilon, targeted=targeted, random_start=random_start, seed=seed, **settings)
        check_steps(iterations, step, "epsilon / 6")
        self.step = epsilon / 6 if step is None else step
        self.iterations = iterations

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch; see :meth:`Attack.perturb`."""
        ball, length = self.threat_model, -self.step / 255 if self.targeted else self.step / 255
        adversarial = images
        if self.random_start:
            adversarial = ball.clamp(random_point(images, ball.norm, ball.budget, self.seed, keys))
        for _ in range(self.iterations):
            gradient = cross_entropy_gradient(network, adversarial, targets)
            adversarial = ball.project(adversarial + length * steepest(gradient, ball.norm), images)
        return adversarial, torch.full_like(targets, self.iterations)


def random_point(images: Tensor, norm: Distance, epsilon: float, seed: int, keys: Tensor | None) -> Tensor:
    """Return a uniformly random point of the ball around each image.

    In L2 the direction is that of a vector of normal numbers and the length is ``ε·U^(1/D)``, for an image of D
    values (Muller, "A note on a method for generating points uniformly on n-dimensional spheres", CACM 1959). With as
    many values as an image has, that is hardly less than ε, which AutoAttack and ``robustness`` take for every start.

    Args:
        images: float32 ``(N, 3, H, W)`` in [0, 1].
        norm: The ball's norm, ``"linf"`` or ``"l2"``.
        epsilon: The ball's radius in grey levels.
        seed: Seed of the points.
        keys: int64 ``(N,)``, each item's key; its point depends on it, the seed and its image alone. None draws all
            points from torch's global generator.

    Returns:
        float32 ``(N, 3, H, W)``, which may be outside [0, 1].
    """
    shape = tuple(images.shape[1:])
    if norm == "linf":
        draws = torch.rand_like(images) if keys is None else uniform(seed, keys, shape)
        return images + epsilon / 255 * (2 * draws - 1)
    size = math.prod(shape)
    if keys is None:
        draws = torch.rand(len(images), size + 1, device=images.device)
    else:
        draws = uniform(seed, keys, (size + 1,))
    # The quantile function of the normal distribution, but for its √2, at the middles of the draws' 2²⁴ intervals: it
    # is finite there, and needs one draw for each value.
    direction = torch.erfinv(2 * draws[:, :-1] - (1 - 2.0**-24))
    lengths = epsilon / 255 * draws[:, -1:] ** (1 / size)
    perturbation = direction * (lengths / torch.linalg.vector_norm(direction, dim=1, keepdim=True))
    return images + perturbation.reshape(images.shape)


def steepest(gradient: Tensor, norm: Distance) -> Tensor:
    """Return the direction of length 1 in a norm along which a function with this gradient rises most.

    Args:
        gradient: float32 ``(N, 3, H, W)``.
        norm: ``"linf"`` gives the gradient's sign, ``"l2"`` the gradient divided by its Euclidean length.

    Returns:
        float32 ``(N, 3, H, W)``; 0 for an image without gradient.
    """
    if norm == "linf":
        return gradient.sign()
    smallest = torch.finfo(gradient.dtype).tiny
    # Divided by its largest value first: the squares of a small gradient underflow.
    gradient = gradient / gradient.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=smallest)
    lengths = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True)
    return gradient / lengths.clamp(min=smallest)
