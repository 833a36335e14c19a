"""NES and SPSA: descent along a gradient that is estimated from scores at random points nearby."""

import abc
from itertools import count

import torch
from torch import Tensor
from typing_extensions import Unpack

from catwalk.attacks.attack import AttackSettings, check_steps
from catwalk.attacks.pgd import steepest
from catwalk.attacks.queries import Loss, Oracle, QueryAttack, losses, margins, per_image
from catwalk.attacks.threat_model import GreyLevels, Norm, grey_levels
from catwalk.errors import CatwalkError
from catwalk.keyed_random import derived_seed, normal, uniform
from catwalk.limits import check_choice, check_number

_ADAM_EPSILON = 1e-8


class EstimatedGradientAttack(QueryAttack, abc.ABC):
    """Base of the attacks that estimate the loss's gradient from pairs of points, and step along it.

    Around the point x that it has come to, it asks for the scores at ``x + σ·v`` and at ``x - σ·v`` for each of
    ``samples`` random directions v, both clipped to [0, 1], and takes ``ĝ = mean((L(x + σ·v) - L(x - σ·v)) / 2σ · v)``
    for the gradient. Of directions whose values have variance 1 and do not depend on each other, ĝ is right on average
    where L is quadratic and nothing is clipped. Each step asks once more, about the new point; an image that succeeds
    stops, and of the others the best point is kept.

    Args:
        epsilon: Radius of the ball in grey levels, at least 0.
        norm: Distance that ``epsilon`` bounds, ``"linf"`` or ``"l2"``.
        queries: Largest number of queries for each image, at least ``2·samples + 2``.
        samples: Number of pairs of points for each step, at least 1.
        sigma: How far σ the points are, in grey levels, above 0.
        loss: What is lowered, ``"margin"`` or ``"ce"``, as in :class:`~catwalk.attacks.Square`.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        seed: Seed of the directions.
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    decays: tuple[float, float] = (0.0, 0.0)
    """How much of the sums of gradients, and of their squares, is left after a step."""

    def __init__(
        self,
        epsilon: GreyLevels,
        norm: Norm,
        queries: int,
        samples: int,
        sigma: GreyLevels,
        loss: Loss,
        *,
        targeted: bool,
        seed: int,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(norm, grey_levels(epsilon), queries, targeted=targeted, seed=seed, **settings)
        check_choice(loss, "loss", Loss)
        check_number(samples, "samples", least=1)
        if queries < 2 * samples + 2:
            raise CatwalkError(
                f"queries: a step takes two for each of {samples} samples and one more, after a first one: must be at "
                f"least {2 * samples + 2}, got {queries!r}; or give fewer samples"
            )
        self.samples = samples
        self.sigma = grey_levels(sigma, "sigma")
        if not 0 < self.sigma <= 255:
            raise CatwalkError(f"sigma: must be a number of grey levels above 0 and at most 255, got {sigma!r}")
        self.loss: Loss = loss

    @abc.abstractmethod
    def directions(self, seed: int, keys: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return a random direction for each key, float32 ``(n, *shape)``."""

    @abc.abstractmethod
    def move(self, first: Tensor, second: Tensor, number: int) -> Tensor:
        """Return what is added to points, float32 ``(n, 3, H, W)``.

        Args:
            first: The decaying mean of the gradients so far, ``(n, 3, H, W)``.
            second: That of their squares.
            number: Of the step, from 1.
        """

    def search(self, oracle: Oracle, images: Tensor, targets: Tensor, keys: Tensor) -> Tensor:
        """Return the success of each image, or else the best point met; see :meth:`QueryAttack.search`."""
        best, current = images.clone(), images.clone()
        first, second = torch.zeros_like(images), torch.zeros_like(images)
        rows = oracle.rows_of(torch.ones_like(keys, dtype=torch.bool))
        least, succeeds = self._judge(oracle(images[rows], rows), targets[rows])
        for number in count(1):
            rows = oracle.rows_of(~succeeds, 2 * self.samples + 1)
            if not len(rows):
                return best
            gradient = self.estimate(oracle, current[rows], targets, keys, rows, number)
            for moment, decay, value in zip((first, second), self.decays, (gradient, gradient**2), strict=True):
                moment[rows] = decay * moment[rows] + (1 - decay) * value
            moved = current[rows] + self.move(first[rows], second[rows], number)
            points = current[rows] = self.threat_model.project(moved, images[rows])
            values, are_done = self._judge(oracle(points, rows), targets[rows])
            is_better = (values < least[rows]) | are_done
            best[rows] = torch.where(per_image(is_better), points, best[rows])
            least[rows] = torch.where(is_better, values, least[rows])
            succeeds[rows] = are_done
        raise AssertionError  # count() has no end

    def estimate(
        self, oracle: Oracle, points: Tensor, targets: Tensor, keys: Tensor, rows: Tensor, number: int
    ) -> Tensor:
        """Return an estimate of the loss's gradient at points, float32 ``(R, 3, H, W)``.

        Args:
            oracle: Answers.
            points: float32 ``(R, 3, H, W)``.
            targets: int64 ``(N,)``, of all images.
            keys: int64 ``(N,)``, of all images.
            rows: int64 ``(R,)``, the images that the points belong to.
            number: Of the step, from 1.
        """
        sigma, directions = self.sigma / 255, dict[int, Tensor]()

        def make(index: int) -> Tensor:
            pair, is_other = divmod(index, 2)
            if not is_other:
                seed = derived_seed(self.seed, number, pair)
                directions[pair] = self.directions(seed, keys[rows], tuple(points.shape[1:]))
            return self.threat_model.clamp(points + (-sigma if is_other else sigma) * directions[pair])

        total, ahead = torch.zeros_like(points), torch.zeros_like(points[:, 0, 0, 0])
        for index, (_, answers) in enumerate(oracle.several(make, 2 * self.samples, rows)):
            values = losses(answers, targets[rows], self.targeted, self.loss)
            pair, is_other = divmod(index, 2)
            if is_other:  # one after the other, so that the sum does not depend on how many go into a batch
                total += per_image((ahead - values) / (2 * sigma)) * directions.pop(pair)
            ahead = values
        return total / self.samples

    def _judge(self, answers: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, float ``(n,)``, and which images succeed, bool ``(n,)``."""
        return losses(answers, targets, self.targeted, self.loss), margins(answers, targets, self.targeted) < 0


class NES(EstimatedGradientAttack):
    """PGD along a gradient estimated by natural evolution strategies, from the scores of all categories.

    The directions are of normal numbers, in pairs v and -v, and a step goes along the sign (L-infinity), or the
    direction (L2), of a decaying mean of the estimates, followed by a projection (Ilyas et al., "Black-box Adversarial
    Attacks with Limited Queries and Information", ICML 2018, section 3 and algorithm 1; the momentum is their code's).

    Args:
        epsilon: Radius of the ball in grey levels, at least 0; ``"8/255"`` are 8.
        norm: Distance that ``epsilon`` bounds, ``"linf"`` or ``"l2"``.
        queries: Largest number of queries for each image, at least ``2·samples + 2``.
        samples: Number of pairs of points for each step, at least 1.
        sigma: How far the points are for each value, in grey levels, above 0. The paper's 0.001 of the range of a value
            is a quarter of a level, which no 8-bit file would show.
        step: Length of a step in grey levels, above 0; None means ``epsilon / 4``.
        momentum: Share of the estimates before that is left at each step, in [0, 1).
        loss: ``"ce"``, the cross-entropy, or ``"margin"``, by how much the wanted category is behind.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        seed: Seed of the directions.
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        norm: Norm = "linf",
        queries: int = 5000,
        samples: int = 25,
        sigma: GreyLevels = 1.0,
        step: GreyLevels | None = None,
        momentum: float = 0.9,
        loss: Loss = "ce",
        targeted: bool = True,
        seed: int = 0,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(epsilon, norm, queries, samples, sigma, loss, targeted=targeted, seed=seed, **settings)
        step = None if step is None else grey_levels(step, "step")
        check_steps(1, step, "epsilon / 4")
        if not 0 <= momentum < 1:
            raise CatwalkError(f"momentum: must be a share from 0 to below 1, got {momentum!r}")
        self.step = grey_levels(epsilon) / 4 if step is None else step
        self.decays = momentum, 0.0

    def directions(self, seed: int, keys: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return normal numbers."""
        return normal(seed, keys, shape)

    def move(self, first: Tensor, second: Tensor, number: int) -> Tensor:
        """Return a step of one length down the mean of the gradients."""
        return -self.step / 255 * steepest(first, self.threat_model.norm)


class SPSA(EstimatedGradientAttack):
    """Adam along a gradient estimated by simultaneous perturbation, from the scores of all categories.

    The directions are of random signs: every value of the image moves by ±σ at once. Adam takes the estimates, and
    every step is followed by a projection (Uesato et al., "Adversarial Risk and the Dangers of Evaluating Against Weak
    Attacks", ICML 2018, section 4.1 and algorithm 1; Spall, "Multivariate Stochastic Approximation Using a Simultaneous
    Perturbation Gradient Approximation", 1992). It finds its way where gradients are masked.

    Args:
        epsilon: Radius of the ball in grey levels, at least 0; ``"8/255"`` are 8.
        norm: Distance that ``epsilon`` bounds, ``"linf"`` or ``"l2"``.
        queries: Largest number of queries for each image, at least ``2·samples + 2``.
        samples: Number of pairs of points for each step, at least 1. The paper takes thousands, for a bound.
        sigma: By how much every value moves, in grey levels, above 0; the paper's 0.01 of the range of a value.
        learning_rate: Adam's, in grey levels, above 0; the paper's 0.01.
        loss: ``"margin"``, by how much the wanted category is behind, or ``"ce"``, the cross-entropy.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        seed: Seed of the directions.
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    decays = (0.9, 0.999)

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        norm: Norm = "linf",
        queries: int = 5000,
        samples: int = 25,
        sigma: GreyLevels = 2.55,
        learning_rate: GreyLevels = 2.55,
        loss: Loss = "margin",
        targeted: bool = True,
        seed: int = 0,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(epsilon, norm, queries, samples, sigma, loss, targeted=targeted, seed=seed, **settings)
        self.learning_rate = grey_levels(learning_rate, "learning_rate")
        if not 0 < self.learning_rate <= 255:
            raise CatwalkError(
                f"learning_rate: must be a number of grey levels above 0 and at most 255, got {learning_rate!r}"
            )

    def directions(self, seed: int, keys: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return random signs."""
        return torch.where(uniform(seed, keys, shape) >= 0.5, 1.0, -1.0)

    def move(self, first: Tensor, second: Tensor, number: int) -> Tensor:
        """Return a step of Adam."""
        (of_first, of_second) = (1 - decay**number for decay in self.decays)
        return -self.learning_rate / 255 * (first / of_first) / ((second / of_second).sqrt() + _ADAM_EPSILON)
