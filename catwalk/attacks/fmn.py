"""The fast minimum-norm attack."""

import math

import torch
from torch import Tensor
from typing_extensions import Unpack

from catwalk.attacks.attack import AttackSettings
from catwalk.attacks.least_change import per_image
from catwalk.attacks.radius_search import RadiusSearch, Rows, level_of
from catwalk.attacks.threat_model import GreyLevels, Norm


class FMN(RadiusSearch):
    """Looks for the image nearest to the clean one, in L2 or in L-infinity, with one gradient a step.

    A step first adapts the radius ε of each image's ball and then moves the image by α along the gradient of the margin
    ``z_t - max_{j≠t} z_j`` (away from a category its opposite) divided by its Euclidean length, projects it onto the
    ball and clips it. Until the first success, ε reaches as far as the border lies by the gradient,
    ``‖δ‖_p + |margin| / ‖∇margin‖_q`` with q the dual of p; afterwards a success makes it the share γ smaller, and no
    larger than the least distance so far, and a failure the share γ larger. α and γ fall along half a cosine (Pintor et
    al., "Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints", NeurIPS 2021, algorithm 1).

    Until the first success, ε here also grows by γ at least. Towards a border that is nearly a plane it would otherwise
    come closer for ever and not cross it, and what is shorter than half a level is rounded away, so that the network
    sees the same image again. On 8-bit images distances in L-infinity are whole levels: ε stays a level below the least
    that has succeeded, for no other success would be worth anything.

    Args:
        norm: The distance that is made least: ``"l2"``, the Euclidean one, or ``"linf"``, the largest change of a
            value.
        iterations: Number of steps, at least 1.
        gamma: Share γ by which ε changes at first, between 0 and 1.
        final_gamma: γ towards the end, at least 0 and at most ``gamma``.
        step: α of the first step in grey levels, above 0: with either norm a Euclidean length over all values of an
            image, where 255 is a distance of 1 between images in [0, 1].
        final_step: α towards the end, above 0 and at most ``step``.
        check_every: In the second half of the steps an image ends where its least distance has not fallen by a
            thousandth within so many steps, at least 1; None means a tenth of ``iterations``, and from ``iterations``
            on every step is taken.
        rounded: Whether the network is shown images rounded to 8 bits, so that what succeeds is what will be saved.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        **settings: As in :class:`Attack`; ``precision`` must stay 32.

    Raises:
        CatwalkError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from catwalk.attacks import FMN
        >>> from catwalk.networks.building import build_network
        >>> network = build_network("catwalk.networks.compact_cnn", {"width": 8}, num_classes=6).eval()
        >>> images, targets = torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64)
        >>> result = FMN(norm="linf", iterations=40)(network, images, targets)
        >>> bool((network(result.images).argmax(1)[result.success] == 0).all())
        True
    """

    def __init__(
        self,
        norm: Norm = "l2",
        iterations: int = 100,
        gamma: float = 0.05,
        final_gamma: float = 0.001,
        step: GreyLevels = 255.0,
        final_step: GreyLevels = 2.55,
        check_every: int | None = None,
        rounded: bool = True,
        targeted: bool = True,
        **settings: Unpack[AttackSettings],
    ) -> None:
        schedule = iterations, step, final_step, gamma, final_gamma, check_every
        super().__init__(norm, *schedule, rounded=rounded, targeted=targeted, **settings)

    @property
    def title(self) -> str:
        """The name with the norm and with what is spent on each image: ``"FMN-L2 (100)"``, ``"FMN (100)"``."""
        return f"FMN{'' if self.threat_model.norm == 'linf' else '-L2'} ({self.iterations})"

    def first_radius(self, longest: Tensor) -> Tensor:
        """Return no bound; see :meth:`RadiusSearch.first_radius`."""
        return torch.full_like(longest, math.inf)

    def next_radius(self, rows: Rows, lag: Tensor, gradient: Tensor, gamma: float) -> Tensor:
        """Return the radius by what is known of the border; see :meth:`RadiusSearch.next_radius`."""
        dual = gradient.abs().sum(dim=(1, 2, 3)) if self.threat_model.norm == "linf" else _euclidean(gradient)
        border = rows.length + lag.abs() / dual.clamp(min=torch.finfo(dual.dtype).tiny)
        before = torch.where(rows.radius < math.inf, rows.radius, self._least_radius(gradient))
        border = torch.maximum(border, before * (1 + self.gamma))
        smaller = torch.minimum(rows.radius * (1 - gamma), rows.distance)
        larger = torch.where(rows.distance < math.inf, rows.radius * (1 + gamma), border)
        radius = torch.where(rows.is_success, smaller, larger)
        if self.threat_model.norm == "linf" and self._rounds:
            radius = torch.minimum(radius, rows.distance - 2 * self._least_radius(gradient))
        return radius.clamp(min=0)

    def _least_radius(self, images: Tensor) -> float:
        """Return half a grey level in coordinates, below which rounding leaves nothing; 0 where nothing is rounded."""
        if not self._rounds:
            return 0.0
        scale = self.threat_model.scale(images)
        return level_of(None if scale is None else 1 / scale) / 2

    def onto_ball(self, perturbation: Tensor, radius: Tensor) -> Tensor:
        """Return the nearest perturbations of the ball: scaled in L2, clamped in L-infinity."""
        if self.threat_model.norm == "linf":
            return torch.minimum(torch.maximum(perturbation, -per_image(radius)), per_image(radius))
        lengths = _euclidean(perturbation).clamp(min=torch.finfo(perturbation.dtype).tiny)
        return perturbation * per_image((radius / lengths).clamp(max=1))


def _euclidean(images: Tensor) -> Tensor:
    return torch.linalg.vector_norm(images, dim=(1, 2, 3))
