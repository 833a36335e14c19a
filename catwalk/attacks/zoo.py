"""ZOO: the attack of Carlini and Wagner with derivatives from differences, a few coordinates at a time."""

import math

import torch
from torch import Tensor
from typing_extensions import Unpack

from catwalk.attacks.attack import AttackSettings
from catwalk.attacks.queries import Oracle, QueryAttack, in_levels, margins, per_image
from catwalk.attacks.threat_model import GreyLevels, grey_levels
from catwalk.errors import CatwalkError
from catwalk.keyed_random import derived_seed, uniform
from catwalk.limits import check_number

_BETAS = (0.9, 0.999)
_ADAM_EPSILON = 1e-8
_LARGEST_C = 1e10


class ZOO(QueryAttack):
    """Looks for the nearest image in L2 that succeeds, by derivatives with respect to single values of the image.

    It minimises ``‖x - x₀‖² + c·max(margin(x), -κ)``, with the margin by which the wanted category is behind in
    log-probabilities, which is that of the logits. At each step it draws ``coordinates`` values of the image, asks for
    the scores at ``x ± h·e_i`` for each, and takes a step of Adam in these alone, each of which counts its own steps;
    then it asks about the new point. The constant c is searched for each image as in
    :class:`~catwalk.attacks.CarliniWagner`, and each c has an equal part of the queries. Of everything met, the
    success nearest to the clean image is kept (Chen et al., "ZOO: Zeroth Order Optimization Based Black-box Attacks to
    Deep Neural Networks without Training Substitute Models", AISec 2017, algorithms 1 and 2). Values are kept to
    [0, 1] by clipping. It has neither the paper's hierarchy of smaller images nor its importance sampling.

    There is no budget: where no success is met, the clean image is returned, and counts as no success.

    Args:
        queries: Largest number of queries for each image, at least ``constants·(2·coordinates + 2)``.
        coordinates: Number of values that are changed at each step, at least 1.
        confidence: By how much κ the wanted logit must lead, at least 0.
        initial_c: The first c, above 0.
        constants: Number of values of c that are tried for each image, at least 1.
        learning_rate: Adam's, in grey levels, above 0; the paper's 0.01.
        h: How far the points of a difference are, in grey levels, above 0. The paper's 0.0001 of the range of a value
            is a fortieth of a level, too little for scores in float32.
        rounded: Whether an image has to succeed when it is rounded to 8 bits. False is the attack as published; so is
            True where the threat model truncates.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        seed: Seed of the coordinates.
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    def __init__(
        self,
        queries: int = 20_000,
        coordinates: int = 128,
        confidence: float = 0.0,
        initial_c: float = 1.0,
        constants: int = 2,
        learning_rate: GreyLevels = 2.55,
        h: GreyLevels = 0.5,
        rounded: bool = True,
        targeted: bool = True,
        seed: int = 0,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__("l2", None, queries, targeted=targeted, seed=seed, **settings)
        check_number(coordinates, "coordinates", least=1)
        check_number(constants, "constants", least=1)
        check_number(confidence, "confidence", least=0)
        if not 0 < initial_c <= _LARGEST_C:
            raise CatwalkError(f"initial_c: must be a number above 0 and at most {_LARGEST_C:g}, got {initial_c!r}")
        least = constants * (2 * coordinates + 2)
        if queries < least:
            raise CatwalkError(
                f"queries: {constants} values of c take two for each of {coordinates} coordinates, and two more: must "
                f"be at least {least}, got {queries!r}; or give fewer coordinates"
            )
        self.coordinates = coordinates
        self.confidence = confidence
        self.initial_c = initial_c
        self.constants = constants
        self.learning_rate = grey_levels(learning_rate, "learning_rate")
        self.h = grey_levels(h, "h")
        for argument, value in (("learning_rate", self.learning_rate), ("h", self.h)):
            if not 0 < value <= 255:
                raise CatwalkError(
                    f"{argument}: must be a number of grey levels above 0 and at most 255, got {value!r}"
                )
        self.rounded = rounded

    @property
    def title(self) -> str:
        """The name with what is spent on each image: ``"ZOO (20000)"``."""
        return f"ZOO ({self.queries})"

    def search(self, oracle: Oracle, images: Tensor, targets: Tensor, keys: Tensor) -> Tensor:
        """Return the nearest success of each image, or the clean one; see :meth:`QueryAttack.search`."""
        nearest, distance = images.clone(), torch.full_like(images[:, 0, 0, 0], math.inf)
        rows = oracle.rows_of(torch.ones_like(keys, dtype=torch.bool))
        is_clean = margins(oracle(images[rows], rows), targets[rows], self.targeted) < 0
        active = torch.ones_like(keys, dtype=torch.bool)
        active[rows] = ~is_clean  # who succeeds as it is needs nothing
        c, low = torch.full_like(distance, self.initial_c), torch.zeros_like(distance)
        high = torch.full_like(distance, math.inf)
        steps = (self.queries - 1) // (self.constants * (2 * self.coordinates + 1))
        for number in range(self.constants):
            rows = oracle.rows_of(active)
            if not len(rows):
                break
            descent = _Descent(images[rows], c[rows])
            found = torch.zeros_like(rows, dtype=torch.bool)
            for step in range(steps):
                chosen = uniform(derived_seed(self.seed, number, step), keys[rows], descent.sizes)
                chosen = chosen.topk(min(self.coordinates, descent.sizes[0]), dim=1).indices
                derivatives = self._derivatives(oracle, descent.points, chosen, targets, rows)
                descent.step(chosen, derivatives, self.learning_rate / 255)
                descent.points = self.threat_model.clamp(descent.points)
                shown = in_levels(descent.points, self.threat_model) if self.rounded else descent.points
                margin = margins(oracle(shown, rows), targets[rows], self.targeted)
                succeeds = (margin <= -self.confidence) & (margin < 0)
                found |= succeeds
                length = torch.linalg.vector_norm((shown - images[rows]).flatten(1), dim=1)
                is_nearer = succeeds & (length < distance[rows])
                nearest[rows] = torch.where(per_image(is_nearer), shown, nearest[rows])
                distance[rows] = torch.where(is_nearer, length, distance[rows])
            high[rows], low[rows] = torch.where(found, c[rows], high[rows]), torch.where(found, low[rows], c[rows])
            c = torch.where(high < math.inf, (low + high) / 2, c * 10).clamp(max=_LARGEST_C)
        return nearest

    def _derivatives(self, oracle: Oracle, points: Tensor, chosen: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        """Return the derivatives of the margin, 0 where it is below -κ, with respect to some values of each image.

        Args:
            oracle: Answers.
            points: float32 ``(R, 3, H, W)``.
            chosen: int64 ``(R, k)``, which of the ``3·H·W`` values.
            targets: int64 ``(N,)``, of all images.
            rows: int64 ``(R,)``, the images that the points belong to.

        Returns:
            float32 ``(R, k)``.
        """

        def make(index: int) -> Tensor:
            place, is_other = divmod(index, 2)
            which = chosen[:, place : place + 1]
            change = torch.full_like(points[:, 0, 0, :1], -self.h / 255 if is_other else self.h / 255)
            changed = points.flatten(1).scatter_add(1, which, change).reshape(points.shape)
            return self.threat_model.clamp(changed)

        derivatives = torch.zeros_like(chosen, dtype=points.dtype)
        ahead = torch.zeros_like(derivatives[:, :1]), torch.zeros_like(derivatives[:, :1])
        for index, (asked, answers) in enumerate(oracle.several(make, 2 * chosen.shape[1], rows)):
            place, is_other = divmod(index, 2)
            value = margins(answers, targets[rows], self.targeted).clamp(min=-self.confidence)[:, None]
            where = asked.flatten(1).gather(1, chosen[:, place : place + 1])
            if is_other:  # where one of the two was clipped they are less than 2h apart
                derivatives[:, place : place + 1] = (ahead[0] - value) / (ahead[1] - where)
            ahead = value, where
        return derivatives

    def final_images(self, images: Tensor, clean: Tensor, success: Tensor) -> Tensor:
        """Return the clean image for each that does not succeed."""
        return torch.where(per_image(success), images, clean)


class _Descent:
    """Adam in some values of each image at a time.

    Args:
        clean: float32 ``(R, 3, H, W)``, where it starts.
        c: ``(R,)``, the weight of the margin beside the squared distance.

    Attributes:
        points: Like ``clean``, where it has come to.
        sizes: ``(3·H·W,)``.
    """

    def __init__(self, clean: Tensor, c: Tensor) -> None:
        self.points = clean.clone()
        self.sizes = (clean[0].numel(),)
        self._clean, self._c = clean, c[:, None]
        self._first, self._second = torch.zeros_like(clean.flatten(1)), torch.zeros_like(clean.flatten(1))
        self._counts = torch.zeros_like(self._first)

    def step(self, chosen: Tensor, derivatives: Tensor, learning_rate: float) -> None:
        """Move the chosen values ``(R, k)`` by the derivatives of the margin, ``(R, k)``, and of the distance."""
        flat = self.points.flatten(1)
        from_clean = (flat - self._clean.flatten(1)).gather(1, chosen)
        gradient = self._c * derivatives + 2 * from_clean
        counts = self._counts.gather(1, chosen) + 1
        first = _BETAS[0] * self._first.gather(1, chosen) + (1 - _BETAS[0]) * gradient
        second = _BETAS[1] * self._second.gather(1, chosen) + (1 - _BETAS[1]) * gradient**2
        for sums, values in ((self._counts, counts), (self._first, first), (self._second, second)):
            sums.scatter_(1, chosen, values)
        (of_first, of_second) = (1 - beta**counts for beta in _BETAS)
        move = learning_rate * (first / of_first) / ((second / of_second).sqrt() + _ADAM_EPSILON)
        self.points = flat.scatter(1, chosen, flat.gather(1, chosen) - move).reshape(self.points.shape)
