"""CHR@K: how many places of a top-K list a category takes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

from catwalk.metrics.held_out import check_recommended, list_lengths


def category_hits(recommended: Tensor, categories: Tensor, num_categories: int, top_k: int | Sequence[int]) -> Tensor:
    """Count the recommendations of each category's items, for every category and every K in one pass.

    Args:
        recommended: int64 ``(B, >= the largest K)``, best first; ``-1`` fills short lists and is of no category.
        categories: int64 ``(N,)``, the category ``0..num_categories - 1`` of each item, or -1 if it has none.
        num_categories: Number of categories ``C``.
        top_k: One K or several, in any order.

    Returns:
        int64 ``(number of K, C)``: how often an item of the category is among the first K recommendations, over all
        lists. Divided by the number of users it is CHR@K.

    Raises:
        ValueError: If a K is less than 1, a list is shorter than the largest K, or an item is not in ``categories``.

    Example:
        >>> import torch
        >>> from catwalk.metrics.category_hit_ratio import category_hits
        >>> categories = torch.tensor([0, 1, 1, -1])
        >>> category_hits(torch.tensor([[2, 1, 0], [3, 0, -1]]), categories, num_categories=2, top_k=[1, 3])
        tensor([[0, 1],
                [2, 2]])
    """
    return _hits(recommended, categories, num_categories, top_k, rows=None).squeeze(1)


def category_hits_per_user(
    recommended: Tensor, categories: Tensor, num_categories: int, top_k: int | Sequence[int]
) -> Tensor:
    """Count the recommendations of each category's items in every user's list.

    Args:
        recommended: int64 ``(B, >= the largest K)``, as for :func:`category_hits`.
        categories: int64 ``(N,)``, the category ``0..num_categories - 1`` of each item, or -1 if it has none.
        num_categories: Number of categories ``C``.
        top_k: One K or several, in any order.

    Returns:
        int64 ``(number of K, B, C)``. The sum over users is :func:`category_hits`.

    Raises:
        ValueError: If a K is less than 1, a list is shorter than the largest K, or an item is not in ``categories``.

    Example:
        >>> import torch
        >>> from catwalk.metrics.category_hit_ratio import category_hits_per_user
        >>> categories = torch.tensor([0, 1, 1, -1])
        >>> category_hits_per_user(torch.tensor([[2, 1, 0], [3, 0, -1]]), categories, num_categories=2, top_k=[3])
        tensor([[[1, 2],
                 [1, 0]]])
    """
    rows = torch.arange(len(recommended), device=recommended.device)
    return _hits(recommended, categories, num_categories, top_k, rows)


def place_categories(recommended: Tensor, categories: Tensor) -> Tensor:
    """Return the category of the item in every place of the lists, int64 of the shape of ``recommended``.

    Args:
        recommended: int64, item indices; ``-1`` fills short lists and is of no category.
        categories: int64 ``(N,)``, the category of each item, or -1 if it has none.

    Raises:
        ValueError: If an item is not in ``categories``.
    """
    if recommended.numel() and int(recommended.max()) >= len(categories):
        raise ValueError(f"recommended has item {int(recommended.max())}, but categories has {len(categories)} items")
    # `index_select` stays in one thread: waking others up takes longer than a block of lists.
    with_filler = functional.pad(categories, (1, 0), value=-1)
    return with_filler.index_select(0, recommended.flatten() + 1).view_as(recommended)


def _hits(
    recommended: Tensor, categories: Tensor, num_categories: int, top_k: int | Sequence[int], rows: Tensor | None
) -> Tensor:
    """Count by K, row and category; without ``rows`` all lists are one row."""
    lengths = list_lengths(top_k)
    cutoffs = sorted(set(lengths))
    check_recommended(recommended, cutoffs[-1])
    found = place_categories(recommended[:, : cutoffs[-1]], categories) + 1
    num_rows, bins = 1 if rows is None else len(rows), num_categories + 1  # the first bin takes what has no category
    if rows is not None:
        found = found + rows[:, None] * bins
    # Each place belongs to the shortest list that reaches it; the sum over shorter lists gives the longer ones.
    ends = torch.tensor(cutoffs, device=recommended.device)
    shortest = torch.bucketize(torch.arange(cutoffs[-1], device=recommended.device), ends, right=True)
    size = num_rows * bins
    counts = torch.bincount((shortest * size + found).flatten(), minlength=len(cutoffs) * size)
    hits = counts.view(len(cutoffs), num_rows, bins).cumsum(dim=0)[:, :, 1:]
    return hits[[cutoffs.index(length) for length in lengths]]


class CategoryHitRatio(Metric):
    """CHR@K of every category: hits of its items in all top-K lists, divided by the number of users, in [0, K].

    That is the average number of places that the category takes in a list. Over all categories CHR@K sums to K where
    every item has a category and every list is full.

    Reference: Di Noia, Malitesta and Merra, *TAaMR: Targeted adversarial attack against multimedia recommender
    systems*, DSN Workshops 2020.

    Args:
        top_k: One K or several, in any order.
        categories: int64 ``(N,)``, the category ``0..num_categories - 1`` of each item, or -1 if it has none.
        num_categories: Number of categories ``C``.
        **kwargs: Passed to :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If there is no K, a K is less than 1, or a category is not in ``-1..num_categories - 1``.

    Example:
        >>> import torch
        >>> from catwalk.metrics import CategoryHitRatio
        >>> generator = torch.Generator().manual_seed(0)
        >>> recommended = torch.rand(1000, 20, generator=generator).argsort(dim=1)
        >>> categories = torch.tensor([0] * 5 + [1] * 15)  # a quarter of the items is of category 0
        >>> metric = CategoryHitRatio(top_k=[4, 20], categories=categories, num_categories=2)
        >>> metric.update(recommended)
        >>> metric.compute().round(decimals=1)
        tensor([[ 1.,  3.],
                [ 5., 15.]], dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    categories: Tensor
    hits: Tensor
    users: Tensor

    def __init__(self, top_k: int | Sequence[int], categories: Tensor, num_categories: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.top_k = list_lengths(top_k)
        self.num_categories = num_categories
        if categories.ndim != 1 or (categories < -1).any() or (categories >= num_categories).any():
            raise ValueError(f"categories must be (N,), each in -1..{num_categories - 1}, got {categories}")
        # A checkpoint does not hold them: they come with the data.
        self.register_buffer("categories", categories.long(), persistent=False)
        shape = (len(self.top_k), num_categories)
        self.add_state("hits", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("users", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, recommended: Tensor) -> None:
        """Add a batch of users; see :func:`category_hits` for what is expected of the argument."""
        self.hits = self.hits + category_hits(recommended, self.categories, self.num_categories, self.top_k)
        self.users = self.users + len(recommended)

    def compute(self) -> Tensor:
        """Return float64 ``(number of K, C)``, in the order of ``top_k``; NaN if there were no users.

        torchmetrics hands a result with a single entry over as a scalar.
        """
        return self.hits.double() / self.users
