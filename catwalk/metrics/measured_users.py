"""What one pass over the scores of some users tells: their lists, their AUC, and the ranks of some items."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from catwalk.metrics.auc import BlockwiseAUC
from catwalk.metrics.item_reach import BlockwiseRanks
from catwalk.recommenders.candidate_scores import CandidateScores, merged_top_k
from catwalk.recommenders.ranking import user_blocks
from catwalk.shop.user_items import SeenItems


class MeasuredUsers(NamedTuple):
    """What was found of some users.

    Attributes:
        recommended: int64 ``(B, k)``, best first; -1 where a user has no candidate left.
        auc: float64 ``(B,)``; NaN for a user without a held-out item.
        ranks: int64 ``(B, n)``, the rank of each ranked item; 0 where it is no candidate.
    """

    recommended: Tensor
    auc: Tensor
    ranks: Tensor


def measure_users(
    candidates: Callable[[Tensor, SeenItems], CandidateScores],
    users: Tensor,
    seen: SeenItems,
    k: int,
    targets: Tensor,
    ranked_items: Tensor,
) -> MeasuredUsers:
    """Find lists, AUC and ranks of some users; how users and items are cut into blocks does not show in them.

    Args:
        candidates: Takes users ``(B,)`` and what they have seen, and returns their scores.
        users: int64 ``(B,)``, at least one. A few of them at a time are taken where the scores of all do not fit in a
            block.
        seen: What they have seen, which is no candidate.
        k: Length of the lists.
        targets: Each user's held-out items, int64 ``(B, T)``; -1 stands for none.
        ranked_items: Items to be ranked for every user, int64 ``(n,)``.

    Raises:
        DivergedError: If a score is NaN or infinite.
        ValueError: If a held-out item is among the seen ones.

    Example:
        >>> import torch
        >>> from catwalk.metrics.measured_users import measure_users
        >>> from catwalk.recommenders.candidate_scores import CandidateScores
        >>> from catwalk.shop.user_items import SeenItems
        >>> seen = SeenItems.from_pairs(torch.tensor([0]), torch.tensor([4]), num_users=1, num_items=5)
        >>> table = torch.tensor([[0.5, 0.9, 0.5, 0.7, 1.0]])
        >>> measured = measure_users(
        ...     lambda users, seen: CandidateScores(lambda some, items: table[some, items].clone(), users, seen),
        ...     users=torch.tensor([0]),
        ...     seen=seen,
        ...     k=2,
        ...     targets=torch.tensor([[3]]),
        ...     ranked_items=torch.tensor([0, 4]),
        ... )
        >>> measured.recommended, measured.auc, measured.ranks
        (tensor([[1, 3]]), tensor([0.6667], dtype=torch.float64), tensor([[3, 0]]))
    """
    scores = candidates(users, seen)
    blocks = list(user_blocks(users, scores.widest))
    if len(blocks) == 1:
        return _measure(scores, k, targets, ranked_items)
    wanted = targets.split([len(block) for block in blocks])
    parts = [_measure(candidates(some, seen), k, its, ranked_items) for some, its in zip(blocks, wanted, strict=True)]
    return MeasuredUsers(*map(torch.cat, zip(*parts, strict=True)))


def _measure(scores: CandidateScores, k: int, targets: Tensor, ranked_items: Tensor) -> MeasuredUsers:
    # Where the catalogue is cut, these take a pass of their own: of a few users in each block, if nothing is ranked.
    known = scores.of_items(torch.cat([targets, ranked_items.expand(len(targets), -1)], dim=1))
    areas = BlockwiseAUC(targets, known[:, : targets.shape[1]])
    ranks = BlockwiseRanks(ranked_items, known[:, targets.shape[1] :])
    best: tuple[Tensor, Tensor] | None = None
    for first, block in scores:
        best = merged_top_k(best, block, first, k)
        areas.add(block)
        if len(ranked_items):
            ranks.add(block, first)
    assert best is not None
    return MeasuredUsers(best[0], areas.values(), ranks.values())
