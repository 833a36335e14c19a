"""Reach of some items, such as those that were attacked: their ranks, their places, and the users who see them.

:class:`ItemReach` is of all of them together, :class:`ItemRanks` of each.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

from catwalk.metrics.category_hit_ratio import category_hits
from catwalk.metrics.held_out import check_recommended, list_lengths
from catwalk.recommenders.ranking import check_scores
from catwalk.shop.user_items import mask_value


def item_ranks(scores: Tensor, items: Tensor) -> Tensor:
    """Return the ranks of some items among each user's candidates, equal scores by ascending item index.

    Every user's scores are sorted once, which is cheaper than to compare them with those of each of the items.

    Args:
        scores: Finite ``(B, N)``; :func:`~catwalk.shop.user_items.mask_value` marks an item that is no candidate.
        items: int64 ``(n,)``, each in ``0..N-1``.

    Returns:
        int64 ``(B, n)``: 1 is the best; 0 where the item is no candidate of the user.

    Raises:
        DivergedError: If a score is NaN or infinite.

    Example:
        >>> import torch
        >>> from catwalk.metrics.item_reach import item_ranks
        >>> from catwalk.shop.user_items import mask_value
        >>> item_ranks(torch.tensor([[0.5, 0.9, 0.5, mask_value(torch.float32)]]), torch.tensor([2, 1, 3]))
        tensor([[3, 1, 0]])
    """
    check_scores(scores)
    ranks = BlockwiseRanks(items, scores[:, items])
    ranks.add(scores)
    return ranks.values()


class BlockwiseRanks:
    """:func:`item_ranks` of users whose scores come a block of items at a time: the blocks do not show in it.

    Args:
        items: int64 ``(n,)``, each in ``0..N-1``.
        scores: Each user's scores of them, ``(B, n)``; :func:`~catwalk.shop.user_items.mask_value` where an item is no
            candidate.
    """

    def __init__(self, items: Tensor, scores: Tensor) -> None:
        self._items = items
        self._is_candidate = scores > mask_value(scores.dtype)
        self._scores = scores.detach().float().contiguous()
        self._before = torch.zeros(scores.shape, dtype=torch.int64, device=scores.device)

    def add(self, scores: Tensor, first: int = 0) -> None:
        """Count those of a block of items who come before the ranked ones.

        Args:
            scores: Finite ``(B, W)``, as :func:`item_ranks` takes them.
            first: Number of the block's first item.
        """
        scores, width, wanted = scores.detach().float(), scores.shape[1], self._scores
        columns = self._items - first
        ascending = _sorted(scores)
        not_higher = torch.searchsorted(ascending, wanted, right=True)
        before = width - not_higher
        is_later = columns >= width
        if bool(is_later.any()):  # of whom the equals, too, come first
            before[:, is_later] = width - torch.searchsorted(ascending, wanted[:, is_later].contiguous())
        is_here = (columns >= 0) & ~is_later
        if bool(is_here.any()):
            # The last of those is of the item itself; is the one before it equal?
            tied = (not_higher > 1) & (ascending.gather(1, (not_higher - 2).clamp_(min=0)) == wanted)
            rows = (tied & self._is_candidate & is_here).any(dim=1).nonzero().squeeze(1)
            if len(rows):
                keys, here = _distinct(scores[rows]), is_here.nonzero().squeeze(1)
                in_order = torch.searchsorted(_sorted(keys), keys[:, columns[here]].contiguous())
                before[rows[:, None], here] = width - 1 - in_order
        self._before = self._before + before

    def values(self) -> Tensor:
        """Return the rank of every item for every user, int64 ``(B, n)``; see :func:`item_ranks`."""
        return (self._before + 1).masked_fill_(~self._is_candidate, 0)


def _sorted(values: Tensor) -> Tensor:
    """Return each row in ascending order; on a CPU by NumPy, which sorts many times faster than PyTorch there."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values


def _distinct(scores: Tensor) -> Tensor:
    """Return int64 keys in the order of float32 scores, and of equal ones in that of descending item index."""
    bits = (scores + 0.0).view(torch.int32)  # -0.0 + 0.0 is 0.0
    in_order = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    return (in_order << 32) + torch.arange(scores.shape[1] - 1, -1, -1, device=scores.device)


class ItemReach(Metric):
    """What share of the top-K lists some items take, and how many users find one of them there.

    - ``exposure``: mean number of places that they take in a list, in [0, K]: CHR@K of these items alone;
    - ``discounted_exposure``: the same with a place at rank r counting ``1 / log2(1 + r)``, the position bias of Singh
      and Joachims, *Fairness of exposure in rankings*, KDD 2018;
    - ``users_reached``: the share of users who have at least one of them in the list, in [0, 1].

    What is kept are counts, so the result has the same bits whatever the batches and the number of processes.

    Args:
        top_k: One K or several, in any order.
        items: int64 ``(n,)``, the items.
        num_items: Size of the catalogue.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If there is no K or a K is less than 1.

    Example:
        >>> import torch
        >>> from catwalk.metrics.item_reach import ItemReach
        >>> metric = ItemReach(2, torch.tensor([0, 3]), num_items=5)
        >>> metric.update(torch.tensor([[0, 3], [1, 0], [1, 2], [2, -1]]))
        >>> {name: round(value.item(), 4) for name, value in metric.compute().items()}
        {'exposure': 0.75, 'discounted_exposure': 0.5655, 'users_reached': 0.5}
    """

    names = ("exposure", "discounted_exposure", "users_reached")
    """What :meth:`compute` returns."""

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    is_chosen: Tensor
    places: Tensor
    reached: Tensor
    users: Tensor

    def __init__(self, top_k: int | Sequence[int], items: Tensor, num_items: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.top_k = list_lengths(top_k)
        is_chosen = torch.zeros(num_items, dtype=torch.bool, device=items.device)
        is_chosen[items] = True
        # A checkpoint does not hold them: they come with the data. The first one is of the -1 that fills short lists.
        self.register_buffer("is_chosen", functional.pad(is_chosen, (1, 0)), persistent=False)
        self.add_state("places", torch.zeros(max(self.top_k), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("reached", torch.zeros(len(self.top_k), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("users", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, recommended: Tensor) -> None:
        """Add a batch of users.

        Args:
            recommended: int64 ``(B, >= the largest K)``, best first; ``-1`` fills short lists.

        Raises:
            ValueError: If a list is shorter than the largest K.
        """
        longest = max(self.top_k)
        check_recommended(recommended, longest)
        found = self.is_chosen[recommended[:, :longest] + 1]
        self.places = self.places + found.sum(dim=0)
        self.reached = self.reached + torch.stack([found[:, :k].any(dim=1).sum() for k in self.top_k])
        self.users = self.users + len(recommended)

    def compute(self) -> dict[str, Tensor]:
        """Return the three metrics, float64 ``(number of K,)`` each, in the order of ``top_k``; NaN without users.

        torchmetrics hands a result with a single entry over as a scalar.
        """
        places = self.places.double()
        discounted = places / torch.arange(2, len(places) + 2, device=places.device).double().log2()
        return {
            "exposure": torch.stack([places[:k].sum() for k in self.top_k]) / self.users,
            "discounted_exposure": torch.stack([discounted[:k].sum() for k in self.top_k]) / self.users,
            "users_reached": self.reached.double() / self.users,
        }


class ItemRanks(Metric):
    """How far each of some items gets: its mean rank, and what share of the top-K lists shows it.

    - ``mean_rank``: mean rank among the candidates of a user, over the users of whom the item is a candidate, in
      [1, N];
    - ``candidates``: the share of users of whom it is one, in [0, 1];
    - ``overall``: mean rank over these users and over the items;
    - ``hit_rate``: the share of users in whose list the item is, in [0, 1] (Liu and Larson, *Adversarial item
      promotion*, WWW 2021).

    What is kept are counts and sums of ranks, so the result has the same bits whatever the batches and the number of
    processes.

    Args:
        top_k: One K or several, in any order.
        items: int64 ``(n,)``, the items, each once.
        num_items: Size of the catalogue.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If there is no K or a K is less than 1.

    Example:
        >>> import torch
        >>> from catwalk.metrics.item_reach import ItemRanks
        >>> metric = ItemRanks([1, 2], torch.tensor([3, 0]), num_items=5)
        >>> metric.update(torch.tensor([[0, 3], [1, 0]]), ranks=torch.tensor([[2, 1], [4, 2]]))
        >>> {name: values.tolist() for name, values in metric.compute().items()}
        {'mean_rank': [3.0, 1.5], 'candidates': [1.0, 1.0], 'overall': 2.25, 'hit_rate': [[0.0, 0.5], [0.5, 1.0]]}
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    column: Tensor
    rank_sums: Tensor
    candidates: Tensor
    hits: Tensor
    users: Tensor

    def __init__(self, top_k: int | Sequence[int], items: Tensor, num_items: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.top_k = list_lengths(top_k)
        self.size = len(items)
        column = torch.full((num_items,), -1, dtype=torch.int64, device=items.device)
        column[items] = torch.arange(self.size, device=items.device)
        self.register_buffer("column", column, persistent=False)
        nothing = torch.zeros(self.size, dtype=torch.int64)
        self.add_state("rank_sums", nothing, dist_reduce_fx="sum")
        self.add_state("candidates", nothing.clone(), dist_reduce_fx="sum")
        self.add_state("hits", nothing.repeat(len(self.top_k), 1), dist_reduce_fx="sum")
        self.add_state("users", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, recommended: Tensor, ranks: Tensor) -> None:
        """Add a batch of users.

        Args:
            recommended: int64 ``(B, >= the largest K)``, best first; ``-1`` fills short lists.
            ranks: int64 ``(B, n)``, each item's rank among the user's candidates; 0 where it is none
                (:func:`item_ranks`).

        Raises:
            ValueError: If a list is shorter than the largest K.
        """
        self.rank_sums = self.rank_sums + ranks.sum(dim=0)
        self.candidates = self.candidates + (ranks > 0).sum(dim=0)
        self.hits = self.hits + category_hits(recommended, self.column, self.size, self.top_k)
        self.users = self.users + len(recommended)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics by name, float64: ``(n,)`` each, a scalar, and ``(number of K, n)`` in ``top_k``'s order.

        What has no users is NaN. torchmetrics hands a result with a single entry over as a scalar.
        """
        return {
            "mean_rank": self.rank_sums.double() / self.candidates,
            "candidates": self.candidates.double() / self.users,
            "overall": self.rank_sums.sum().double() / self.candidates.sum(),
            "hit_rate": self.hits.double() / self.users,
        }
