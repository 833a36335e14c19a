"""Base of the attacks without gradients: they put questions to the system under attack, and count them."""

import abc
import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import Access, Attack, AttackSettings
from catwalk.attacks.threat_model import GreyLevels, Norm, ThreatModel
from catwalk.limits import check_number
from catwalk.networks.batching import ROW_MULTIPLE

Loss = Literal["margin", "ce"]

LARGEST_KEY = 2**63 - 1


class Oracle:
    """The system under attack as an attacker without gradients meets it: images go in, answers come out, and count.

    Args:
        answer: What the system says of images: maps float32 ``(n, 3, H, W)`` and int64 ``(n,)``, the rows that they
            belong to, to a tensor of n rows, each of which depends on its own image alone.
        num_images: Number N of images under attack.
        queries: Largest number of queries for each.
        batch_size: Images per forward pass.
        device: Where to count.

    Attributes:
        asked: int64 ``(N,)``, the queries that each image has cost so far.
        queries: As given.
    """

    def __init__(
        self,
        answer: Callable[[Tensor, Tensor], Tensor],
        num_images: int,
        queries: int,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self._answer = answer
        self._batch_size = batch_size
        self.queries = queries
        self.asked = torch.zeros(num_images, dtype=torch.int64, device=device)

    def rows_of(self, active: Tensor, cost: int = 1) -> Tensor:
        """Return the rows that go on asking, in the number that keeps every row's bits the same whatever its company.

        Args:
            active: bool ``(N,)``, the images that are not done.
            cost: How many queries the next step takes; whoever cannot pay it is done.

        Returns:
            int64 ``(R,)``, ascending, the last of them repeated until R is a multiple of
            :data:`~catwalk.networks.batching.ROW_MULTIPLE` or N; none if all are done.
        """
        rows = (active & (self.asked + cost <= self.queries)).nonzero()[:, 0]
        if not len(rows):
            return rows
        needed = min(-(-len(rows) // ROW_MULTIPLE) * ROW_MULTIPLE, len(active))
        return torch.cat([rows, rows[-1:].expand(needed - len(rows))])

    def __call__(self, points: Tensor, rows: Tensor) -> Tensor:
        """Ask about one point of each row.

        Args:
            points: float32 ``(R, 3, H, W)``, coordinates of images.
            rows: int64 ``(R,)``, as :meth:`rows_of` gives them.

        Returns:
            What the system answers, R rows.
        """
        self.asked[rows] = self.asked[rows] + 1  # a row that is repeated as padding has asked once
        return self._answer(points, rows)

    def several(self, make: Callable[[int], Tensor], count: int, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Ask about several points of each row, as many at a time as fit into a batch.

        Args:
            make: Returns what is asked about, float32 ``(R, 3, H, W)``, of a number in ``0..count - 1``.
            count: Number of points of each row.
            rows: int64 ``(R,)``.

        Yields:
            ``(points, answers)`` for each number, R rows each.
        """
        self.asked[rows] = self.asked[rows] + count
        # An image that is alone in its batch has the same company whatever the batch size: none but its own points.
        at_once = max(1, self._batch_size // len(rows)) if len(self.asked) > 1 else ROW_MULTIPLE
        for start in range(0, count, at_once):
            points = [make(number) for number in range(start, min(start + at_once, count))]
            answers = self._answer(torch.cat(points), rows.repeat(len(points)))
            yield from zip(points, answers.split(len(rows)), strict=True)


class QueryAttack(Attack, abc.ABC):
    """Base of attacks that see nothing of the network but what it answers, a limited number of times for each image.

    All images of a batch take their steps together, and those that are done leave it. What an image is asked about
    depends on ``seed``, its key, its pixels and the answers to it alone.

    Args:
        norm: Distance between images.
        epsilon: Budget in grey levels; None for an attack that has none.
        queries: Largest number of queries for each image, at least 1.
        targeted: Whether ``targets`` are the categories to reach (True) or the ones to leave (False).
        seed: Seed of what is drawn.
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    access: Access = "scores"
    takes_masks = False

    def __init__(
        self,
        norm: Norm,
        epsilon: GreyLevels | None,
        queries: int,
        *,
        targeted: bool,
        seed: int,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(norm, epsilon, targeted=targeted, random_start=True, seed=seed, **settings)
        check_number(queries, "queries", least=1)
        self.queries = queries

    @abc.abstractmethod
    def search(self, oracle: Oracle, images: Tensor, targets: Tensor, keys: Tensor) -> Tensor:
        """Return adversarial images of one batch, of what an oracle answers.

        Args:
            oracle: Answers, and counts.
            images: float32 ``(N, 3, H, W)``, coordinates of the clean images; not changed.
            targets: As the attack was given.
            keys: int64 ``(N,)``, from which everything random is drawn.
        """

    def answer(self, network: nn.Module, points: Tensor, targets: Tensor) -> Tensor:
        """Return what the attacker is told of images: the logits.

        Args:
            network: As in :meth:`perturb`.
            points: float32 ``(n, 3, H, W)``, coordinates of images.
            targets: Those of the images, n rows.
        """
        return network(points)

    @torch.no_grad()
    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch, and count their queries; see :meth:`Attack.perturb`."""
        if keys is None:
            keys = torch.randint(LARGEST_KEY, (len(images),), device=images.device)

        def answer(points: Tensor, rows: Tensor) -> Tensor:
            return self.answer(network, points, targets[rows])

        oracle = Oracle(answer, len(images), self.queries, self.batch_size, images.device)
        return self.search(oracle, images, targets, keys), oracle.asked

    def passes(self, iterations: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of each image: one forward a query."""
        return iterations, torch.zeros_like(iterations)


def margins(logits: Tensor, targets: Tensor, targeted: bool) -> Tensor:
    """Return by how much logits miss what is wanted, ``(N,)``: below 0 it has come true, at 0 there is a tie.

    Args:
        logits: float ``(N, C)``.
        targets: int64 ``(N,)``, the categories to reach or to leave.
        targeted: Which of the two.
    """
    wanted = logits.gather(1, targets[:, None])[:, 0]
    other = logits.scatter(1, targets[:, None], -math.inf).amax(dim=1)
    return other - wanted if targeted else wanted - other


def losses(logits: Tensor, targets: Tensor, targeted: bool, loss: Loss) -> Tensor:
    """Return what is to be lowered, ``(N,)``: the margin (see :func:`margins`), or the cross-entropy or its negative.

    Args:
        logits: float ``(N, C)``.
        targets: int64 ``(N,)``, the categories to reach or to leave.
        targeted: Which of the two.
        loss: ``"margin"`` or ``"ce"``.
    """
    if loss == "margin":
        return margins(logits, targets, targeted)
    entropy = F.cross_entropy(logits, targets, reduction="none")
    return entropy if targeted else -entropy


def per_image(values: Tensor) -> Tensor:
    """Return ``(N,)`` as ``(N, 1, 1, 1)``, for images."""
    return values[:, None, None, None]


def in_levels(points: Tensor, threat_model: ThreatModel) -> Tensor:
    """Return coordinates ``(N, 3, H, W)`` of the 8-bit images that points become, clipped to those of [0, 1].

    Where the threat model truncates instead of rounding, the points themselves, clipped.
    """
    scale = threat_model.scale(points)
    images = (points if scale is None else points * scale).clamp(0, 1)
    if threat_model.quantisation != "truncate":
        images = (images * 255).round() / 255
    return images if scale is None else images / scale
