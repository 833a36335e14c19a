"""One perturbation for many images."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import Attack, AttackSettings, Batch, check_steps
from catwalk.attacks.pgd import steepest
from catwalk.attacks.threat_model import GreyLevels, Norm, grey_levels
from catwalk.networks.batching import ROW_MULTIPLE


class UniversalPerturbation(Attack):
    """One perturbation that is added to all images of a call alike: that of a category's images deceives on all.

    From ``δ = 0`` it repeats ``δ ← P(δ - α·d(Σᵢ ∇_δ CE(z(clip(xᵢ + δ)), tᵢ)))`` over all images i, towards the target
    categories; away from categories the step is added. P projects onto the ball around 0, and d is the sign in
    ``"linf"`` and divides by the Euclidean length in ``"l2"``. Of all δ that it meets, the one at which most images
    succeed counts, and of equals that of the least mean loss. Moosavi-Dezfooli et al., "Universal Adversarial
    Perturbations", CVPR 2017, state the problem; the steps are those of Shafahi et al., "Universal Adversarial
    Training", AAAI 2020, algorithm 1 on all images at once instead of batches, with the sum's sign for their optimiser.

    An attacker who has it needs no network for the next image: a new item's photograph takes the same δ. Where an image
    is clipped at 0 or 1, or lies outside of a mask's region, it takes part of δ alone. Images of different sizes, which
    no call has together, have one each.

    What comes of an image depends on the others of the call. It does not depend on their order, nor on ``batch_size``.

    Args:
        epsilon: Radius of the ball in grey levels, at least 0; ``"8/255"`` are 8.
        step: Length α of a step in grey levels, above 0; None means ``epsilon / 10``.
        iterations: Number of steps, at least 1. Each costs a forward and a backward pass per image, and the end another
            forward pass.
        norm: Distance that ``epsilon`` bounds, ``"linf"`` or ``"l2"``.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from catwalk.attacks import UniversalPerturbation
        >>> from catwalk.networks.building import build_network
        >>> network = build_network("catwalk.networks.compact_cnn", {"width": 8}, num_classes=6)
        >>> images, targets = 0.5 + 0.2 * torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64)
        >>> result = UniversalPerturbation(epsilon=8, iterations=5)(network, images, targets)
        >>> torch.allclose(result.images - images, result.perturbation.expand(4, 3, 32, 32), atol=1e-6)
        True
    """

    is_joint = True

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        step: GreyLevels | None = None,
        iterations: int = 40,
        norm: Norm = "linf",
        targeted: bool = True,
        **settings: Unpack[AttackSettings],
    ) -> None:
        epsilon = grey_levels(epsilon)
        step = None if step is None else grey_levels(step, "step")
        super().__init__(norm, epsilon, targeted=targeted, **settings)
        check_steps(iterations, step, "epsilon / 10")
        self.step = epsilon / 10 if step is None else step
        self.iterations = iterations
        self._shared: Tensor | None = None

    @property
    def title(self) -> str:
        """``"Universal"``."""
        return "Universal"

    def learn(self, batches: Callable[[], Iterator[Batch]]) -> Tensor | None:
        """Find the perturbation of all images; see :meth:`Attack.learn`."""
        ball = replace(self.threat_model, clip=False, mask=None, region=None)
        length = (-self.step if self.targeted else self.step) / 255
        shared = best = torch.zeros_like(next(batches()).images[:1])
        most, least = -1, math.inf
        for number in range(self.iterations + 1):
            total = torch.zeros_like(shared, dtype=torch.float64)
            loss, successes = 0.0, 0
            for batch in batches():
                gradient, values, hits = self._look(batch, shared, number < self.iterations)
                # By groups of a fixed size, so that the sum rounds alike whatever the size of the batch.
                for start in range(0, batch.count, ROW_MULTIPLE):
                    total += gradient[start : min(start + ROW_MULTIPLE, batch.count)].double().sum(dim=0, keepdim=True)
                loss += math.fsum(values[: batch.count].double().tolist())
                successes += int(hits[: batch.count].sum())
            if (successes, -loss) > (most, -least):
                most, least, best = successes, loss, shared
            if number < self.iterations:
                direction = steepest((total / total.abs().max().clamp(min=1e-300)).to(shared), ball.norm)
                shared = ball.project(shared + length * direction, torch.zeros_like(shared))
        self._shared = best
        return best[0]

    def _look(self, batch: Batch, shared: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return gradients with respect to δ, losses and successes of a batch."""
        moved = batch.images + shared
        points = batch.threat_model.clamp(moved).requires_grad_(with_gradient)
        with torch.set_grad_enabled(with_gradient):
            logits = batch.network(points).float()
            values = F.cross_entropy(logits, batch.targets, reduction="none")
        hits = (logits.detach().argmax(dim=1) == batch.targets) == self.targeted
        gradient = torch.zeros_like(moved)
        if with_gradient:
            (gradient,) = torch.autograd.grad(values.sum(), points)
            gradient = torch.where(points.detach() == moved, gradient, 0)  # nothing comes through where it is clipped
        return gradient, values.detach() * (1 if self.targeted else -1), hits

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Add the perturbation to a batch; see :meth:`Attack.perturb`.

        Called by itself, it finds that of the batch first.
        """
        shared = self._shared
        if shared is None:
            batch = Batch(network, self.threat_model, images, targets, keys, len(images))
            self.learn(lambda: iter([batch]))
            shared, self._shared = self._shared, None
        assert shared is not None
        moved = self.threat_model.project(images + shared, images)
        return moved, torch.full_like(targets, self.iterations)

    def passes(self, iterations: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of each image; the last perturbation is looked at without a gradient."""
        return iterations + 1, iterations
