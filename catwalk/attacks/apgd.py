"""Projected gradient descent that chooses its step sizes by itself."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import Attack, AttackSettings, check_steps
from catwalk.attacks.pgd import random_point, steepest
from catwalk.attacks.threat_model import GreyLevels, Norm, ThreatModel, grey_levels
from catwalk.errors import CatwalkError

Loss = Literal["ce", "dlr"]

_MOMENTUM = 0.75
"""Weight α of the gradient step beside that of the step before."""

_RISING = 0.75
"""Share ρ of the steps between two checkpoints that must raise the objective, or the step size is halved."""


class APGD(Attack):
    """PGD with momentum, whose step is halved for each image where it has stopped to pay.

    From ``x⁰``, a random point of the ball or the clean image, it maximises an objective f with steps that begin at
    ``η = 2ε``: ``z = P(xᵏ + η·d(∇f(xᵏ)))`` and ``xᵏ⁺¹ = P(xᵏ + α·(z - xᵏ) + (1 - α)·(xᵏ - xᵏ⁻¹))`` with α = 0.75, the
    first step being z itself. P projects onto the ball and then clips; d is the sign (``"linf"``) or divides by the
    Euclidean length (``"l2"``). After 22%, 41%, 57%, 70%, 80%, 87%, 93% and 99% of the steps, rounded up, an image
    whose objective rose in fewer than ρ = 75% of the steps since the last such checkpoint, or whose best objective has
    not risen since while its step had not been halved there either, goes on from its best point so far with half the
    step (Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
    Attacks", ICML 2020, algorithm 1). Their code, AutoAttack, differs in that it rounds the checkpoints down, halves at
    a share of exactly ρ as well, and starts further out.

    The objective is, with z the logits and π their descending order:

    | loss | away from a category y | towards a category t |
    |---|---|---|
    | ``ce`` | ``CE(z, y)`` | ``-CE(z, t)`` |
    | ``dlr`` | ``-(z_y - max_{i≠y} z_i) / (z_π1 - z_π3)`` | ``-(z_y - z_t) / (z_π1 - (z_π3 + z_π4) / 2)`` |

    The difference of logits ratio (``dlr``, of the same paper) does not change when all logits are
    scaled, so that a confident network does not hide its gradient. Where it leads towards t, y is the category other
    than t that the network gives the largest logit on the clean image: the category of an image that it does not
    take for t.

    The result is the point of the largest objective among the points at which the attack succeeds, or among all
    where it succeeds at none. A point of a smaller objective may succeed where one of a larger does not; AutoAttack
    takes the last that succeeds.

    Costs a forward and a backward pass per step and one forward pass more, or two for ``dlr`` towards a category.

    Args:
        epsilon: Radius of the ball in grey levels, at least 0; ``"8/255"`` are 8; for ``"l2"`` a Euclidean length
            over all values of an image, where 255 is a distance of 1 between images in [0, 1].
        norm: Distance that ``epsilon`` bounds, ``"linf"`` or ``"l2"``.
        loss: What is maximised, ``"ce"`` or ``"dlr"``. ``"dlr"`` needs 3 categories, or 4 towards one.
        iterations: Number of steps, at least 1.
        random_start: Whether to start from a uniformly random point of the ball.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        seed: Seed of the random starts.
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range; when called, if the network has too few categories for
            ``"dlr"``.
    """

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        norm: Norm = "linf",
        loss: Loss = "ce",
        iterations: int = 100,
        random_start: bool = True,
        targeted: bool = True,
        seed: int = 0,
        **settings: Unpack[AttackSettings],
    ) -> None:
        epsilon = grey_levels(epsilon)
        super().__init__(norm, epsilon, targeted=targeted, random_start=random_start, seed=seed, **settings)
        if loss not in get_args(Loss):
            raise CatwalkError(f"loss: must be one of {', '.join(get_args(Loss))}, got {loss!r}")
        check_steps(iterations, None, "")
        self.loss = loss
        self.iterations = iterations

    @property
    def title(self) -> str:
        """``"APGD-CE"`` or ``"APGD-DLR"``."""
        return f"APGD-{self.loss.upper()}"

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch; see :meth:`Attack.perturb`.

        Raises:
            CatwalkError: If the network has too few categories for the loss.
        """
        ball, objective = self.threat_model, self._objective(network, images, targets)

        def succeeds(logits: Tensor) -> Tensor:
            hits = logits.argmax(dim=1) == targets
            return hits if self.targeted else ~hits

        start = images
        if self.random_start:
            start = ball.clamp(random_point(images, ball.norm, ball.budget, self.seed, keys))
        result, _ = ascend(network, start, images, ball, objective, succeeds, self.iterations)
        return result, torch.full_like(targets, self.iterations)

    def passes(self, iterations: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of each image: start and end are looked at, too, and ``dlr`` asks for its category before."""
        asks_before = self.loss == "dlr" and self.targeted
        return iterations + 1 + int(asks_before), iterations

    def _objective(self, network: nn.Module, images: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        """Return what is maximised, a function of float32 logits ``(N, C)`` with one value for each image."""
        if self.loss == "ce":
            sign = -1 if self.targeted else 1
            return lambda logits: sign * F.cross_entropy(logits, targets, reduction="none")
        if not self.targeted:
            return lambda logits: _difference_of_logits_ratio(logits, targets)
        with torch.no_grad():
            origins = _without(network(images).float(), targets).argmax(dim=1)
        return lambda logits: targeted_difference_of_logits_ratio(logits, origins, targets)


def ascend(
    network: nn.Module,
    start: Tensor,
    clean: Tensor,
    threat_model: ThreatModel,
    objective: Callable[[Tensor], Tensor],
    succeeds: Callable[[Tensor], Tensor],
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """Climb an objective inside the ball by the steps of :class:`APGD`.

    Args:
        network: Takes images, returns logits ``(N, C)``.
        start: float32 ``(N, 3, H, W)``, inside the ball.
        clean: float32 ``(N, 3, H, W)``, its centre.
        threat_model: The ball.
        objective: Maps float32 logits ``(N, C)`` to what is maximised for each image, ``(N,)``.
        succeeds: Maps them to whether the attack has succeeded, bool ``(N,)``.
        iterations: Number of steps. There is one forward pass more than steps.

    Returns:
        ``(images, success)``: the point of the largest objective among the successes, or among all where there is none;
        and whether it is one, bool ``(N,)``.
    """
    previous = current = start
    logits, value, gradient = evaluate(network, current, objective)
    best, best_value, best_gradient = current, value, gradient
    result, result_value, result_succeeds = current, value, succeeds(logits)
    step = clean.new_full((len(clean), 1, 1, 1), 2 * threat_model.budget / 255)
    rises = torch.zeros_like(value, dtype=torch.int64)
    halved, value_at_check = torch.zeros_like(result_succeeds), value
    last_check, checks = 0, checkpoints(iterations)
    for number in range(1, iterations + 1):
        moved = threat_model.project(current + step * steepest(gradient, threat_model.norm), clean)
        if number > 1:
            moved = current + _MOMENTUM * (moved - current) + (1 - _MOMENTUM) * (current - previous)
            moved = threat_model.project(moved, clean)
        previous, current = current, moved
        if number < iterations:
            logits, new_value, gradient = evaluate(network, current, objective)
        else:  # where nobody needs a gradient any more
            with torch.no_grad():
                logits = network(current).float()
                new_value = objective(logits)
        rises = rises + (new_value > value)
        value = new_value

        succeeded = succeeds(logits)
        better = torch.where(succeeded == result_succeeds, value > result_value, succeeded)
        result, result_value = where(better, current, result), torch.where(better, value, result_value)
        result_succeeds = result_succeeds | succeeded

        improved = value > best_value
        best, best_value = where(improved, current, best), torch.where(improved, value, best_value)
        best_gradient = where(improved, gradient, best_gradient)
        if number in checks:
            halved = (rises < _RISING * (number - last_check)) | (~halved & (best_value == value_at_check))
            step = where(halved, step / 2, step)
            current, value = where(halved, best, current), torch.where(halved, best_value, value)
            gradient = where(halved, best_gradient, gradient)
            rises, value_at_check, last_check = torch.zeros_like(rises), best_value, number
    return result, result_succeeds


def checkpoints(iterations: int) -> set[int]:
    """Return the numbers of the steps, of 1 to ``iterations``, after which step sizes are reconsidered.

    They are ``⌈p_j · iterations⌉`` for p₁ = 0.22 and ``p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)``.
    """
    last, percent, numbers = 0, 22, set()
    while percent < 100:
        numbers.add(-(-percent * iterations // 100))
        last, percent = percent, percent + max(percent - last - 3, 6)
    return numbers


def evaluate(
    network: nn.Module, images: Tensor, objective: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits in float32, the objective of each image and its gradient with respect to the image."""
    images = images.detach().requires_grad_()
    logits = network(images).float()
    values = objective(logits)
    gradient = torch.autograd.grad(values.sum(), images)[0]
    return logits.detach(), values.detach(), gradient


def _difference_of_logits_ratio(logits: Tensor, categories: Tensor) -> Tensor:
    """Return ``(max_{i≠y} z_i - z_y) / (z_π1 - z_π3)`` for each row; above 0 where another category leads."""
    largest = _largest(logits, 3, "away from a category")
    others = _without(logits, categories).max(dim=1).values
    return (others - _entries(logits, categories)) / (largest[:, 0] - largest[:, 2] + 1e-12)


def targeted_difference_of_logits_ratio(logits: Tensor, origins: Tensor, targets: Tensor) -> Tensor:
    """Return ``(z_t - z_y) / (z_π1 - (z_π3 + z_π4) / 2)`` for each row."""
    largest = _largest(logits, 4, "towards a category")
    spread = largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2
    return (_entries(logits, targets) - _entries(logits, origins)) / (spread + 1e-12)


def _largest(logits: Tensor, count: int, aim: str) -> Tensor:
    """Return the ``count`` largest logits of each row in descending order.

    Raises:
        CatwalkError: If there are fewer.
    """
    if logits.shape[1] < count:
        raise CatwalkError(
            f"loss: dlr {aim} needs a network of at least {count} categories, and this one has {logits.shape[1]}; "
            "use ce"
        )
    return logits.topk(count, dim=1).values


def _entries(logits: Tensor, categories: Tensor) -> Tensor:
    return logits.gather(1, categories[:, None])[:, 0]


def most_likely_others(logits: Tensor, categories: Tensor, count: int) -> Tensor:
    """Return the categories of the largest logits in descending order, without one of each row, int64 ``(N, count)``.

    Args:
        logits: ``(N, C)``.
        categories: int64 ``(N,)``, the ones to leave out.
        count: How many, at most C - 1.
    """
    return _without(logits, categories).argsort(dim=1, descending=True, stable=True)[:, :count]


def _without(logits: Tensor, categories: Tensor) -> Tensor:
    """Return the logits with minus infinity for one category of each row."""
    return logits.scatter(1, categories[:, None], -torch.inf)


def where(chosen: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
    """Return row by row, of tensors ``(N, ...)``, what a mask ``(N,)`` chooses."""
    return torch.where(chosen.view(-1, *[1] * (ours.ndim - 1)), ours, theirs)
