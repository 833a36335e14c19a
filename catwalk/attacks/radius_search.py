"""Base of the attacks that walk on a ball around each image while they look for its least radius."""

import abc
import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import AttackSettings
from catwalk.attacks.least_change import LeastChange, as_saved, per_image
from catwalk.attacks.pgd import steepest
from catwalk.attacks.threat_model import GreyLevels, Norm, grey_levels
from catwalk.errors import CatwalkError
from catwalk.networks.batching import ROW_MULTIPLE

_LEAD = 1e-5
"""By what share of its largest logit a network must prefer what is wanted: ten times what float32 leaves in doubt."""

_NEARLY = 1.001
"""Factor by which a distance of a whole level may be off, for it was computed."""


_NO_PROGRESS = 0.999
"""An image whose least distance has not fallen below this share of what it was has come to its end."""


@dataclass
class Rows:
    """What the images that are not done have on the device, one row each.

    Attributes:
        place: int64 ``(N,)``, which of the images.
        clean: float32 ``(N, 3, H, W)``, coordinates.
        targets: int64 ``(N,)``.
        points: Like ``clean``, where each image is.
        radius: ``(N,)``, of its ball.
        longest: ``(N,)``, the length of the longest change within [0, 1].
        nearest: Like ``clean``, the success of least distance so far; clean where there is none.
        distance: ``(N,)``, its distance; infinite where there is none.
        is_success: bool ``(N,)``, whether the image that was shown last succeeds.
        length: ``(N,)``, how far ``points`` are from ``clean``.
        has_failed: bool ``(N,)``, whether an image after the clean one has not succeeded.
        checked: ``(N,)``, ``distance`` at the last check; infinite before the first.
    """

    place: Tensor
    clean: Tensor
    targets: Tensor
    points: Tensor
    radius: Tensor
    longest: Tensor
    nearest: Tensor
    distance: Tensor
    is_success: Tensor
    length: Tensor
    has_failed: Tensor
    checked: Tensor

    def select(self, rows: Tensor) -> "Rows":
        """Return a copy of some rows."""
        return Rows(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


class RadiusSearch(LeastChange, abc.ABC):
    """Base of DDN and FMN: each step turns the perturbation and, apart from that, changes the radius of its ball.

    A step shows the network the image, makes the ball smaller where it succeeds and larger where it does not, moves the
    image by α along the gradient, brings it back to the ball and clips it to [0, 1]. Over the steps, α and the share γ
    by which a ball changes fall along half a cosine. Kept is the success nearest to the clean image.

    Unless ``rounded`` is False, the network is shown the image rounded to 8 bits, and the gradient there is taken for
    that at the image itself (a straight-through estimate, as in :class:`CarliniWagner`): what is kept are 8-bit images.
    An image leaves the batch when no 8-bit image but the clean one can be nearer, and in the second half of the steps
    when its least distance has not fallen by a thousandth within ``check_every`` of them.

    Args:
        norm: The distance that is made least.
        iterations: Number of steps, at least 1.
        step: α of the first step in grey levels, above 0: a Euclidean length over all values of an image, where 255 is
            a distance of 1 between images in [0, 1].
        final_step: α towards the end, above 0 and at most ``step``.
        gamma: γ of the first step, between 0 and 1.
        final_gamma: γ towards the end, at least 0 and at most ``gamma``.
        check_every: After how many steps progress is looked at, at least 1; None means a tenth of ``iterations``, and
            from ``iterations`` on every step is taken.
        rounded: Whether the network is shown images rounded to 8 bits.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    def __init__(
        self,
        norm: Norm,
        iterations: int,
        step: GreyLevels,
        final_step: GreyLevels,
        gamma: float,
        final_gamma: float,
        check_every: int | None,
        *,
        rounded: bool,
        targeted: bool,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(norm, rounded=rounded, targeted=targeted, **settings)
        step, final_step = grey_levels(step, "step"), grey_levels(final_step, "final_step")
        if iterations < 1:
            raise CatwalkError(f"iterations: must be at least 1, got {iterations!r}")
        if not 0 < step < math.inf:
            raise CatwalkError(f"step: must be a number of grey levels above 0, got {step!r}")
        if not 0 < final_step <= step:
            raise CatwalkError(
                f"final_step: must be a number of grey levels above 0 and at most step, {step:g}, got {final_step!r}"
            )
        if not 0 < gamma < 1:
            raise CatwalkError(f"gamma: must be a share above 0 and below 1, got {gamma!r}")
        if not 0 <= final_gamma <= gamma:
            raise CatwalkError(
                f"final_gamma: must be a share of at least 0 and at most gamma, {gamma:g}, got {final_gamma!r}"
            )
        if check_every is not None and check_every < 1:
            raise CatwalkError(
                f"check_every: must be at least 1, or null for a tenth of iterations, got {check_every!r}"
            )
        if self.precision != "32":
            raise CatwalkError(
                f"precision: {self.precision} moves the border between categories, where the least change lies, and "
                "most images would be lost; keep 32"
            )
        self.iterations = iterations
        self.step = step
        self.final_step = final_step
        self.gamma = gamma
        self.final_gamma = final_gamma
        self.check_every = max(1, iterations // 10) if check_every is None else check_every

    @abc.abstractmethod
    def first_radius(self, longest: Tensor) -> Tensor:
        """Return the radius before the first step ``(N,)``, by what no radius can be above ``(N,)``."""

    @abc.abstractmethod
    def next_radius(self, rows: Rows, lag: Tensor, gradient: Tensor, gamma: float) -> Tensor:
        """Return the radius of each image's next point ``(N,)``; no more than ``rows.longest`` will be made of it.

        Args:
            rows: The images, judged.
            lag: ``(N,)``, see :meth:`LeastChange.lag`, of the images that were shown.
            gradient: ``(N, 3, H, W)``, of what is to rise.
            gamma: γ of this step.
        """

    @abc.abstractmethod
    def onto_ball(self, perturbation: Tensor, radius: Tensor) -> Tensor:
        """Return perturbations ``(N, 3, H, W)`` brought to their balls of radius ``(N,)``."""

    def ascent(self, logits: Tensor, targets: Tensor, direction: Tensor) -> Tensor:
        """Return the gradient ``(N, C)``, by the logits, of what is to rise: here, of the lag with its sign turned.

        Args:
            logits: float32 ``(N, C)``.
            targets: int64 ``(N,)``.
            direction: ``(N, C)``, the gradient of the lag.
        """
        return -direction

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch; see :meth:`Attack.perturb`. They may be float64 as well."""
        scale = self.threat_model.scale(images)
        highest = None if scale is None else 1 / scale
        least = _NEARLY * level_of(highest) if self._rounds else 0.0
        infinite = images.new_full((len(images),), math.inf)
        longest = infinite
        if self.threat_model.clip:
            longest = self._length(torch.maximum(images, (1 if highest is None else highest) - images))
        rows = Rows(
            place=torch.arange(len(images), device=images.device),
            clean=images,
            targets=targets,
            points=images,
            radius=self.first_radius(longest),
            longest=longest,
            nearest=images,
            distance=infinite,
            is_success=torch.zeros_like(targets, dtype=torch.bool),
            length=torch.zeros_like(infinite),
            has_failed=torch.zeros_like(targets, dtype=torch.bool),
            checked=infinite,
        )
        nearest, iterations = images.clone(), torch.full_like(targets, self.iterations)
        has_ended = torch.zeros_like(targets, dtype=torch.bool)
        for number in range(self.iterations):
            falling = (1 + math.cos(math.pi * number / self.iterations)) / 2
            gamma = self.final_gamma + (self.gamma - self.final_gamma) * falling
            step = (self.final_step + (self.step - self.final_step) * falling) / 255
            shown = as_saved(rows.points, highest) if self._rounds else rows.points.clone()
            lag, gradient = self._judge(network, shown.requires_grad_(), rows)
            if number > 0:
                rows.has_failed = rows.has_failed | ~rows.is_success
            rows.radius = torch.minimum(self.next_radius(rows, lag, gradient, gamma), rows.longest)
            # Products and sums apart, for a fused multiply-add rounds otherwise at the end of an array than within.
            moved = rows.points - rows.clean + steepest(gradient, "l2") * step
            rows.points = self.threat_model.clamp(rows.clean + self.onto_ball(moved, rows.radius))
            is_done = rows.distance <= least
            if (number + 1) % self.check_every == 0 and 2 * (number + 1) >= self.iterations:
                is_done |= rows.distance > _NO_PROGRESS * rows.checked
                rows.checked = rows.distance
            # Images that were done before go on as padding, and nobody looks at what comes of them.
            had_ended = has_ended[rows.place]
            ends = is_done & ~had_ended
            iterations[rows.place[ends]] = number + 1
            nearest[rows.place[ends]] = rows.nearest[ends]
            is_done = is_done | had_ended
            has_ended[rows.place] = is_done
            order = is_done.to(torch.int8).argsort(stable=True)
            needed = -(-int((~is_done).sum()) // ROW_MULTIPLE) * ROW_MULTIPLE
            if needed == 0:
                break
            if needed < len(order):
                rows = rows.select(order[:needed])
        goes_on = ~has_ended[rows.place]
        nearest[rows.place[goes_on]] = rows.nearest[goes_on]
        return nearest, iterations

    def _judge(self, network: nn.Module, shown: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Show images to the network, keep those that are the best successes so far, and return lag and gradient."""
        logits = network(shown)
        values = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        lag, direction = self.lag(values, rows.targets)
        ascent = self.ascent(values, rows.targets, direction).to(logits.dtype)
        (gradient,) = torch.autograd.grad(logits, shown, ascent)
        shown = shown.detach()
        rows.length = self._length(rows.points - rows.clean)
        distance = self._length(shown - rows.clean)
        rows.is_success = lag < -_LEAD * values.abs().amax(dim=1)
        closer = rows.is_success & (distance < rows.distance)
        rows.distance = torch.where(closer, distance, rows.distance)
        rows.nearest = torch.where(per_image(closer), shown, rows.nearest)
        return lag, gradient

    def _length(self, perturbation: Tensor) -> Tensor:
        """Return the lengths of perturbations in the attack's norm, ``(N,)``."""
        if self.threat_model.norm == "linf":
            return perturbation.abs().amax(dim=(1, 2, 3))
        return torch.linalg.vector_norm(perturbation, dim=(1, 2, 3))

    @property
    def _rounds(self) -> bool:
        """Whether images are rounded before they are shown, which truncation would not leave as they are."""
        return self.rounded and self.threat_model.quantisation != "truncate"


def level_of(highest: Tensor | None) -> float:
    """Return a grey level in coordinates, of the channel where it is least, by the coordinates of the value 1."""
    return (1.0 if highest is None else float(highest.min())) / 255
