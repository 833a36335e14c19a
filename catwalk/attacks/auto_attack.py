"""AutoAttack: four attacks in turn, of which an image has to withstand all."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.apgd import APGD
from catwalk.attacks.apgd_t import APGDT, check_num_targets
from catwalk.attacks.attack import Attack, AttackResult, AttackSettings, check_steps
from catwalk.attacks.fab import FAB
from catwalk.attacks.square import Square
from catwalk.attacks.threat_model import GreyLevels, Norm, grey_levels
from catwalk.errors import CatwalkError
from catwalk.networks.batching import map_batches, padded_rows
from catwalk.networks.frozen import eval_mode, exact_convolutions

Component = Literal["apgd-ce", "apgd-t", "fab-t", "square"]

STANDARD: tuple[Component, ...] = get_args(Component)
"""The components of the standard ensemble, in their order."""

ROBUST, MISTAKEN = -1, 0
"""Who misled the network: nobody, and nobody had to, for it mistakes the clean image. Components count from 1."""


@dataclass(frozen=True, eq=False)
class EnsembleResult(AttackResult):
    """What several attacks in turn have made of images.

    Attributes:
        misled_by: int64 ``(N,)``: which component was the first to mislead the network, 1 for the first; 0 where it
            mistakes the clean image, -1 where no component has misled it.
    """

    misled_by: Tensor = field(kw_only=True)


class _Run(Protocol):
    """Lets a component attack some rows; returns images, whether they succeed, and what they cost."""

    def __call__(self, component: Attack, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...


class AutoAttack(Attack):
    """Runs APGD-CE, APGD-T, FAB-T and Square in turn, each on the images that the ones before have not misled.

    It is untargeted, and has no parameter to tune but the budget: the accuracy that is left is the one to report of a
    defence (Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
    Attacks", ICML 2020). The ensemble is the standard one:

    | component | what it is |
    |---|---|
    | ``apgd-ce`` | :class:`APGD` on the cross-entropy |
    | ``apgd-t`` | :class:`APGDT`, towards up to nine other categories by the difference of logits ratio |
    | ``fab-t`` | :class:`FAB` over the boundaries to up to nine other categories |
    | ``square`` | :class:`Square`, which sees the logits alone |

    An image that the network mistakes already is handed out as it is. Which component has misled the network is in the
    result, :class:`EnsembleResult`. Each judges by the network as it is, and none looks at the others' images, so that
    an image withstands the ensemble if and only if it withstands every component.

    ``iterations`` of a result are gradient steps and queries in sum: up to 6,900 an image with ten categories.

    Args:
        epsilon: Radius of the ball in grey levels, at least 0; ``"8/255"`` are 8; for ``"l2"`` a Euclidean length over
            all values of an image, where 255 is a distance of 1 between images in [0, 1].
        norm: Distance that ``epsilon`` bounds, ``"linf"`` or ``"l2"``.
        components: Which attacks, in their order; the standard ensemble by default. ``apgd-t`` needs four categories.
        num_targets: Number of other categories that ``apgd-t`` and ``fab-t`` try at most, at least 1.
        iterations: Number of gradient steps of each run, at least 1.
        queries: Largest number of queries of ``square``, at least 1.
        seed: Seed of random starts and squares.
        **settings: As in :class:`Attack`. ``precision`` must be ``"32"`` for ``fab-t``.

    Raises:
        CatwalkError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from catwalk.attacks import AutoAttack
        >>> from catwalk.networks.building import build_network
        >>> network = build_network("catwalk.networks.compact_cnn", {"width": 8}, num_classes=6)
        >>> images, categories, keys = torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64), torch.arange(4)
        >>> attack = AutoAttack(epsilon=8, iterations=5, queries=20)  # much less than the standard
        >>> result = attack(network, images, categories, keys=keys)
        >>> accuracy = (result.misled_by == -1).float().mean()  # what is left of it
    """

    takes_masks = False

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        norm: Norm = "linf",
        components: Sequence[Component] = STANDARD,
        num_targets: int = 9,
        iterations: int = 100,
        queries: int = 5000,
        seed: int = 0,
        **settings: Unpack[AttackSettings],
    ) -> None:
        epsilon = grey_levels(epsilon)
        super().__init__(norm, epsilon, targeted=False, random_start=True, seed=seed, **settings)
        unknown = [name for name in components if name not in STANDARD]
        if unknown or not components or len(set(components)) < len(components):
            raise CatwalkError(
                f"components: must be some of {', '.join(STANDARD)}, each once, got {', '.join(map(str, components))}"
            )
        check_steps(iterations, None, "")
        check_num_targets(num_targets)
        makers: dict[Component, Callable[[], Attack]] = {
            "apgd-ce": lambda: APGD(epsilon, norm, "ce", iterations, targeted=False, seed=seed, **settings),
            "apgd-t": lambda: APGDT(epsilon, norm, num_targets, iterations, seed=seed, **settings),
            "fab-t": lambda: FAB(epsilon, norm, num_targets, iterations, **settings),
            "square": lambda: Square(epsilon, norm, queries, targeted=False, seed=seed, **settings),
        }
        self._components = tuple(makers[name]() for name in components)
        self._longest = tuple(
            {"apgd-ce": iterations, "square": queries}.get(name, iterations * num_targets) for name in components
        )

    @property
    def components(self) -> tuple[Attack, ...]:
        """The attacks, in their order, under this one's threat model."""
        return tuple(map(self._with_threat_model, self._components))

    def _with_threat_model(self, component: Attack) -> Attack:
        component = copy.copy(component)
        component.threat_model = self.threat_model
        return component

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        targets: Tensor,
        *,
        keys: Tensor | None = None,
        alone: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> EnsembleResult:
        """Craft adversarial images; see :meth:`Attack.__call__`.

        Returns:
            One row per image, in order; the same bits for every ``batch_size``.
        """
        images = images.detach()
        self._check_arguments(network, images, targets, keys)
        if len(images):
            with eval_mode(network):
                self.check_targets(network, images[:1], targets)
        share = [0]

        def run(component: Attack, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            def tell(done: int, total: int) -> None:
                if progress is not None:
                    progress(
                        (share[0] * len(images) + len(images) * done // total) // len(self._components), len(images)
                    )

            some_keys = None if keys is None else keys[rows]
            result = component(network, images[rows], targets[rows], keys=some_keys, alone=alone, progress=tell)
            share[0] += 1
            return result.images, result.success, result.iterations

        def judge(clean: Tensor, categories: Tensor) -> Tensor:
            return self.succeeds(network, clean, clean, categories)

        with torch.inference_mode(False):
            images, targets = images.clone(), targets.clone()
            mistaken = torch.zeros(0, dtype=torch.bool, device=images.device)
            no_autocast = torch.autocast(images.device.type, enabled=False)
            if len(images):
                with eval_mode(network), torch.no_grad(), exact_convolutions(), no_autocast:
                    mistaken = map_batches(judge, images, targets, batch_size=self.batch_size, alone=alone)
            adversarial, iterations, misled_by = self._in_turn(
                images, mistaken, run, lambda chosen: (chosen.nonzero()[:, 0], int(chosen.sum()))
            )
        if progress is not None and len(images):
            progress(len(images), len(images))
        return EnsembleResult(adversarial, misled_by != ROBUST, iterations, misled_by=misled_by)

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch; see :meth:`Attack.perturb`."""

        def run(component: Attack, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            some_keys = None if keys is None else keys[rows]
            adversarial, cost = component.perturb(network, images[rows], targets[rows], some_keys)
            with torch.no_grad():
                success = self.succeeds(network, adversarial, images[rows], targets[rows])
            return adversarial, success, cost

        with torch.no_grad():
            mistaken = self.succeeds(network, images, images, targets)
        adversarial, iterations, _ = self._in_turn(images, mistaken, run, padded_rows)
        return adversarial, iterations

    def _in_turn(
        self, images: Tensor, mistaken: Tensor, run: _Run, rows_of: Callable[[Tensor], tuple[Tensor, int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Let the components attack what those before have left.

        Args:
            images: float32 ``(N, 3, H, W)``, the clean images.
            mistaken: bool ``(N,)``, which of them need no attack.
            run: Lets a component attack some rows.
            rows_of: Returns the rows of a mask, padded perhaps, and how many of them count.

        Returns:
            ``(images, iterations, misled_by)`` as in :class:`EnsembleResult`. Where no component has misled the
            network, the image of the last.
        """
        misled_by = torch.where(mistaken, MISTAKEN, ROBUST)
        adversarial, iterations = images, torch.zeros_like(misled_by)
        for place, component in enumerate(self.components, start=1):
            left = misled_by == ROBUST
            if not bool(left.any()):
                break
            rows, count = rows_of(left)
            points, success, cost = run(component, rows)
            rows = rows[:count]
            adversarial = adversarial.index_copy(0, rows, points[:count])
            iterations = iterations.index_copy(0, rows, iterations[rows] + cost[:count])
            misled_by = misled_by.index_copy(0, rows, torch.where(success[:count], place, ROBUST))
        return adversarial, iterations, misled_by

    def passes(self, iterations: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of each image, of which every component looks at one that it has made once more.

        With fewer than ``num_targets`` other categories they are an estimate: what a run is of cannot be told then.
        """
        forwards, backwards, left = torch.ones_like(iterations), torch.zeros_like(iterations), iterations
        for component, longest in zip(self._components, self._longest, strict=True):
            cost = left.clamp(max=longest)
            its_forwards, its_backwards = component.passes(cost)
            took_part = cost > 0
            forwards = forwards + torch.where(took_part, its_forwards + 1, 0)
            backwards = backwards + torch.where(took_part, its_backwards, 0)
            left = left - cost
        return forwards, backwards
