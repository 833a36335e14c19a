"""Exposure: how the places of the lists are spread over the catalogue, and how popular what stands there is."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from catwalk.metrics.category_hit_ratio import category_hits
from catwalk.metrics.held_out import list_lengths
from catwalk.shop.user_items import SeenItems


def gini_index(counts: Tensor) -> Tensor:
    """Return the Gini index of counts: their mean absolute difference over all pairs, divided by twice their mean.

    Args:
        counts: int64 ``(..., N)``, 0 or more.

    Returns:
        float64 ``(...)``: 0 where all are equal, ``1 - 1/N`` where all but one are 0; NaN where all are 0.

    Example:
        >>> import torch
        >>> from catwalk.metrics.exposure import gini_index
        >>> gini_index(torch.tensor([[2, 2, 2, 2], [0, 8, 0, 0]]))
        tensor([0.0000, 0.7500], dtype=torch.float64)
    """
    size = counts.shape[-1]
    weights = 2 * torch.arange(1, size + 1, device=counts.device) - size - 1
    return (weights * counts.sort(dim=-1).values).sum(dim=-1).double() / (size * counts.sum(dim=-1))


def own_popularity(seen: SeenItems) -> Tensor:
    """Return how popular what users bought is: the mean over users of the mean popularity of their items.

    Args:
        seen: What each user bought. An item's popularity is how many users bought it.

    Returns:
        float64 scalar; users without purchases do not count, and NaN if nobody has any.

    Example:
        >>> import torch
        >>> from catwalk.metrics.exposure import own_popularity
        >>> from catwalk.shop.user_items import SeenItems
        >>> own_popularity(SeenItems.from_pairs(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 3, 3))  # of 2 and 1.5
        tensor(1.7500, dtype=torch.float64)
    """
    purchases = torch.bincount(seen.items, minlength=seen.num_items)
    users = torch.repeat_interleave(torch.arange(seen.num_users, device=seen.items.device), seen.counts)
    sums = torch.zeros_like(seen.counts).index_add_(0, users, purchases[seen.items])
    buys = seen.counts > 0
    return (sums[buys].double() / seen.counts[buys]).mean()


class Exposure(Metric):
    """Which items the top-K lists show how often, against how often they were bought in training.

    - ``coverage``: the share of the catalogue that is in at least one list, in [0, 1] (Ge et al., *Beyond accuracy:
      evaluating recommender systems by coverage and serendipity*, RecSys 2010);
    - ``gini``: the Gini index of how often each of the N items is shown, 0 where all are shown alike, up to
      ``1 - 1/N`` where one item takes all places (Fleder and Hosanagar, *Blockbuster culture's next rise or fall*,
      Management Science 55(5), 2009);
    - ``novelty``: mean self-information of the recommended items in bits, ``-log2`` of the share of users who bought
      the item, in [0, log2 U] (Zhou et al., *Solving the apparent diversity-accuracy dilemma of recommender systems*,
      PNAS 107(10), 2010). What nobody bought counts as bought by one user: it is as novel as an item can be;
    - ``arp``: average recommendation popularity, the mean number of purchases of the recommended items, in [0, U]
      (Yin et al., *Challenging the long tail recommendation*, PVLDB 5(9), 2012);
    - ``popularity_lift``: by which share ``arp`` exceeds the average popularity of what users bought themselves, at
      least -1; 0 where lists are as popular as users' own items (Abdollahpouri et al., *The connection between
      popularity bias, calibration, and fairness in recommendation*, RecSys 2020).

    Novelty and popularity are means over all places that hold an item, which are the means over users of their lists'
    means where all lists are full.

    What is kept is how often each item is shown. These are counts, so the result has the same bits whatever the batches
    and the number of processes.

    Args:
        top_k: One K or several, in any order.
        seen: What each user bought in training.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If there is no K or a K is less than 1.

    Example:
        >>> import torch
        >>> from catwalk.metrics import Exposure
        >>> from catwalk.shop.user_items import SeenItems
        >>> seen = SeenItems.from_pairs(torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]), num_users=4, num_items=4)
        >>> metric = Exposure(2, seen)
        >>> metric.update(torch.tensor([[1, 2], [1, 2], [0, 2], [0, 1]]))
        >>> {name: round(value.item(), 4) for name, value in metric.compute().items()}
        {'coverage': 0.75, 'gini': 0.3125, 'novelty': 1.75, 'arp': 0.875, 'popularity_lift': -0.475}
    """

    names = ("coverage", "gini", "novelty", "arp", "popularity_lift")
    """What :meth:`compute` returns."""

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    purchases: Tensor
    counts: Tensor
    _items: Tensor

    def __init__(self, top_k: int | Sequence[int], seen: SeenItems, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.top_k = list_lengths(top_k)
        self.num_users = seen.num_users
        self.own_popularity = own_popularity(seen).item()
        # A checkpoint does not hold them: they come with the data.
        self.register_buffer("purchases", torch.bincount(seen.items, minlength=seen.num_items), persistent=False)
        self.register_buffer("_items", torch.arange(seen.num_items, device=seen.items.device), persistent=False)
        shape = (len(self.top_k), seen.num_items)
        self.add_state("counts", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, recommended: Tensor) -> None:
        """Add a batch of users.

        Args:
            recommended: int64 ``(B, >= the largest K)``, best first; ``-1`` fills short lists.

        Raises:
            ValueError: If a list is shorter than the largest K, or an item is not in the catalogue.
        """
        self.counts = self.counts + category_hits(recommended, self._items, len(self._items), self.top_k)

    def compute(self) -> dict[str, Tensor]:
        """Return the five metrics, float64 ``(number of K,)`` each, in the order of ``top_k``.

        Where nothing was recommended, ``coverage`` is 0 and the others are NaN. torchmetrics hands a result with a
        single entry over as a scalar.
        """
        total = self.counts.sum(dim=1)
        information = -(self.purchases.clamp(min=1).double() / self.num_users).log2()
        popularity = (self.counts * self.purchases).sum(dim=1).double() / total
        return {
            "coverage": (self.counts > 0).double().mean(dim=1),
            "gini": gini_index(self.counts),
            "novelty": (self.counts * information).sum(dim=1) / total,
            "arp": popularity,
            "popularity_lift": popularity / self.own_popularity - 1,
        }
