"""A random search for few pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import Attack, AttackSettings
from catwalk.attacks.threat_model import Distance
from catwalk.errors import CatwalkError
from catwalk.keyed_random import derived_seed, uniform
from catwalk.limits import check_count
from catwalk.networks.batching import ROW_MULTIPLE

_DIVISORS = ((50, 2), (200, 4), (500, 5), (1000, 6), (2000, 8), (4000, 10), (6000, 12), (8000, 15), (10000, 20))
"""Up to which of 10,000 queries the share of pixels that are exchanged is divided by what."""


class SparseRS(Attack):
    """Looks for k pixels, by exchanging some of them at random and keeping what lowers the loss.

    It begins with k random pixels of random colours, each channel 0 or 1. At step i of n it takes ``max(1, ⌊αᵢ·k⌋)`` of
    them back and puts as many others in their place, again of random colours, and keeps the new image if its loss is
    lower (Croce et al., "Sparse-RS: A Versatile Framework for Query-Efficient Sparse Black-Box Adversarial Attacks",
    AAAI 2022, section 4 on L0). ``αᵢ`` falls from ``alpha`` by steps to a twentieth of it, as in the paper for
    n = 10,000 and stretched for other n. The loss is the cross-entropy of the target, and away
    from a category y it is the margin ``z_y - max_{j≠y} z_j``. It asks for logits alone and no gradient.

    An image is done with the first query that succeeds. Where fewer than k places may change, all of them do.

    Args:
        pixels: Number k of pixels that may change, at least 0.
        queries: Largest number n of forward passes for an image, at least 1.
        alpha: Share of the pixels that are exchanged at first, above 0 and at most 1.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        seed: Seed of the search, which depends on it and on the item's key alone.
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from catwalk.attacks import SparseRS
        >>> from catwalk.networks.building import build_network
        >>> network = build_network("catwalk.networks.compact_cnn", {"width": 8}, num_classes=6)
        >>> images, targets, keys = torch.full((2, 3, 32, 32), 0.5), torch.tensor([0, 3]), torch.arange(2)
        >>> result = SparseRS(pixels=10, queries=20)(network, images, targets, keys=keys)
        >>> (result.images != images).any(dim=1).sum(dim=(1, 2)).tolist()
        [10, 10]
    """

    access = "scores"
    norms: tuple[Distance, ...] = ("l0",)

    def __init__(
        self,
        pixels: int = 20,
        queries: int = 1000,
        alpha: float = 0.3,
        targeted: bool = True,
        seed: int = 0,
        **settings: Unpack[AttackSettings],
    ) -> None:
        check_count(pixels, "pixels", least=0)
        check_count(queries, "queries")
        if not 0 < alpha <= 1:
            raise CatwalkError(f"alpha: must be a share of the pixels above 0 and at most 1, got {alpha!r}")
        super().__init__("l0", float(pixels), targeted=targeted, random_start=True, seed=seed, **settings)
        self.queries = queries
        self.alpha = alpha

    @property
    def title(self) -> str:
        """``"Sparse-RS"``."""
        return "Sparse-RS"

    @torch.no_grad()
    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch; see :meth:`Attack.perturb`."""
        scale, region = self.threat_model.scale(images), self.threat_model.free(images)
        highest = images.new_ones(3, 1) if scale is None else 1 / scale.view(3, 1)
        allowed = torch.ones_like(images[:, 0], dtype=torch.bool) if region is None else region[:, 0]
        allowed, clean = allowed.flatten(1), images.flatten(2)
        counts = allowed.sum(dim=1).clamp(max=int(self.threat_model.budget))
        outcome, iterations = clean.clone(), torch.zeros_like(targets)
        rows = torch.arange(len(images), device=images.device)
        draws = self._draws(0, keys, rows, allowed.shape[1])
        chosen = _least(draws[:, 0], allowed, counts)
        colours = _colours(draws[:, 1]) * highest
        losses, hits = self._ask(network, _painted(clean, chosen, colours), images, targets)
        asked = 1
        while True:
            done = hits | (asked >= self.queries)
            outcome[rows] = _painted(clean[rows], chosen, colours)
            # What is done stays as it is, and goes along until a whole multiple of rows can leave.
            iterations[rows[(iterations[rows] == 0) & done]] = asked
            is_open = iterations[rows] == 0
            if not bool(is_open.any()):
                return outcome.view_as(images), iterations
            needed = -(-int(is_open.sum()) // ROW_MULTIPLE) * ROW_MULTIPLE
            if needed < len(rows):
                kept = (~is_open).long().argsort(stable=True)[:needed]
                rows, chosen, colours, losses, is_open = (
                    values[kept] for values in (rows, chosen, colours, losses, is_open)
                )
            draws = self._draws(asked, keys, rows, allowed.shape[1])
            new_chosen, painted = self._exchanged(draws[:, 0], chosen, allowed[rows], counts[rows], asked)
            new_colours = torch.where(painted[:, None], _colours(draws[:, 1]) * highest, colours)
            shown = _painted(clean[rows], new_chosen, new_colours)
            new_losses, new_hits = self._ask(network, shown, images[rows], targets[rows])
            asked += 1
            is_kept = is_open & ((new_losses < losses) | new_hits)
            chosen = torch.where(is_kept[:, None], new_chosen, chosen)
            colours = torch.where(is_kept[:, None, None], new_colours, colours)
            losses, hits = torch.where(is_kept, new_losses, losses), new_hits & is_kept

    def _draws(self, step: int, keys: Tensor | None, rows: Tensor, places: int) -> Tensor:
        """Return two uniform numbers for each place of an image, ``(n, 2, places)``."""
        if keys is None:
            return torch.rand(len(rows), 2, places, device=rows.device)
        return uniform(derived_seed(self.seed, step), keys[rows], (2, places))

    def _exchanged(
        self, draws: Tensor, chosen: Tensor, allowed: Tensor, counts: Tensor, asked: int
    ) -> tuple[Tensor, Tensor]:
        """Return which places are chosen after an exchange, and which of them get a new colour."""
        number = (share_exchanged(asked, self.queries, self.alpha) * counts).long().clamp(min=1).minimum(counts)
        leaving = _least(draws, chosen, number)
        others = allowed & ~chosen
        # Where too few places are free, those that leave come back in another colour.
        is_full = others.sum(dim=1) < number
        coming = torch.where(is_full[:, None], leaving, _least(draws, others, number))
        return (chosen & ~leaving) | coming, coming

    def _ask(self, network: nn.Module, points: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of each image, and whether the attack succeeds, by one query each."""
        logits = network(points.reshape(images.shape)).float()
        hits = logits.argmax(dim=1) == targets
        if self.targeted:
            return F.cross_entropy(logits, targets, reduction="none"), hits
        index = targets[:, None]
        others = logits.scatter(1, index, -torch.inf).amax(dim=1)
        return logits.gather(1, index)[:, 0] - others, ~hits

    def passes(self, iterations: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of each image: a forward pass for a query, and none back."""
        return iterations, torch.zeros_like(iterations)


def share_exchanged(asked: int, queries: int, alpha: float) -> float:
    """Return the share αᵢ of the pixels that are exchanged after so many queries of all.

    Args:
        asked: Queries so far, at least 1.
        queries: Queries of all.
        alpha: The share at first.
    """
    place = asked * 10000 // queries
    return alpha / next((divisor for last, divisor in _DIVISORS if place <= last), 20) if place > 0 else alpha


def _least(draws: Tensor, among: Tensor, counts: Tensor) -> Tensor:
    """Return the places of the least draws among some, so many of each row, bool ``(n, places)``."""
    ranks = torch.where(among, draws, 2.0).argsort(dim=1, stable=True).argsort(dim=1)
    return (ranks < counts[:, None]) & among


def _colours(draws: Tensor) -> Tensor:
    """Return one of the eight corners of the colours for each uniform number, float32 ``(n, 3, places)`` of 0 and 1."""
    corners = (draws * 8).long()
    return torch.stack([corners >> bit & 1 for bit in range(3)], dim=1).to(draws.dtype)


def _painted(clean: Tensor, chosen: Tensor, colours: Tensor) -> Tensor:
    """Return images ``(n, 3, places)`` with the colours in the places that are chosen."""
    return torch.where(chosen[:, None], colours, clean)
