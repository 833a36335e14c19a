"""Square: random search by squares that change whole patches of an image at once."""

import math

import torch
from torch import Tensor
from typing_extensions import Unpack

from catwalk.attacks.attack import AttackSettings
from catwalk.attacks.queries import Loss, Oracle, QueryAttack, losses, margins, per_image
from catwalk.attacks.threat_model import GreyLevels, Norm, grey_levels
from catwalk.errors import CatwalkError
from catwalk.keyed_random import derived_seed, uniform
from catwalk.limits import check_choice

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10,000, after which the share of the pixels that a square takes is halved."""

_TILES = 5
"""Tiles along the shorter side of the image in the start in L2."""


class Square(QueryAttack):
    """Random search that recolours one square of the image at a time, and keeps what brings it further.

    It asks for the scores of all categories, once a step. In L-infinity it starts from vertical stripes of ±ε, one
    pixel wide, with a sign for each column and channel, and tries a square in which each channel is changed by +ε or
    -ε; so that almost every value stays at the border of the ball. In L2 it starts from tiles of two bumps of opposite
    signs, and tries to move length from one window into another, to which it adds such a tile. The side of a
    square is the root of the share p of the pixels, which starts at ``p_init`` and is halved after 10, 50, 200, 500,
    1000, 2000, 4000, 6000 and 8000 of 10,000 queries; with another number of queries these are in proportion.
    Whatever lowers the loss is kept, and an image that succeeds stops asking (Andriushchenko et al., "Square Attack: a
    query-efficient black-box adversarial attack via random search", ECCV 2020, algorithms 1, 2 and 3).

    Args:
        epsilon: Radius of the ball in grey levels, at least 0; ``"8/255"`` are 8.
        norm: Distance that ``epsilon`` bounds, ``"linf"`` or ``"l2"``.
        queries: Largest number of queries for each image, at least 1.
        p_init: Share of the pixels that the first squares take, above 0 and at most 1. The paper has 0.05 in L-infinity
            and 0.1 in L2 for ImageNet, AutoAttack 0.8.
        loss: What is lowered: ``"margin"``, by how much the wanted category is behind, or ``"ce"``, the cross-entropy,
            which the paper has towards a category.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        seed: Seed of the squares.
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from catwalk.attacks import Square
        >>> from catwalk.networks.building import build_network
        >>> network = build_network("catwalk.networks.compact_cnn", {"width": 8}, num_classes=6)
        >>> images, targets, keys = torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64), torch.arange(4)
        >>> attack = Square(epsilon=8, queries=20)
        >>> result = attack(network, images, targets, keys=keys)
        >>> attack.threat_model.verify(result.images, images)  # raises if one has left the ball
        >>> bool((result.iterations <= 20).all())  # what was asked about each image
        True
    """

    asks_about_clean = False
    """Whether the first query is about the clean image, so that no image becomes worse than that."""

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        norm: Norm = "linf",
        queries: int = 5000,
        p_init: float = 0.8,
        loss: Loss = "margin",
        targeted: bool = True,
        seed: int = 0,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(norm, grey_levels(epsilon), queries, targeted=targeted, seed=seed, **settings)
        if not 0 < p_init <= 1:
            raise CatwalkError(f"p_init: must be a share above 0 and at most 1, got {p_init!r}")
        check_choice(loss, "loss", Loss)
        self.p_init = p_init
        self.loss: Loss = loss

    def search(self, oracle: Oracle, images: Tensor, targets: Tensor, keys: Tensor) -> Tensor:
        """Return the best point met of each image; see :meth:`QueryAttack.search`."""
        start, propose = (_stripes, _propose_linf) if self.threat_model.norm == "linf" else (_tiles, _propose_l2)
        radius = self.threat_model.budget / 255
        first = self.threat_model.project(start(images, radius, self.seed, keys), images)
        best = images.clone() if self.asks_about_clean else first.clone()
        rows = oracle.rows_of(torch.ones_like(keys, dtype=torch.bool))
        least, succeeds = self.judge(oracle(best[rows], rows), targets[rows])
        for step in range(1, self.queries):
            rows = oracle.rows_of(~succeeds)
            if not len(rows):
                break
            current, clean = best[rows], images[rows]
            side = self.side(step, images.shape)
            if step == 1 and self.asks_about_clean:
                points = first[rows]
            else:
                changed = propose(current, clean, side, radius, derived_seed(self.seed, step), keys[rows])
                points = self.threat_model.project(changed, clean)
            values, are_done = self.judge(oracle(points, rows), targets[rows])
            is_better = self.improves(values, least[rows]) | are_done
            best[rows] = torch.where(per_image(is_better), points, current)
            least[rows] = torch.where(is_better, values, least[rows])
            succeeds[rows] = are_done
        return best

    def judge(self, answers: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is lowered, float ``(n,)``, and which images are done, bool ``(n,)``.

        Args:
            answers: What the system said of n images.
            targets: Theirs.
        """
        return losses(answers, targets, self.targeted, self.loss), margins(answers, targets, self.targeted) < 0

    def improves(self, values: Tensor, least: Tensor) -> Tensor:
        """Return which values of what is lowered are worth a move from the least so far, bool ``(n,)``."""
        return values < least

    def side(self, step: int, shape: torch.Size) -> int:
        """Return the side of the squares of a step in pixels.

        Args:
            step: 1 for the first square.
            shape: Of the images, ``(N, 3, H, W)``.
        """
        height, width = shape[2:]
        progress = step * 10_000 // self.queries
        share = self.p_init / 2 ** sum(progress > limit for limit in _HALVINGS)
        side = round(math.sqrt(share * height * width))
        if self.threat_model.norm == "l2":
            side = max(side, 3) | 1  # two bumps need three pixels, and an odd number has a middle
        return min(max(side, 1), height, width)


def _signs(draws: Tensor) -> Tensor:
    """Return ±1, float32, for uniform numbers in [0, 1)."""
    return (draws >= 0.5).to(draws.dtype) * 2 - 1


def _places(draws: Tensor, count: int) -> Tensor:
    """Return whole numbers in ``0..count - 1`` for uniform numbers in [0, 1)."""
    return (draws * count).to(torch.int64).clamp_(max=count - 1)


def _stripes(images: Tensor, radius: float, seed: int, keys: Tensor) -> Tensor:
    """Return the images with vertical stripes of ±``radius``."""
    channels, _, width = images.shape[1:]
    return images + radius * _signs(uniform(derived_seed(seed, 0), keys, (channels, 1, width)))


def _propose_linf(current: Tensor, clean: Tensor, side: int, radius: float, seed: int, keys: Tensor) -> Tensor:
    """Return the images with another ±``radius`` from the clean ones in a square of each."""
    channels = current.shape[1]
    draws = uniform(seed, keys, (2 + channels,))
    square = _window(current, draws[:, 0], draws[:, 1], side)
    return torch.where(square, clean + radius * _signs(draws[:, 2:])[:, :, None, None], current)


def _window(images: Tensor, down: Tensor, across: Tensor, side: int) -> Tensor:
    """Return a square of each image as a mask, bool ``(N, 1, H, W)``, at a place that uniform numbers ``(N,)`` say."""
    height, width = images.shape[2:]
    top, left = _places(down, height - side + 1), _places(across, width - side + 1)
    rows = torch.arange(height, device=images.device) - top[:, None]
    columns = torch.arange(width, device=images.device) - left[:, None]
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    return inside[:, None]


def _tiles(images: Tensor, radius: float, seed: int, keys: Tensor) -> Tensor:
    """Return the images with tiles of bumps of random signs, of length ``radius`` in all."""
    channels, height, width = images.shape[1:]
    side = max(min(height, width) // _TILES, 1)
    down, across = height // side, width // side
    draws = uniform(derived_seed(seed, 0), keys, (channels + 1, down, across))
    signs = _signs(draws[:, :channels]).repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)
    turned = (draws[:, channels:] < 0.5).repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)
    bumps = _bumps(side, images).repeat(down, across)
    turned_bumps = _bumps(side, images).T.repeat(down, across)
    tiles = signs * torch.where(turned, turned_bumps, bumps)
    perturbation = torch.zeros_like(images)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    perturbation[:, :, top : top + down * side, left : left + across * side] = tiles
    return images + radius * perturbation / _length(perturbation)


def _propose_l2(current: Tensor, clean: Tensor, side: int, radius: float, seed: int, keys: Tensor) -> Tensor:
    """Return the images with the length of one window's perturbation moved into another window, reshaped.

    What is left of the budget, and the length of both windows, goes into the first, in which a tile of bumps is added
    to the perturbation that stood there; the second is cleared.
    """
    number, channels = current.shape[:2]
    draws = uniform(seed, keys, (5 + channels,))
    perturbation = current - clean
    to_fill, to_clear = (_window(current, draws[:, place], draws[:, place + 1], side) for place in (0, 2))
    # A tile in the place of the first window.
    bumps = _bumps(side, current)
    tiles = torch.where(per_image(draws[:, 4] < 0.5)[:, 0], bumps.T, bumps)[:, None]
    tiles = tiles * _signs(draws[:, 5:])[:, :, None, None]
    added = torch.zeros_like(current).masked_scatter(to_fill.expand_as(current), tiles.expand(number, channels, -1, -1))
    old = perturbation * to_fill
    added = added + old / (torch.linalg.vector_norm(old, dim=(2, 3), keepdim=True) + 1e-10)
    # Each channel has the length that both windows held of it, and a share of what the budget has left.
    both = torch.linalg.vector_norm(perturbation * (to_fill | to_clear), dim=(2, 3), keepdim=True)
    left = (radius**2 - _length(perturbation).square()).clamp(min=0) / channels
    lengths = torch.linalg.vector_norm(added, dim=(2, 3), keepdim=True).clamp(min=torch.finfo(added.dtype).tiny)
    added = added / lengths * (left + both.square()).sqrt()
    moved = torch.where(to_fill, added, perturbation.masked_fill(to_clear, 0))
    return clean + radius * moved / _length(moved)


def _length(perturbation: Tensor) -> Tensor:
    """Return Euclidean lengths ``(N, 1, 1, 1)``, above 0 so that one can divide by them."""
    lengths = torch.linalg.vector_norm(perturbation, dim=(1, 2, 3), keepdim=True)
    return lengths.clamp(min=torch.finfo(perturbation.dtype).tiny)


def _bumps(side: int, like: Tensor) -> Tensor:
    """Return two bumps of opposite signs, one above the other, of length 1 together, ``(side, side)``.

    A bump is the sum of centred rectangles, ``Σ_i 1/(i + 1)²`` of those that reach a value: the paper's η.
    """
    upper = _bump(side // 2, side)
    both = torch.cat([upper, -_bump(side - side // 2, side)])
    return (both / torch.linalg.vector_norm(both)).to(like)


def _bump(height: int, width: int) -> Tensor:
    """Return a bump, float64 ``(height, width)``, of length 1; nothing of no height."""
    bump = torch.zeros(height, width, dtype=torch.float64)
    top, left = height // 2, width // 2
    for number in range(max(height, width) // 2 + 1):
        size = 2 * number + 1
        bump[max(top - number, 0) : top - number + size, max(left - number, 0) : left - number + size] += (
            1 / (number + 1) ** 2
        )
    length = torch.linalg.vector_norm(bump)
    return bump / length if length > 0 else bump
