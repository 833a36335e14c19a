"""Ranking a catalogue of any size: its items are scored a block at a time, and the blocks do not show in the result."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from catwalk.recommenders.ranking import (
    MAX_BLOCK_BYTES,
    check_list_length,
    item_blocks,
    score_users,
    top_k,
    user_blocks,
)
from catwalk.shop.user_items import NO_ITEM, SeenItems, mask_value


class CandidateScores:
    """The scores of one block of users, a block of items at a time, with what the users have seen masked.

    Of a catalogue that is scored at once the scores are computed once, however often they are asked for; of a larger
    one they are computed anew, and never in memory as a whole.

    Args:
        score: Takes user indices ``(B,)`` and a slice of items, W of them; see :func:`score_users`.
        users: int64 ``(B,)``, at least one.
        seen: What to mask, on the device of the scores.
        blocks: The items that are scored at a time, in order and without gaps; those of :func:`item_blocks` by default.
        naming: Makes the context in which scores are computed, to say in an error whose they are.

    Attributes:
        users: The users.
        blocks: The blocks of items.

    Example:
        >>> import torch
        >>> from catwalk.recommenders.candidate_scores import CandidateScores
        >>> from catwalk.shop.user_items import SeenItems
        >>> seen = SeenItems.from_pairs(torch.tensor([0]), torch.tensor([4]), num_users=1, num_items=5)
        >>> table = torch.tensor([[0.5, 0.9, 0.5, 0.5, 1.0]])
        >>> scores = CandidateScores(
        ...     lambda users, items: table[users, items].clone(), torch.tensor([0]), seen, [slice(0, 3), slice(3, 5)]
        ... )
        >>> scores.top_k(3)
        (tensor([[1, 0, 2]]), tensor([[0.9000, 0.5000, 0.5000]]))
        >>> scores.of_items(torch.tensor([[3, -1]]))[:, 0]
        tensor([0.5000])
    """

    def __init__(
        self,
        score: Callable[[Tensor, slice], Tensor],
        users: Tensor,
        seen: SeenItems,
        blocks: Sequence[slice] | None = None,
        naming: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.users = users
        self.blocks = item_blocks(seen.num_items) if blocks is None else blocks
        self._naming = naming
        self._score = score
        self._seen = seen
        self._whole: Tensor | None = None

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the number of the first item of each block, and the scores of its W items, float ``(B, W)``."""
        for items in self.blocks:
            yield items.start, self._block(items)

    def _block(self, items: slice, rows: Tensor | None = None) -> Tensor:
        """Return the scores of a block of items, of all users or of some."""
        if self._whole is not None:
            return self._whole if rows is None else self._whole[rows]
        users = self.users if rows is None else self.users[rows]
        with self._naming():
            scores = score_users(lambda some: self._score(some, items), users, self._seen, items)
        if rows is None and len(self.blocks) == 1:
            self._whole = scores
        return scores

    @property
    def widest(self) -> int:
        """The most items that are scored at a time."""
        return max(items.stop - items.start for items in self.blocks)

    def top_k(self, k: int) -> tuple[Tensor, Tensor]:
        """Return the lists of the users; see :func:`top_k`. The blocks do not show in them."""
        check_list_length(k, self._seen.num_items)
        best: tuple[Tensor, Tensor] | None = None
        for first, scores in self:
            best = merged_top_k(best, scores, first, k)
        assert best is not None
        return best

    def of_items(self, items: Tensor) -> Tensor:
        """Return the scores of some items of each user, with the bits that they have among all others.

        Of a large catalogue a block is scored for those users alone who have items in it.

        Args:
            items: int64 ``(B, T)``; -1 stands for none.

        Returns:
            Float ``(B, T)``; :func:`mask_value` where the user has seen the item, or there is none.
        """
        found: Tensor | None = None
        for block in self.blocks:
            is_here = (items >= block.start) & (items < block.stop)
            # On a CPU a row has the same bits among any number of rows; on a GPU another number may round otherwise.
            is_some = len(self.blocks) > 1 and items.device.type == "cpu"
            rows = is_here.any(dim=1).nonzero().squeeze(1) if is_some else None
            if rows is not None and not len(rows):
                continue
            scores = self._block(block, rows)
            if found is None:
                found = scores.new_full(items.shape, mask_value(scores.dtype))
            # Slices of everything where rows are not chosen.
            these, chosen = (items, is_here) if rows is None else (items[rows], is_here[rows])
            values = scores.gather(1, (these - block.start).clamp(0, scores.shape[1] - 1))
            if rows is None:
                found = torch.where(chosen, values, found)
            else:
                found[rows] = torch.where(chosen, values, found[rows])
        return torch.full(items.shape, mask_value(torch.float32), device=items.device) if found is None else found


def merged_top_k(best: tuple[Tensor, Tensor] | None, scores: Tensor, first: int, k: int) -> tuple[Tensor, Tensor]:
    """Return lists of the best items of all blocks so far, to the bit those that :func:`top_k` finds in all at once.

    Args:
        best: The lists of the blocks before, ``(items, scores)``, ``(B, k)`` each; None before the first block.
        scores: The scores of the next block, ``(B, W)``; they may be masked.
        first: Number of its first item, larger than all before.
        k: Length of the lists; they end in fillers, as those of :func:`top_k`, while there are fewer items.

    Returns:
        ``(items, scores)``, ``(B, k)`` each.
    """
    length = min(k, scores.shape[1])
    if best is None and length == k:
        return top_k(scores, k)
    if best is None:
        shape = len(scores), k
        best = torch.full(shape, NO_ITEM, device=scores.device), scores.new_full(shape, -torch.inf)
    items, values = best
    scores = scores.detach()
    # An item of the last score in the list comes after it, by its number: the others alone are better.
    rows = (scores.amax(dim=1) > values[:, -1]).nonzero().squeeze(1)
    if len(rows):
        new_items, new_values = top_k(scores if len(rows) == len(scores) else scores[rows], length)
        new_items = torch.where(new_items == NO_ITEM, NO_ITEM, new_items + first)
        joined = torch.cat([values[rows], new_values], dim=1)
        # Stable, so that equals stay in the order of the blocks; -0.0 + 0.0 is 0.0, and no sort tells them apart.
        order = (joined + 0.0).argsort(dim=1, descending=True, stable=True)[:, :k]
        values, items = (
            values.index_copy(0, rows, joined.gather(1, order)),
            items.index_copy(0, rows, torch.cat([items[rows], new_items], dim=1).gather(1, order)),
        )
    return items, values


def rank_users(
    score: Callable[[Tensor, slice], Tensor],
    users: Tensor,
    k: int,
    seen: SeenItems,
    max_bytes: int = MAX_BLOCK_BYTES,
    blocks: Sequence[slice] | None = None,
) -> tuple[Tensor, Tensor]:
    """Recommend to any number of users, block by block.

    Args:
        score: See :class:`CandidateScores`.
        users: int64 ``(U,)``, at least one.
        k: Length of the lists, ``1..N``.
        seen: What not to recommend, on the device of the scores.
        max_bytes: Bound on one block of float32 scores; it does not show in the result.
        blocks: See :class:`CandidateScores`.

    Returns:
        ``(items, scores)`` as from :func:`top_k`, one row per entry of ``users``.

    Raises:
        CatwalkError: If ``k`` is less than 1 or larger than the catalogue.
        DivergedError: If a score is NaN or infinite.
        ValueError: If there are no users, or the scores are of another shape.
    """
    check_list_length(k, seen.num_items)
    if not len(users):
        raise ValueError("rank_users needs at least one user")
    widest = CandidateScores(score, users, seen, blocks).widest
    lists = [
        CandidateScores(score, some, seen, blocks).top_k(k) for some in user_blocks(users, widest, max_bytes=max_bytes)
    ]
    return torch.cat([items for items, _ in lists]), torch.cat([scores for _, scores in lists])
