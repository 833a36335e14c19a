"""APGD away from a category, by way of each of the categories that the network takes the image for next."""

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.apgd import ascend, most_likely_others, targeted_difference_of_logits_ratio
from catwalk.attacks.attack import Attack, AttackSettings, check_steps
from catwalk.attacks.pgd import random_point
from catwalk.attacks.threat_model import GreyLevels, Norm, grey_levels
from catwalk.errors import CatwalkError
from catwalk.keyed_random import derived_seed
from catwalk.networks.batching import padded_rows

_FEWEST = 4
"""Categories that the loss takes the logits of."""


class APGDT(Attack):
    """Runs :class:`APGD` towards one other category after the other, until the image has left its own.

    It is untargeted: any category but the image's own will do. In the descending order of the clean image's logits, up
    to ``num_targets`` other categories t are tried. Each run maximises the targeted difference of logits ratio,
    ``-(z_y - z_t) / (z_π1 - (z_π3 + z_π4) / 2)`` with y the image's own category and π the descending order of the
    logits, from a random start of its own (Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an
    Ensemble of Diverse Parameter-free Attacks", ICML 2020, targeted DLR loss; APGD-T of AutoAttack, with nine
    categories). An image that a run has led away leaves, and so does one that the network mistakes already.

    Costs a forward pass, and up to ``num_targets`` times what a run of APGD does.

    Args:
        epsilon: Radius of the ball in grey levels, at least 0; ``"8/255"`` are 8; for ``"l2"`` a Euclidean length over
            all values of an image.
        norm: Distance that ``epsilon`` bounds, ``"linf"`` or ``"l2"``.
        num_targets: Number of categories to try at most, at least 1; no more than the network has others.
        iterations: Number of steps of each run, at least 1.
        random_start: Whether runs start from uniformly random points of the ball.
        seed: Seed of the random starts.
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range; when called, if the network has fewer than four categories.
    """

    takes_masks = False

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        norm: Norm = "linf",
        num_targets: int = 9,
        iterations: int = 100,
        random_start: bool = True,
        seed: int = 0,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(norm, grey_levels(epsilon), targeted=False, random_start=random_start, seed=seed, **settings)
        check_steps(iterations, None, "")
        check_num_targets(num_targets)
        self.num_targets = num_targets
        self.iterations = iterations

    @property
    def title(self) -> str:
        """``"APGD-T"``."""
        return "APGD-T"

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch; see :meth:`Attack.perturb`.

        Raises:
            CatwalkError: If the network has fewer than four categories.
        """
        ball = self.threat_model
        with torch.no_grad():
            logits = network(images).float()
        if logits.shape[1] < _FEWEST:
            raise CatwalkError(
                f"APGDT: needs a network of at least {_FEWEST} categories, and this one has {logits.shape[1]}; "
                "leave apgd-t out of AutoAttack's components, or take APGD"
            )
        count = min(self.num_targets, logits.shape[1] - 1)
        others = most_likely_others(logits, targets, count)
        found, result, runs = logits.argmax(dim=1) != targets, images, torch.zeros_like(targets)
        for place in range(count):
            if bool(found.all()):
                break
            rows, number = padded_rows(~found)
            clean, origins, aims = images[rows], targets[rows], others[rows, place]
            start = clean
            if self.random_start:
                seed = derived_seed(self.seed, place)
                start = ball.clamp(
                    random_point(clean, ball.norm, ball.budget, seed, None if keys is None else keys[rows])
                )

            def objective(logits: Tensor, origins: Tensor = origins, aims: Tensor = aims) -> Tensor:
                return targeted_difference_of_logits_ratio(logits, origins, aims)

            def succeeds(logits: Tensor, origins: Tensor = origins) -> Tensor:
                return logits.argmax(dim=1) != origins

            points, success = ascend(network, start, clean, ball, objective, succeeds, self.iterations)
            rows = rows[:number]
            result = result.index_copy(0, rows, points[:number])
            found = found.index_copy(0, rows, success[:number])
            runs[rows] += 1
        return result, runs * self.iterations

    def passes(self, iterations: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of each image: the clean one is looked at once, and the end of every run."""
        return 1 + iterations + iterations // self.iterations, iterations


def check_num_targets(num_targets: int) -> None:
    """Raise a CatwalkError unless there is a category to try."""
    if num_targets < 1:
        raise CatwalkError(f"num_targets: must be at least 1 other category to try, got {num_targets!r}")
