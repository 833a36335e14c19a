"""The fast adaptive boundary attack: the nearest image on the other side of a boundary between categories."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.apgd import evaluate, most_likely_others, where
from catwalk.attacks.apgd_t import check_num_targets
from catwalk.attacks.attack import Attack, AttackSettings, check_steps
from catwalk.attacks.threat_model import GreyLevels, Norm, grey_levels
from catwalk.errors import CatwalkError
from catwalk.networks.batching import padded_rows

_OVERSHOOT = 1.05
"""η: how far a step goes, where 1 ends at the linearised boundary."""

_LARGEST_BIAS = 0.1
"""α_max: largest weight of the step that starts at the clean image."""

_BACKWARD = 0.9
"""β: share of the way from the clean image that is kept after a success."""

_SMALLEST_LENGTH = 1e-8
"""Below it, a step counts as one of this length."""


class FAB(Attack):
    """Looks for the least change, in L-infinity or L2, that leads an image over a boundary of its category.

    Away from a category y it takes one other category t after the other, in the descending order of the clean image's
    logits (FAB-T). Each iteration replaces ``f = z_t - z_y`` by its linear approximation at the point x, projects x and
    the clean image x₀ onto the boundary f = 0 within [0, 1] (steps δ and δ₀, see :func:`steps_to_boundary`), and goes
    to ``x ← clip((1 - α)·(x + η·δ) + α·(x₀ + η·δ₀))`` with ``α = min(‖δ‖ / (‖δ‖ + ‖δ₀‖), 0.1)`` and η = 1.05. Where the
    network is misled there, x then goes back to ``x₀ + 0.9·(x - x₀)``. Of all successes on the way the nearest is kept
    (Croce and Hein, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack", ICML 2020,
    algorithm 1; trying one category at a time is of their "Reliable Evaluation of Adversarial Robustness ...", ICML
    2020). As in AutoAttack there is neither a random start nor a final search.

    Towards a category t, f is by how much t leads the other categories, of which the largest counts at each point.

    With a budget ε, an image is a success where the nearest one found is within ε, and leaves after the category by
    which it was found; where there is none, the nearest one moved onto the ball is handed out, or the clean image.
    Without one (None), what is found is handed out however far it is, and the clean image where nothing is.

    The outcome lies at the boundary: rounding it to 8 bits may undo it.

    Costs three passes per iteration, two forward and one backward, and one forward pass more away from a category.

    Args:
        epsilon: Largest distance in grey levels, at least 0; ``"8/255"`` are 8; None for no bound.
        norm: The distance, ``"linf"`` or ``"l2"``.
        num_targets: Number of other categories to try at most, at least 1; without effect towards a category.
        iterations: Number of steps for each category, at least 1.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        **settings: As in :class:`Attack`. ``precision`` must be ``"32"``, for others move the boundary.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    takes_masks = False

    def __init__(
        self,
        epsilon: GreyLevels | None = 8.0,
        norm: Norm = "linf",
        num_targets: int = 9,
        iterations: int = 100,
        targeted: bool = False,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(norm, None if epsilon is None else grey_levels(epsilon), targeted=targeted, **settings)
        check_steps(iterations, None, "")
        check_num_targets(num_targets)
        if self.precision != "32":
            raise CatwalkError(
                f"precision: {self.precision} moves the boundary between categories, at which FAB's images lie; keep 32"
            )
        self.num_targets = num_targets
        self.iterations = iterations

    @property
    def title(self) -> str:
        """``"FAB"``, or ``"FAB-T"`` away from a category."""
        return "FAB" if self.targeted else "FAB-T"

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch; see :meth:`Attack.perturb`."""
        nearest, distance = images, images.new_full((len(images),), math.inf)
        if self.targeted:
            nearest, _ = self._search(network, images, targets, None, nearest, distance)
            runs = torch.ones_like(targets)
        else:
            nearest, runs = self._search_all(network, images, targets, nearest, distance)
        if self.threat_model.epsilon is not None:
            nearest = self.threat_model.project(nearest, images)
        return nearest, runs * self.iterations

    def passes(self, iterations: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of each image: two forward ones a step, and one of the clean image away from a category."""
        return 2 * iterations + (0 if self.targeted else 1), iterations

    def _search_all(
        self, network: nn.Module, images: Tensor, targets: Tensor, nearest: Tensor, distance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Try one category after the other; return the nearest successes and for how many each image was tried."""
        epsilon = self.threat_model.epsilon
        radius = 0.0 if epsilon is None else epsilon / 255  # without a budget only who is misled already leaves
        with torch.no_grad():
            logits = network(images).float()
        distance = distance.masked_fill(logits.argmax(dim=1) != targets, 0)
        count = min(self.num_targets, logits.shape[1] - 1)
        others, runs = most_likely_others(logits, targets, count), torch.zeros_like(targets)
        for place in range(count):
            goes_on = distance > radius
            if not bool(goes_on.any()):
                break
            rows, number = padded_rows(goes_on)
            points, distances = self._search(
                network, images[rows], targets[rows], others[rows, place], nearest[rows], distance[rows]
            )
            rows = rows[:number]
            nearest = nearest.index_copy(0, rows, points[:number])
            distance = distance.index_copy(0, rows, distances[:number])
            runs[rows] += 1
        return nearest, runs

    def _search(
        self,
        network: nn.Module,
        clean: Tensor,
        targets: Tensor,
        aims: Tensor | None,
        nearest: Tensor,
        distance: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Step over one boundary and back; return the nearest successes so far and their distances ``(N,)``.

        Args:
            network: Takes images, returns logits.
            clean: The clean images.
            targets: As the attack was given.
            aims: int64 ``(N,)``, the category beyond the boundary; None for the targets themselves.
            nearest: The nearest successes so far.
            distance: Their distances, infinite where there is none.
        """
        norm = cast(Norm, self.threat_model.norm)
        index = targets[:, None]

        def lead(logits: Tensor) -> Tensor:
            own = logits.gather(1, index)[:, 0]
            if aims is not None:
                return logits.gather(1, aims[:, None])[:, 0] - own
            return own - logits.scatter(1, index, -torch.inf).amax(dim=1)

        def keep(points: Tensor, logits: Tensor) -> Tensor:
            nonlocal nearest, distance
            success = (logits.argmax(dim=1) == targets) == self.targeted
            lengths = _lengths(points - clean, norm)
            closer = success & (lengths < distance)
            nearest, distance = where(closer, points, nearest), torch.where(closer, lengths, distance)
            return success

        points = clean
        for _ in range(self.iterations):
            logits, value, gradient = evaluate(network, points, lead)
            keep(points, logits)
            linear = value.double() + ((clean - points).double() * gradient).flatten(1).sum(dim=1)
            step = self._step(points, gradient, value.double())
            from_clean = self._step(clean, gradient, linear)
            length = _lengths(step, norm).clamp(min=_SMALLEST_LENGTH)
            other_length = _lengths(from_clean, norm).clamp(min=_SMALLEST_LENGTH)
            bias = (length / (length + other_length)).clamp(max=_LARGEST_BIAS)[:, None, None, None]
            moved = (points + step * _OVERSHOOT) * (1 - bias) + (clean + from_clean * _OVERSHOOT) * bias
            moved = self.threat_model.clamp(moved)
            with torch.no_grad():
                success = keep(moved, network(moved).float())
            points = where(success, clean + (moved - clean) * _BACKWARD, moved)
        return nearest, distance

    def _step(self, points: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
        """Return the step from points to the linearised boundary, inside [0, 1] where the attack keeps to it."""
        highest = None
        if self.threat_model.clip:
            scale = self.threat_model.scale(points)
            highest = torch.ones_like(points) if scale is None else (1 / scale).expand_as(points)
        return steps_to_boundary(points, gradient, value, cast(Norm, self.threat_model.norm), highest)


def steps_to_boundary(points: Tensor, gradient: Tensor, value: Tensor, norm: Norm, highest: Tensor | None) -> Tensor:
    """Return the shortest steps to where linear functions are 0, inside a box.

    Of ``f(x + δ) = value + gradient·δ`` the step δ is the one of least norm with ``f = 0`` and ``0 ≤ x + δ ≤ highest``.
    All values move the way that brings f nearer to 0, by ``min(s·a, room)`` with ``room`` up to the box's side and a
    equal to 1 (``"linf"``) or the size of the gradient (``"l2"``). What that adds to f is concave and piecewise linear
    in s, so that Newton's method, from s = 0, reaches the s that is needed after finitely many steps. Where no point of
    the box will do, every value goes as far as it can (Croce and Hein, "Minimally distorted ...", projection on a
    hyperplane with box constraints, which they solve by sorting).

    Args:
        points: float32 ``(N, ...)``, inside the box.
        gradient: Like ``points``.
        value: float64 ``(N,)``.
        norm: What is to be least.
        highest: Like ``points``, the upper side of the box, whose lower one is 0; None for no box.

    Returns:
        Like ``points``; 0 where the gradient is.
    """
    slopes = gradient.flatten(1).double()
    sizes = slopes.abs()
    direction = -slopes.sign() * value.sign()[:, None]
    shares = torch.ones_like(sizes) if norm == "linf" else sizes
    needed, gains = value.abs(), sizes * shares
    if highest is None:
        total = gains.sum(dim=1)
        s = torch.where(total > 0, needed / total.clamp(min=torch.finfo(total.dtype).tiny), 0)
        return (direction * (shares * s[:, None])).to(points.dtype).reshape(points.shape)
    places = points.flatten(1).double()
    room = torch.where(direction > 0, highest.flatten(1).double() - places, places)
    full = sizes * room
    s = torch.zeros_like(needed)
    while True:
        is_full = shares * s[:, None] >= room
        slope = gains.masked_fill(is_full, 0).sum(dim=1)
        rest = needed - full.masked_fill(~is_full, 0).sum(dim=1)
        further = torch.where(slope > 0, rest / slope.clamp(min=torch.finfo(slope.dtype).tiny), s)
        further = torch.maximum(further, s)
        if torch.equal(further, s):
            break
        s = further
    return (direction * torch.minimum(shares * s[:, None], room)).to(points.dtype).reshape(points.shape)


def _lengths(differences: Tensor, norm: Norm) -> Tensor:
    """Return the norm of each image ``(N, 3, H, W)``, ``(N,)``."""
    flat = differences.flatten(1)
    return flat.abs().amax(dim=1) if norm == "linf" else flat.square().sum(dim=1).sqrt()
