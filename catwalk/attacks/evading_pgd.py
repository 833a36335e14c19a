"""Projected gradient descent that goes past a detector as well."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import Attack, AttackContext, AttackSettings, check_numbers, check_steps, logits_of
from catwalk.attacks.pgd import random_point, steepest
from catwalk.attacks.threat_model import GreyLevels, Norm, grey_levels
from catwalk.detectors import Detector, ItemRoles, Reference, Score
from catwalk.errors import CatwalkError


class EvadingPGD(Attack):
    """Projected gradient descent against a network and the detector that protects it, which the attacker knows.

    Each step goes along the gradient of one loss: of the cross-entropy where the network does not yet see what it
    shall, and of the detector's score where it does (Bryniarski et al., "Evading Adversarial Example Detection Defenses
    with Orthogonal Projected Gradient Descent", ICLR 2022, section 4.2, "Selective PGD"), so that neither needs a
    weight and neither drowns the other. With a ``weight`` w it goes along that of ``CE(z(x), t) + w · score(x)``
    instead (Carlini and Wagner, "Adversarial Examples Are Not Easily Detected: Bypassing Ten Detection Methods", AISec
    2017). Of all points met, the least suspect of those where the network sees what it shall is kept; where there is
    none, the one with the largest margin.

    The attacker has the detector as it is in use: its settings, its weights, and the clean items that it was fitted to,
    which are those of :class:`~catwalk.detectors.ItemRoles`; not its threshold. Steps, projection, norms and the random
    start are those of :class:`~catwalk.attacks.PGD`.

    Args:
        detector: The detector.
        epsilon: Radius of the ball in grey levels, at least 0; ``"8/255"`` are 8.
        step: Length of a step in grey levels, above 0; None means ``epsilon / 10``.
        iterations: Number of steps, at least 1.
        weight: Of the score in a sum of both losses, at least 0; None goes along one of them at a time.
        margin: By how much the target's logit must exceed all others, at least 0, for the network to see it: what is
            just beyond the border may fall back when images become 8-bit.
        random_start: Whether to start from a random point of the ball.
        targeted: Whether the network shall see a category (True) or any but one (False).
        seed: Seed of the random starts.
        norm: Distance that ``epsilon`` bounds, ``"linf"`` or ``"l2"``.
        roles: Which clean items the detector was fitted to.
        **settings: As in :class:`Attack`.

    Attributes:
        score: The fitted detector's; None before :meth:`targets_of` has fitted it to a catalogue, or its user.

    Raises:
        CatwalkError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from catwalk.attacks import EvadingPGD
        >>> from catwalk.detectors import DeclaredCategory, Reference
        >>> from catwalk.networks.building import build_network
        >>> network = build_network("catwalk.networks.compact_cnn", {"width": 8}, num_classes=6)
        >>> images, targets, keys = torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64), torch.arange(4)
        >>> attack = EvadingPGD(DeclaredCategory(), epsilon=4, iterations=5)
        >>> attack.score = attack.detector.fitted(Reference(torch.zeros(1, 64), targets[:1]))
        >>> declared = torch.full_like(targets, 3)
        >>> result = attack(network, images, torch.stack([targets, declared], dim=1), keys=keys)
        >>> attack.threat_model.verify(result.images, images)  # raises if one has left the ball
    """

    knowledge = "network and detector"

    def __init__(
        self,
        detector: Detector,
        epsilon: GreyLevels = 8.0,
        step: GreyLevels | None = None,
        iterations: int = 100,
        weight: float | None = None,
        margin: float = 0.5,
        random_start: bool = True,
        targeted: bool = True,
        seed: int = 0,
        norm: Norm = "linf",
        roles: ItemRoles = ItemRoles(),  # noqa: B008 - frozen
        **settings: Unpack[AttackSettings],
    ) -> None:
        epsilon = grey_levels(epsilon)
        step = None if step is None else grey_levels(step, "step")
        super().__init__(norm, epsilon, targeted=targeted, random_start=random_start, seed=seed, **settings)
        check_steps(iterations, step, "epsilon / 10")
        for argument, value in (("weight", weight), ("margin", margin)):
            if value is not None and not 0 <= value < math.inf:
                raise CatwalkError(f"{argument}: must be a number of 0 or above, got {value!r}")
        self.detector = detector
        self.step = epsilon / 10 if step is None else step
        self.iterations = iterations
        self.weight = weight
        self.margin = margin
        self.roles = roles
        self.score: Score | None = None

    @property
    def title(self) -> str:
        """Such as ``"PGD past Feature squeezing"``."""
        return f"PGD past {self.detector.title}"

    def targets_of(self, scene: AttackContext) -> Tensor:
        """Fit the detector to the scene's clean items, and return the category to aim at and the declared one.

        Returns:
            int64 ``(n, 2)``.

        Raises:
            CatwalkError: If the scene does not say what items are declared as, or the detector does not fit it.
        """
        if scene.declared is None or scene.keys is None:
            raise CatwalkError(
                "detector: EvadingPGD must know the items' declared categories and their keys, and the scene holds none"
            )
        trusted = self.roles.has("fit", scene.keys)
        reference = Reference(scene.features[trusted], scene.declared[trusted], roles=self.roles)
        self.score = self.detector.fitted(reference)
        return torch.stack([torch.full_like(scene.items, scene.category), scene.declared[scene.items]], dim=1)

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch; see :meth:`Attack.perturb`."""
        ball, score = self.threat_model, self._score()
        seen_pixels = _InPixels(network, ball.scale(images))
        aims, declared = targets.unbind(dim=1)
        current = images
        if self.random_start:
            current = ball.clamp(random_point(images, ball.norm, ball.budget, self.seed, keys))
        best, has_reached = current, torch.zeros_like(aims, dtype=torch.bool)
        least = images.new_full((len(images),), math.inf)
        for number in range(self.iterations + 1):
            is_last = number == self.iterations
            with torch.set_grad_enabled(not is_last):
                points = current.detach().requires_grad_(not is_last)
                logits = network(points).float()
                suspicion = score(seen_pixels, seen_pixels.of(points), logits, declared)
            margins = self._margins(logits.detach(), aims)
            reaches = margins >= self.margin
            # Points that reach come before all others, by their score; the others by their margin.
            values = torch.where(reaches, suspicion.detach(), -margins)
            is_better = torch.where(reaches == has_reached, values < least, reaches)
            best = torch.where(is_better.view(-1, 1, 1, 1), points.detach(), best)
            least = torch.where(is_better, values, least)
            has_reached = has_reached | reaches
            if not is_last:
                loss = F.cross_entropy(logits, aims, reduction="none") * (1 if self.targeted else -1)
                both = torch.where(reaches, suspicion, loss) if self.weight is None else loss + self.weight * suspicion
                (gradient,) = torch.autograd.grad(both.sum(), points)
                current = ball.project(points.detach() - self.step / 255 * steepest(gradient, ball.norm), images)
        return best, torch.full_like(aims, self.iterations)

    def _margins(self, logits: Tensor, aims: Tensor) -> Tensor:
        """Return by how much what shall be seen exceeds what else is seen, ``(N,)``."""
        own = logits.gather(1, aims[:, None])[:, 0]
        others = logits.scatter(1, aims[:, None], -torch.inf).amax(dim=1)
        return own - others if self.targeted else others - own

    def succeeds(self, network: nn.Module, images: Tensor, clean: Tensor, targets: Tensor) -> Tensor:
        """Return whether the network sees what it shall, whatever the detector says."""
        return super().succeeds(network, images, clean, targets[:, 0])

    def passes(self, iterations: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of each image, the detector's own among them; the last point is looked at without a gradient."""
        each = 1 + self.detector.passes
        return (iterations + 1) * each, iterations * each

    def _score(self) -> Score:
        if self.score is None:
            raise CatwalkError(
                "detector: is not fitted yet: set attack.score to attack.detector.fitted(reference), as poisoning a "
                "catalogue does"
            )
        return self.score

    def _check_layout_of_targets(self, images: Tensor, targets: Tensor) -> None:
        if targets.dtype != torch.int64 or targets.shape != (len(images), 2):
            raise ValueError(
                f"targets: must be int64 of shape ({len(images)}, 2), the category to aim at and the declared one of "
                f"each image, got {targets.dtype} of shape {tuple(targets.shape)}"
            )

    @torch.no_grad()
    def check_targets(self, network: nn.Module, image: Tensor, targets: Tensor) -> None:
        """Check the categories to aim at, and that detector and network fit; see :meth:`Attack.check_targets`."""
        logits = logits_of(network, image)
        check_numbers("targets", targets[:, 0], logits.shape[1], "for the network has {} classes")
        suspicion = self._score()(network, image, logits.float(), targets[:1, 1])
        if not bool(suspicion.isfinite().all()):
            raise CatwalkError("detector: its score of the first image is not finite; check the network's weights")


class _InPixels(nn.Module):
    """A network that takes coordinates, as one that takes pixels.

    Args:
        network: Takes coordinates.
        scale: What they are multiplied by to give pixels; None where they are pixels.
    """

    def __init__(self, network: nn.Module, scale: Tensor | None) -> None:
        super().__init__()
        self._network = network
        self._scale = scale

    def of(self, coordinates: Tensor) -> Tensor:
        """Return pixels of coordinates."""
        return coordinates if self._scale is None else coordinates * self._scale

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of pixels."""
        return self._network(images if self._scale is None else images / self._scale)

    def features(self, images: Tensor) -> Tensor:
        """Return features of pixels."""
        return self._network.features(images if self._scale is None else images / self._scale)  # type: ignore[operator]
