"""Ranking the whole catalogue for every user: blocks of users and items, seen items masked, ties by item index."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from catwalk.errors import CatwalkError, DivergedError
from catwalk.networks.batching import ROW_MULTIPLE
from catwalk.shop.user_items import NO_ITEM, SeenItems, mask_value

MAX_BLOCK_BYTES = 16 * 2**20
"""Default bound on one block of float32 scores. A block of more than 32 MiB comes fresh from the system every time, and
the first touch of its pages takes as long as the matrix product that fills it."""

WHOLE_CATALOGUE = MAX_BLOCK_BYTES // (4 * ROW_MULTIPLE)
"""Items up to which a catalogue is scored at once: 262,144, of which 16 users' scores fill a block."""

ITEM_BLOCK = 2**15
"""Items of a larger catalogue that are scored at a time, at most: of all users alike, so that a score has its bits."""

GROUP_SIZE = 8
"""Number of scores that share one maximum while the highest are looked for."""


def check_scores(scores: Tensor, may_be_masked: bool = True) -> None:
    """Raise a :class:`DivergedError` if a score is NaN or infinite.

    Args:
        scores: Float, of any shape.
        may_be_masked: Whether :func:`mask_value` may be among them.
    """
    if not scores.numel():
        return
    low, high = scores.detach().aminmax()
    mask = mask_value(scores.dtype)
    if not ((low >= mask if may_be_masked else low > mask) and high < torch.inf):
        # Both are NaN where one score is.
        raise not_finite(high if high.isnan() or high == torch.inf else low)


def not_finite(score: Tensor | float) -> DivergedError:
    """Return the error for a score that is NaN, infinite, or too low for the scores' type."""
    value = float(score)
    what = "NaN" if math.isnan(value) else f"{value:.6g}" if math.isfinite(value) else f"infinite ({value})"
    return DivergedError(f"a score is {what}, and scores must be finite numbers")


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return each row's ``k`` highest scores: descending, equal scores by ascending item index, on every device.

    ``torch.topk`` leaves open which of several equal scores it returns, and in what order. What it finds is kept for
    the rows whose ``k + 1`` highest scores all differ. Where the tie is inside the list, the list is put in order;
    where it goes over the end of the list, a second ``topk`` finds the smallest indices among the equals.

    Args:
        scores: Finite ``(B, N)``; :func:`mask_value` marks an item that is no candidate.
        k: Length of the lists, ``1..N``.

    Returns:
        ``(items, scores)``, int64 and float, both ``(B, k)``. A row with fewer than ``k`` candidates ends in item
        ``-1`` with score minus infinity.

    Raises:
        CatwalkError: If ``k`` is less than 1 or larger than the catalogue.
        DivergedError: If a score that takes part is NaN or infinite.
        ValueError: If ``scores`` is not a matrix of floats.

    Example:
        >>> import torch
        >>> from catwalk.recommenders.ranking import mask_value, top_k
        >>> seen = mask_value(torch.float32)
        >>> items, scores = top_k(torch.tensor([[0.5, 0.9, 0.5, 0.5], [seen, 0.1, seen, seen]]), k=2)
        >>> items
        tensor([[ 1,  0],
                [ 1, -1]])
    """
    if scores.ndim != 2 or not scores.is_floating_point():
        raise ValueError(f"scores must be a (B, N) tensor of floats, got {tuple(scores.shape)} of {scores.dtype}")
    num_items = scores.shape[1]
    check_list_length(k, num_items)
    scores = scores.detach()
    values, items = _highest(scores, min(k + 1, num_items))
    mask = mask_value(scores.dtype)
    # topk takes NaN for the greatest value, so one that is anywhere in a row is the row's first
    if not (values[:, 0] < torch.inf).all():
        check_scores(values)
    # Minus infinity is below the mask: it can be anywhere in a row whose list is short.
    is_short = values[:, k - 1] <= mask
    if is_short.any():
        check_scores(scores[is_short])
    if k < num_items:
        over_the_end = ((values[:, k - 1] == values[:, k]) & (values[:, k] > mask)).nonzero().squeeze(1)
        values, items = values[:, :k].contiguous(), items[:, :k].contiguous()
        if len(over_the_end):
            rows = scores[over_the_end]
            items[over_the_end] = _choose_among_equals(rows, values[over_the_end], items[over_the_end])
            values[over_the_end] = rows.gather(1, items[over_the_end])
    ties = ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > mask)).any(dim=1).nonzero().squeeze(1)
    if len(ties):
        values[ties], items[ties] = _order_equals(values[ties], items[ties])
    is_filler = values == mask
    return items.masked_fill_(is_filler, NO_ITEM), values.masked_fill_(is_filler, -torch.inf)


def _highest(scores: Tensor, k: int, in_order: bool = True) -> tuple[Tensor, Tensor]:
    """Return what ``scores.topk(k, dim=1, sorted=in_order)`` does, faster where rows are long on a CPU.

    The columns are put in groups, and only the ``k`` groups with the greatest maxima are looked into. A score of
    another group is no higher than any of these ``k`` maxima, so it is not needed. Which of several equal scores are
    returned is left open, as ``topk`` leaves it.
    """
    num_items = scores.shape[1]
    if num_items < 2 * GROUP_SIZE * k:
        return scores.topk(k, dim=1, sorted=in_order)
    num_groups = num_items // GROUP_SIZE
    grouped = num_groups * GROUP_SIZE
    # A group takes every num_groups-th column: the maxima of columns side by side are taken together.
    maxima = scores[:, :grouped].unflatten(1, (GROUP_SIZE, num_groups)).amax(dim=1)
    groups = _highest(maxima, k, in_order=False)[1]
    columns = torch.arange(num_items, device=scores.device)
    members = (groups[:, None] + columns[:grouped:num_groups, None]).flatten(1)
    items = torch.cat([members, columns[grouped:].expand(len(scores), -1)], dim=1)
    values, places = scores.gather(1, items).topk(k, dim=1, sorted=in_order)
    return values, items.gather(1, places)


def _choose_among_equals(scores: Tensor, values: Tensor, items: Tensor) -> Tensor:
    """Replace those of the ``k`` chosen items that score as the last one does by the first items of that score."""
    k, num_items = items.shape[1], scores.shape[1]
    last = values[:, -1:]
    countdown = torch.arange(num_items, 0, -1, dtype=torch.int32, device=scores.device)
    equals = num_items - torch.where(scores == last, countdown, 0).topk(k, dim=1).values.long()  # ascending
    place = torch.arange(k, device=scores.device) - (values > last).sum(dim=1, keepdim=True)
    return torch.where(place < 0, items, equals.gather(1, place.clamp(min=0)))


def _order_equals(values: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Sort by descending value, equal values by ascending item."""
    items, order = items.sort(dim=1)
    values = values.gather(1, order)
    order = (values + 0.0).argsort(dim=1, descending=True, stable=True)  # -0.0 + 0.0 is 0.0: no sort tells them apart
    return values.gather(1, order), items.gather(1, order)


def check_list_length(k: int, num_items: int) -> None:
    """Raise a :class:`CatwalkError` unless lists of ``k`` items can be had from a catalogue of ``num_items``."""
    if k < 1:
        raise CatwalkError(f"k = {k} is not a list length; it must be at least 1")
    if k > num_items:
        raise CatwalkError(f"k = {k} is larger than the catalogue ({num_items} items)")


def user_blocks(
    users: Tensor, num_items: int, rank: int = 0, world_size: int = 1, max_bytes: int = MAX_BLOCK_BYTES
) -> Iterator[Tensor]:
    """Cut users into blocks whose scores fit in ``max_bytes``, and yield this process's share of the blocks.

    The cuts do not depend on ``world_size``: processes take whole blocks in turn, so that every matrix product, and
    with it every bit, is that of a single process. Some processes may get a block more than others, or none.

    A block has a multiple of 16 rows, and at least 16 whatever ``max_bytes``; the last one may be shorter. Score
    blocks through :func:`score_users`, which pads it, where results must be equal across ``max_bytes`` as well.

    Args:
        users: int64 ``(U,)``.
        num_items: Size of the catalogue.
        rank: This process, ``0..world_size - 1``.
        world_size: Number of processes.
        max_bytes: Bound on one block of float32 scores.

    Yields:
        int64 ``(B,)``, consecutive entries of ``users``.

    Raises:
        ValueError: If ``rank`` is not in ``0..world_size - 1``.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in 0..{world_size - 1}, got {rank}")
    rows = max(max_bytes // (4 * num_items * ROW_MULTIPLE), 1) * ROW_MULTIPLE
    yield from users.split(rows)[rank::world_size] if len(users) else ()


def block_width(num_items: int) -> int:
    """Return how many items of a catalogue are scored at a time: all, or at most :data:`ITEM_BLOCK` of a large one.

    The blocks are equally wide but for the last one, and multiples of 16 before it: a product of few columns, or one
    whose columns begin elsewhere, rounds otherwise.
    """
    if num_items <= WHOLE_CATALOGUE:
        return num_items
    number = -(-num_items // ITEM_BLOCK)
    return -(-num_items // (number * ROW_MULTIPLE)) * ROW_MULTIPLE


def item_blocks(num_items: int) -> list[slice]:
    """Cut a catalogue into the blocks of items that are scored at a time, in order; see :func:`block_width`."""
    width = max(block_width(num_items), 1)
    return [slice(first, min(first + width, num_items)) for first in range(0, num_items, width)]


def score_users(
    score: Callable[[Tensor], Tensor], users: Tensor, seen: SeenItems, block: slice | None = None
) -> Tensor:
    """Score items side by side for one block of users, with what the users have seen at :func:`mask_value`.

    The block is padded to a multiple of 16 rows while it is scored, so that a user's scores have the same bits in
    every block.

    Args:
        score: Takes user indices ``(B,)``, returns float scores ``(B, W)`` in memory of their own: they are masked in
            place, for a copy would cost as much as the product.
        users: int64 ``(B,)``, at least one.
        seen: What to mask, on the device of the scores.
        block: The W items that are scored; the whole catalogue where None.

    Returns:
        Float ``(B, W)``, to be handed to :func:`top_k` and to metrics that need every score.

    Raises:
        DivergedError: If a score is NaN or infinite, of an item that the user has seen, too.
        ValueError: If there are no users, or ``score`` returns another shape.
    """
    if not len(users):
        raise ValueError("score_users needs at least one user")
    padding = users[-1:].expand(-len(users) % ROW_MULTIPLE)
    scores = score(torch.cat([users, padding]))[: len(users)]
    check_scores(scores, may_be_masked=False)
    return seen.mask_(scores, users, block)
