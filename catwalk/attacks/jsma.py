"""The Jacobian-based saliency map attack."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import Unpack

from catwalk.attacks.attack import Attack, AttackSettings
from catwalk.attacks.threat_model import Distance, GreyLevels, grey_levels
from catwalk.errors import CatwalkError
from catwalk.limits import check_choice, check_count
from catwalk.networks.batching import ROW_MULTIPLE

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Numbers = NDArray[np.int64]

Direction = Literal["both", "up", "down"]

_CHUNK = 1024
"""Rows of a table of pairs that are looked at together: bounds memory."""

_AT_BORDER = 1e-6
"""Within so little of 0 or 1 a value cannot be moved there."""


class JSMA(Attack):
    """Moves a pair of values at a time, those by which the wanted logit rises and all others fall most.

    With ``α_p = ∂z_t/∂x_p`` and ``β_p = Σ_{j≠t} ∂z_j/∂x_p`` the saliency of two moves is ``-(α_p + α_q)·(β_p + β_q)``
    where the first sum is above 0 and the second below it, and 0 elsewhere; of one move it is ``-α_p·β_p`` likewise.
    The moves of the largest saliency are made, each by ``theta`` and no further than 0 or 1, until the network sees
    the target, no move has a saliency, or none fits the budget (Papernot et al., "The Limitations of Deep Learning in
    Adversarial Settings", EuroS&P 2016, algorithms 1 to 3, on logits as there). Away from a category y, α is the sum
    of the others' derivatives and β that of ``z_y`` (Wiyatno and Xu, "Maximal Jacobian-based Saliency Map Attack",
    2018).

    The paper moves all values up or all down. Here a value may go either way, as ``direction`` says, but not back. The
    budget counts pixels: a pixel is used up with the first of its three values that moves, and the other two are free
    then. The best of all pairs is found without trying them all: neither of its moves can be one to which two others
    are superior in both α and -β.

    An iteration is a Jacobian: a forward and two backward passes.

    Args:
        pixels: Largest number of pixels that may change, at least 0.
        theta: How far a move goes in grey levels, above 0; ``"255/255"`` are 255.
        pairs: Whether two values move at a time, as in the paper, or one.
        direction: Whether values go ``"up"``, ``"down"`` or ``"both"`` ways.
        targeted: Whether ``targets`` are the categories to reach (True) or to leave (False).
        **settings: As in :class:`Attack`.

    Raises:
        CatwalkError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from catwalk.attacks import JSMA
        >>> from catwalk.networks.building import build_network
        >>> network = build_network("catwalk.networks.compact_cnn", {"width": 8}, num_classes=6)
        >>> images, targets = torch.full((2, 3, 32, 32), 0.5), torch.tensor([0, 3])
        >>> result = JSMA(pixels=10)(network, images, targets)
        >>> bool(((result.images != images).any(dim=1).sum(dim=(1, 2)) <= 10).all())
        True
    """

    norms: tuple[Distance, ...] = ("l0",)

    def __init__(
        self,
        pixels: int = 20,
        theta: GreyLevels = 255.0,
        pairs: bool = True,
        direction: Direction = "both",
        targeted: bool = True,
        **settings: Unpack[AttackSettings],
    ) -> None:
        check_count(pixels, "pixels", least=0)
        theta = grey_levels(theta, "theta")
        if not 0 < theta <= 255:
            raise CatwalkError(f"theta: must be a number of grey levels above 0 and at most 255, got {theta!r}")
        check_choice(direction, "direction", Direction)
        super().__init__("l0", float(pixels), targeted=targeted, **settings)
        self.theta = theta
        self.pairs = pairs
        self.direction: Direction = direction

    def perturb(
        self, network: nn.Module, images: Tensor, targets: Tensor, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Craft adversarial images for one batch; see :meth:`Attack.perturb`. ``keys`` are not used."""
        scale, region = self.threat_model.scale(images), self.threat_model.free(images)
        highest = torch.ones_like(images[:1]) if scale is None else (1 / scale).expand_as(images[:1])
        allowed = torch.ones_like(images[:, :1], dtype=torch.bool) if region is None else region
        allowed = allowed.flatten(1).repeat(1, 3)
        outcome, iterations = images.clone(), torch.zeros_like(targets)
        rows = torch.arange(len(images), device=images.device)
        # Moves are numbered: all values up, in their order, then all down.
        gone = torch.zeros(len(images), 2, images[0].numel(), dtype=torch.bool, device=images.device)
        is_open = torch.ones_like(rows, dtype=torch.bool)
        while True:
            current = outcome[rows]
            seen, rises, falls = self._derivatives(network, current, targets[rows], highest)
            iterations[rows[is_open]] += 1
            is_open = is_open & ((seen == targets[rows]) != self.targeted)
            shares = (current / highest).flatten(1)
            may_move = torch.stack([shares < 1 - _AT_BORDER, shares > _AT_BORDER], dim=1) & ~gone[rows].flip(1)
            if self.direction != "both":
                may_move[:, 1 if self.direction == "up" else 0] = False
            may_move &= (allowed[rows] & is_open[:, None])[:, None]
            touched = (current != images[rows]).any(dim=1).flatten(1)
            moves = self._moves(rises, falls, may_move, touched)
            is_open = is_open & moves.flatten(1).any(dim=1)
            if not bool(is_open.any()):
                return outcome, iterations
            gone[rows] |= moves
            signs = moves[:, 0].to(shares) - moves[:, 1].to(shares)
            moved = (shares + signs * self.theta / 255).clamp(0, 1)
            if self.theta == int(self.theta):  # 8-bit images stay 8-bit
                moved = (moved * 255).round() / 255
            outcome[rows] = torch.where((signs != 0).view_as(current), moved.view_as(current) * highest, current)
            # What is done goes along until a whole multiple of rows can leave.
            needed = -(-int(is_open.sum()) // ROW_MULTIPLE) * ROW_MULTIPLE
            if needed < len(rows):
                kept = (~is_open).long().argsort(stable=True)[:needed]
                rows, is_open = rows[kept], is_open[kept]

    def _derivatives(
        self, network: nn.Module, images: Tensor, targets: Tensor, highest: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the network sees, and the derivatives of what is to rise and of minus what is to fall."""
        points = images.detach().requires_grad_()
        logits = network(points)
        own = logits.gather(1, targets[:, None]).sum()
        (of_own,) = torch.autograd.grad(own, points, retain_graph=True)
        (of_all,) = torch.autograd.grad(logits.sum(), points)
        of_own, of_others = of_own * highest, (of_all - of_own) * highest
        seen = logits.detach().argmax(dim=1)
        return (seen, of_own, -of_others) if self.targeted else (seen, of_others, -of_own)

    def _moves(self, rises: Tensor, falls: Tensor, may_move: Tensor, touched: Tensor) -> Tensor:
        """Return the moves of the largest saliency of each image, bool ``(n, 2, D)``; none where none has one.

        Args:
            rises: float32 ``(n, 3, H, W)``, by how much a move up of each value raises what is to rise (α).
            falls: float32 ``(n, 3, H, W)``, by how much it lowers what is to fall (-β).
            may_move: bool ``(n, 2, D)``, for D values, which moves up and down are left.
            touched: bool ``(n, H·W)``, the pixels that have changed.
        """
        chosen = np.zeros((len(touched), 2 * rises[0].numel()), bool)
        up_rises, up_falls, left, used = (
            values.flatten(1).cpu().numpy() for values in (rises, falls, may_move, touched)
        )
        for row in np.flatnonzero(left.any(axis=1)):
            its_rises = np.concatenate([up_rises[row], -up_rises[row]])
            its_falls = np.concatenate([up_falls[row], -up_falls[row]])
            free = int(self.threat_model.budget) - int(used[row].sum())
            choose = _best_pair if self.pairs else _best_move
            chosen[row, choose(its_rises, its_falls, left[row], np.tile(used[row], 6), free)] = True
        return torch.from_numpy(chosen).to(rises.device).view_as(may_move)

    def passes(self, iterations: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of each image: two gradients for each Jacobian."""
        return iterations, 2 * iterations


def _best_move(rises: Floats, falls: Floats, may_move: Bools, touched: Bools, free: int) -> Numbers:
    """Return the move of the largest saliency, ``(1,)``, or ``(0,)``; arguments as of :func:`_best_pair`."""
    fits = may_move & (touched | (free > 0)) & (rises > 0) & (falls > 0)
    saliency = np.where(fits, rises * falls, 0)
    best = int(saliency.argmax())
    return np.array([best] if saliency[best] > 0 else [], np.int64)


def _best_pair(rises: Floats, falls: Floats, may_move: Bools, touched: Bools, free: int) -> Numbers:
    """Return the two moves of the largest saliency that fit the budget, int64 ``(2,)``; nothing, ``(0,)``, if none do.

    Args:
        rises: float32 ``(M,)``, by how much each of the ``M = 6·H·W`` moves raises what is to rise (α).
        falls: float32 ``(M,)``, by how much it lowers what is to fall (-β).
        may_move: bool ``(M,)``.
        touched: bool ``(M,)``, whether its pixel has changed already.
        free: How many more pixels may change.
    """
    if free >= 2:
        candidates = hardly_inferior(rises, falls, may_move)
    else:
        candidates = hardly_inferior(rises, falls, may_move & touched)
        if free == 1:
            new = may_move & ~touched
            further = hardly_inferior(rises, falls, new), _best_within_a_pixel(rises, falls, new)
            candidates = np.unique(np.concatenate([candidates, *further]))
    best, pair = 0.0, np.zeros(0, np.int64)
    new, pixels = ~touched[candidates], candidates % (len(rises) // 6)
    for start in range(0, len(candidates), _CHUNK):
        one = slice(start, start + _CHUNK)
        both_rise = rises[candidates[one], None] + rises[candidates]
        both_fall = falls[candidates[one], None] + falls[candidates]
        costs = new[one, None].astype(int) + new - (new[one, None] & new & (pixels[one, None] == pixels))
        fits = (costs <= free) & (candidates[one, None] != candidates) & (both_rise > 0) & (both_fall > 0)
        saliency = np.where(fits, both_rise * both_fall, 0)
        row, column = np.unravel_index(saliency.argmax(), saliency.shape)
        if saliency[row, column] > best:
            best, pair = saliency[row, column], candidates[[start + row, column]]
    return pair


def hardly_inferior(rises: Floats, falls: Floats, chosen: Bools) -> Numbers:
    """Return the chosen moves that fewer than two other chosen ones equal or exceed in both respects, sorted.

    Of a pair of moves whose sums are multiplied, each is among these, or may be exchanged for one that is.

    Args:
        rises: ``(M,)``.
        falls: ``(M,)``.
        chosen: bool ``(M,)``.

    Returns:
        int64 ``(n,)`` in ``0..M-1``.
    """
    moves = np.flatnonzero(chosen)
    if len(moves) < 3:
        return moves
    moves = moves[np.lexsort((-falls[moves], -rises[moves]))]
    ordered = falls[moves]
    largest = np.concatenate([[-np.inf], np.maximum.accumulate(ordered)[:-1]])  # of those before
    second = np.concatenate([[-np.inf], np.maximum.accumulate(np.minimum(largest, ordered))[:-1]])
    return np.sort(moves[ordered > second])


def _best_within_a_pixel(rises: Floats, falls: Floats, chosen: Bools) -> Numbers:
    """Return the pair of chosen moves of one pixel with the largest saliency, int64 ``(2,)``, or nothing, ``(0,)``."""
    rises, falls, chosen = rises.reshape(6, -1), falls.reshape(6, -1), chosen.reshape(6, -1)
    first, second = np.triu_indices(6, k=1)
    both_rise, both_fall = rises[first] + rises[second], falls[first] + falls[second]
    fits = chosen[first] & chosen[second] & (both_rise > 0) & (both_fall > 0)
    saliency = np.where(fits, both_rise * both_fall, 0)
    pair, pixel = np.unravel_index(saliency.argmax(), saliency.shape)
    if not saliency[pair, pixel] > 0:
        return np.zeros(0, np.int64)
    return np.array([first[pair], second[pair]]) * rises.shape[1] + pixel
