"""HopSkipJump: along the border between categories, by nothing but the category that the network names."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import AttackContext, AttackSettings
from catwalk.attacks.pgd import steepest
from catwalk.attacks.queries import Oracle, QueryAttack, in_levels, per_image
from catwalk.attacks.threat_model import Norm
from catwalk.keyed_random import derived_seed, normal, uniform
from catwalk.limits import check_number

_HALVINGS = 20
"""Times that a step is halved before it is given up: it is a millionth of the distance then."""

_FIRST_RADIUS = 0.1
"""How far from the first point the network is asked, of the range of a value: the authors'."""

_SMALLEST_MOVE = 2.0**-18
"""By how much a value moves at least, on average, for an estimate: 64 times what float32 tells apart next to 1."""

_CANDIDATES = 16
"""Items of the target category of which an attack in a catalogue starts from the nearest."""

_OUTWARD_STEPS = 16
"""Points that are tried for one that succeeds when it is rounded to 8 bits."""


class HopSkipJump(QueryAttack):
    """Looks for the nearest image that the network takes for the wanted category, and sees its decisions alone.

    From an image that succeeds it goes straight to the border between the categories, by bisection on the way to the
    clean image. There it estimates the direction in which the border is left fastest, from the decisions at random
    points on a small sphere around, takes a step in that direction that it halves until it succeeds, and returns to the
    border; again and again until its queries are spent. The t-th estimate takes ``samples·√t`` points (Chen, Jordan
    and Wainwright, "HopSkipJumpAttack: A Query-Efficient Decision-Based Attack", IEEE S&P 2020, algorithms 1 and 2).

    It starts from uniform noise, of which it tries up to ``tries``, or, in a catalogue and towards a category, from the
    nearest in L2 of 16 items in which the network sees that category, drawn by ``seed``. Called with tensors it
    starts from ``starts`` where they are given.

    There is no budget: where no start succeeds, the clean image is returned, and counts as no success.

    A point at the border is carried over it by rounding to 8 bits as often as not. With ``rounded`` the last point is
    therefore moved outwards, in 16 growing steps by up to 32 levels in L2, or 8 in L-infinity, until its rounded image
    succeeds, and that is what is kept; where none does, the clean image.

    Args:
        norm: Distance that is to be small, ``"l2"`` or ``"linf"``.
        queries: Largest number of queries for each image, at least 1.
        samples: Number of points of the first estimate, at least 2.
        tries: Largest number of starts that are tried, at least 1.
        rounded: Whether an image has to succeed when it is rounded to 8 bits. False is the attack as published; so is
            True where the threat model truncates.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        seed: Seed of what is drawn.
        **settings: As in :class:`Attack`.

    Attributes:
        starts: float32 ``(3, H, W)`` each, in [0, 1]: images from which an attack starts, the nearest in L2 first,
            before it tries noise; none for noise alone.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    access = "decisions"

    def __init__(
        self,
        norm: Norm = "l2",
        queries: int = 5000,
        samples: int = 100,
        tries: int = 50,
        rounded: bool = True,
        targeted: bool = True,
        seed: int = 0,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(norm, None, queries, targeted=targeted, seed=seed, **settings)
        check_number(samples, "samples", least=2)
        check_number(tries, "tries", least=1)
        self.samples = samples
        self.tries = tries
        self.rounded = rounded
        self.starts: Sequence[Tensor] = ()

    @property
    def title(self) -> str:
        """``"HopSkipJump"``, with the norm where it is not L2, and what each image may cost."""
        return f"HopSkipJump{'' if self.threat_model.norm == 'l2' else ' L∞'} ({self.queries})"

    def targets_of(self, scene: AttackContext) -> Tensor:
        """Return the category for each item, and take starts from the catalogue, towards a category."""
        if self.targeted and scene.images_of is not None:
            (seen,) = (scene.categories == scene.category).nonzero(as_tuple=True)
            order = uniform(self.seed, seen, (1,))[:, 0].argsort(stable=True)
            self.starts = scene.images_of(seen[order[:_CANDIDATES]])
        return super().targets_of(scene)

    def answer(self, network: nn.Module, points: Tensor, targets: Tensor) -> Tensor:
        """Return what the attacker is told of images: whether the network decides as wanted, bool ``(n,)``."""
        hits = network(points).argmax(dim=1) == targets
        return hits if self.targeted else ~hits

    def search(self, oracle: Oracle, images: Tensor, targets: Tensor, keys: Tensor) -> Tensor:
        """Return the nearest success of each image, or the clean one; see :meth:`QueryAttack.search`."""
        walk = _Walk(self, oracle, images, keys)
        walk.start(self._starts(images))
        number = 1
        while walk.step(number):
            number += 1
        return walk.finish()

    def _starts(self, images: Tensor) -> Callable[[int, Tensor, Tensor], Tensor]:
        """Return what gives the start number ``0..tries - 1`` of rows ``(R,)`` with keys ``(R,)``."""
        scale = self.threat_model.scale(images)
        scale = images.new_ones(1, 3, 1, 1) if scale is None else scale
        given = torch.stack([_resized(start.to(images), images) for start in self.starts]) if self.starts else None
        order = torch.zeros_like(images[:, :, 0, 0], dtype=torch.int64)
        if given is not None:
            distances = [((images * scale) - start).flatten(1).norm(dim=1) for start in given]
            order = torch.stack(distances, dim=1).argsort(dim=1, stable=True)

        def start(attempt: int, rows: Tensor, keys: Tensor) -> Tensor:
            if given is not None and attempt < len(given):
                return given[order[rows, attempt]] / scale
            return uniform(derived_seed(self.seed, 1, attempt), keys, tuple(images.shape[1:])) / scale

        return start

    def final_images(self, images: Tensor, clean: Tensor, success: Tensor) -> Tensor:
        """Return the clean image for each that does not succeed."""
        return torch.where(per_image(success), images, clean)


def _resized(image: Tensor, like: Tensor) -> Tensor:
    """Return an image ``(3, h, w)`` in the size of others, ``(3, H, W)``."""
    size = like.shape[2:]
    if image.shape[1:] == size:
        return image
    return nn.functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)


class _Walk:
    """The way of each image of a batch along the border.

    Args:
        attack: The attack.
        oracle: Answers whether points succeed.
        clean: float32 ``(N, 3, H, W)``, coordinates.
        keys: int64 ``(N,)``.

    Attributes:
        points: float32 ``(N, 3, H, W)``, where each image has come to; it succeeds where ``active`` is set.
        active: bool ``(N,)``, who is on the way: has a start, and is none already that succeeds as it is.
    """

    def __init__(self, attack: HopSkipJump, oracle: Oracle, clean: Tensor, keys: Tensor) -> None:
        self.attack, self.oracle, self.clean, self.keys = attack, oracle, clean, keys
        self.points = clean.clone()
        self.active = torch.ones_like(keys, dtype=torch.bool)
        self._norm, self._clamp = attack.threat_model.norm, attack.threat_model.clamp
        self._size = clean[0].numel() if len(clean) else 1
        # The share of the way that a bisection may leave, so that the estimate at the border is a good one.
        tolerance = self._size ** (-1.5 if self._norm == "l2" else -2.0)
        self._bisections = math.ceil(-math.log2(tolerance))

    def start(self, starts: Callable[[int, Tensor, Tensor], Tensor]) -> None:
        """Find a point that succeeds for each image that does not itself, and go from there to the border."""
        rows = self.oracle.rows_of(self.active)
        self.active[rows] = ~self.oracle(self.clean[rows], rows)
        missing = self.active.clone()
        for attempt in range(self.attack.tries):
            rows = self.oracle.rows_of(missing)
            if not len(rows):
                break
            points = self._clamp(starts(attempt, rows, self.keys[rows]))
            succeed = self.oracle(points, rows)
            self.points[rows] = torch.where(per_image(succeed), points, self.points[rows])
            missing[rows] = ~succeed
        self.active &= ~missing
        self._bisect(self.oracle.rows_of(self.active, self._bisections))

    def _bisect(self, rows: Tensor) -> None:
        """Move points that succeed towards the clean images, to the border.

        In L2 along the straight line; in L-infinity the perturbation is cut off at a smaller and smaller size.
        """
        if not len(rows):
            return
        ends, clean = self.points[rows], self.clean[rows]
        moves = ends - clean
        longest = torch.ones_like(moves[:, 0, 0, 0]) if self._norm == "l2" else self._distance(moves)
        low, high = torch.zeros_like(longest), longest
        for _ in range(self._bisections):
            middle = (low + high) / 2
            succeed = self.oracle(self._shortened(clean, moves, middle), rows)
            low, high = torch.where(succeed, low, middle), torch.where(succeed, middle, high)
        self.points[rows] = torch.where(per_image(high == longest), ends, self._shortened(clean, moves, high))

    def _shortened(self, clean: Tensor, moves: Tensor, length: Tensor) -> Tensor:
        length = per_image(length)
        return clean + (moves * length if self._norm == "l2" else torch.minimum(moves.abs(), length) * moves.sign())

    def step(self, number: int) -> bool:
        """Take a step of every image that can pay it; return whether there was one."""
        count = round(self.attack.samples * math.sqrt(number))
        rest = _HALVINGS + self._bisections + (_OUTWARD_STEPS + 1 if self.attack.rounded else 0)
        rows = self.oracle.rows_of(self.active, count + rest)
        if not len(rows):
            return False
        before = self.points[rows]
        distance = self._distance(before - self.clean[rows])
        ways = torch.zeros_like(self.points)
        ways[rows] = self._way_out(before, distance, rows, count, number)
        lengths = torch.zeros_like(self.points[:, 0, 0, 0])
        lengths[rows] = distance / math.sqrt(number)
        waiting = torch.zeros_like(self.active)
        waiting[rows] = True
        origin = self.points.clone()
        for _ in range(_HALVINGS):
            asking = self.oracle.rows_of(waiting)
            if not len(asking):
                break
            points = self._clamp(origin[asking] + per_image(lengths[asking]) * ways[asking])
            succeed = self.oracle(points, asking)
            self.points[asking] = torch.where(per_image(succeed), points, self.points[asking])
            waiting[asking] = ~succeed
            lengths[asking] = lengths[asking] / 2
        self._bisect(rows)
        # Of the two points at the border the nearer one: a step may have led away.
        is_nearer = self._distance(self.points[rows] - self.clean[rows]) < distance
        self.points[rows] = torch.where(per_image(is_nearer), self.points[rows], before)
        return True

    def _way_out(self, points: Tensor, distance: Tensor, rows: Tensor, count: int, number: int) -> Tensor:
        """Return the direction in which the border is left, of length 1 in the norm, from ``count`` decisions."""
        if number == 1:
            radius = torch.full_like(distance, _FIRST_RADIUS)
        else:
            # The authors', but not so small that float32 would lose it.
            radius = (distance / self._size).clamp(min=math.sqrt(self._size) * _SMALLEST_MOVE)
        radius = per_image(radius)

        def make(index: int) -> Tensor:
            seed, shape = derived_seed(self.attack.seed, 2, number, index), tuple(points.shape[1:])
            is_l2 = self._norm == "l2"
            draws = normal(seed, self.keys[rows], shape) if is_l2 else 2 * uniform(seed, self.keys[rows], shape) - 1
            return self._clamp(points + radius * steepest(draws, "l2"))

        votes, moves, total = torch.zeros_like(points), torch.zeros_like(points), torch.zeros_like(distance)
        for asked, succeed in self.oracle.several(make, count, rows):
            vote, move = 2 * succeed.to(points.dtype) - 1, (asked - points) / radius
            votes += per_image(vote) * move
            moves += move
            total += vote
        mean = total / count
        # Where all decide alike there is nothing to compare with (the paper's Eq. 16 takes the mean off).
        baseline = torch.where(mean.abs() == 1, torch.zeros_like(mean), mean)
        return steepest(votes - per_image(baseline) * moves, self._norm)

    def finish(self) -> Tensor:
        """Return the points, moved to where their rounded images succeed if they shall."""
        if not self.attack.rounded:
            return self.points
        moves = self.points - self.clean
        distance = self._distance(moves).clamp(min=torch.finfo(moves.dtype).tiny)
        outward = (1 / 8 if self._norm == "l2" else 1 / 32) / 255
        missing = self.active.clone()
        found = torch.where(per_image(missing), self.clean, self.points)
        for number in range(_OUTWARD_STEPS + 1):
            rows = self.oracle.rows_of(missing)
            if not len(rows):
                break
            points = self.clean[rows] + per_image(1 + number**2 * outward / distance[rows]) * moves[rows]
            points = in_levels(points, self.attack.threat_model)
            succeed = self.oracle(points, rows)
            found[rows] = torch.where(per_image(succeed), points, found[rows])
            missing[rows] = ~succeed
        return found

    def _distance(self, moves: Tensor) -> Tensor:
        """Return lengths in the norm, ``(n,)``."""
        return torch.linalg.vector_norm(moves.flatten(1), 2 if self._norm == "l2" else math.inf, dim=1)
