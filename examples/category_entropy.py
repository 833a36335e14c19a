"""A metric of your own: how mixed the lists are, and the callback that logs it."""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from callbacks.ranked_lists import RankedListsCallback, item_categories
from catwalk.metrics.held_out import check_recommended
from catwalk.metrics.mean import ShareMean
from lightning_modules.recommender import Ranking


def category_entropy(recommended: Tensor, categories: Tensor, num_categories: int, top_k: int) -> Tensor:
    """Return the entropy of the categories in each list, as a share of the largest that C categories allow.

    Args:
        recommended: int64 ``(B, >= top_k)``, best first; ``-1`` fills short lists, whose places do not count.
        categories: int64 ``(N,)`` in ``0..C-1``, the category of each item.
        num_categories: C, at least 2.
        top_k: How much of the lists counts.

    Returns:
        float64 ``(B,)`` in [0, 1]: 0 where all items are of one category, 1 where all C have as many; NaN for an empty
        list.

    Raises:
        ValueError: If a list is shorter than ``top_k``.

    Example:
        >>> import torch
        >>> from category_entropy import category_entropy
        >>> lists = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 1]])
        >>> category_entropy(lists, categories=torch.tensor([0, 0, 1, 1]), num_categories=2, top_k=4)
        tensor([1., 0.], dtype=torch.float64)
    """
    check_recommended(recommended, top_k)
    recommended = recommended[:, :top_k]
    is_item = (recommended >= 0).double()
    counts = is_item.new_zeros(len(recommended), num_categories)
    counts.scatter_add_(1, categories[recommended.clamp(min=0)], is_item)
    return torch.special.entr(counts / counts.sum(dim=1, keepdim=True)).sum(dim=1) / math.log(num_categories)


class CategoryEntropy(ShareMean):
    """Mean over users of :func:`category_entropy`, in [0, 1]; the same bits whatever the batches and processes.

    Args:
        top_k: How much of the lists counts.
        categories: int64 ``(N,)`` in ``0..C-1``, the category of each item.
        num_categories: C, at least 2.
        **kwargs: Passed to :class:`torchmetrics.Metric`.
    """

    categories: Tensor

    def __init__(self, top_k: int, categories: Tensor, num_categories: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.top_k, self.num_categories = top_k, num_categories
        self.register_buffer("categories", categories, persistent=False)

    def update(self, recommended: Tensor) -> None:
        """Add the lists of some users, int64 ``(B, >= top_k)``."""
        super().update(category_entropy(recommended, self.categories, self.num_categories, self.top_k))


class LogCategoryEntropy(RankedListsCallback):
    """Logs ``category_entropy@K`` of any recommender, after ``val/`` or ``test/``; all users count.

    Args:
        top_k: List lengths K.
        every_n_epochs: In ``fit``, look at the validations after epochs N, 2N, 3N, … alone; a test always.
    """

    def __init__(self, top_k: tuple[int, ...] = (20,), every_n_epochs: int = 1) -> None:
        super().__init__(top_k, every_n_epochs)

    def make_metrics(self, data: Any, stage: str) -> dict[str, Metric]:
        """Return the metric for each K, by the categories of the dataset."""
        categories, names = item_categories(self, data, "dataset", None)
        return {f"category_entropy@{k}": CategoryEntropy(k, categories, len(names)) for k in self.top_k}

    def count(self, ranking: Ranking) -> None:
        """Count the lists of some users."""
        for metric in self.metrics.values():
            metric.update(ranking["recommended"])

    def values(self) -> dict[str, Tensor]:
        """Return what is logged, by name."""
        return {name: metric.compute() for name, metric in self.metrics.items()}
