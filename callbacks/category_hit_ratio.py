"""Logs CHR@K and nCDCG@K: how many places of the top-K lists every category takes, and how high up they are."""

from collections.abc import Sequence

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from callbacks.ranked_lists import CategoriesBy, RankedListsCallback, item_categories
from catwalk.limits import check_choice
from catwalk.metrics import CategoryHitRatio as CategoryHitRatioMetric
from catwalk.metrics import NormalizedCategoryDCG
from catwalk.metrics.normalized_category_dcg import Ideal
from lightning_modules.data_protocols import RecommenderData, recommender_data_of
from lightning_modules.measured_module import Stage
from lightning_modules.recommender import Ranking


class CategoryHitRatio(RankedListsCallback):
    """Logs ``chr@K/CATEGORY`` and ``ncdcg@K/CATEGORY`` of a recommender, after ``val/`` or ``test/``.

    CHR@K is the average number of places that the category takes in a list (Di Noia et al. 2020), nCDCG@K its
    discounted gain over that of the ideal list (Anelli et al. 2021). Every user counts, with a held-out item or
    without; in nCDCG@K, every user who could be shown an item of the category, and it is NaN where nobody could. An
    item keeps the category that it had before any attack.

    Args:
        top_k: List lengths K.
        categories: Names of the categories to log; all by default.
        categories_by: ``network`` takes for an item's category what the network that made the features sees in its
            clean image (the paper's protocol), ``dataset`` what the dataset says.
        every_n_epochs: In ``fit``, look at the validations after epochs N, 2N, 3N, … alone; a test always.
        ncdcg_ideal: What the ideal list of nCDCG@K is made of: the category's items that a user could be shown
            (``candidates``), or all of the ``category``, as in the paper's code.
    """

    def __init__(
        self,
        top_k: Sequence[int] = (20,),
        categories: Sequence[str] | None = None,
        categories_by: CategoriesBy = "network",
        every_n_epochs: int = 1,
        ncdcg_ideal: Ideal = "candidates",
    ) -> None:
        super().__init__(top_k, every_n_epochs)
        check_choice(ncdcg_ideal, "CategoryHitRatio.ncdcg_ideal", Ideal)
        self.ncdcg_ideal = ncdcg_ideal
        self.categories = list(categories) if categories is not None else None
        self.categories_by = categories_by
        self.names: tuple[str, ...] = ()
        self._item_categories = torch.zeros(0, dtype=torch.int64)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the categories, before a recommender that has none of them is trained."""
        super().setup(trainer, pl_module, stage)
        data = recommender_data_of(trainer, type(self).__name__)
        self._item_categories, self.names = item_categories(self, data, self.categories_by, self.categories)

    def make_metrics(self, data: RecommenderData, stage: Stage) -> dict[str, Metric]:
        """Return both metrics."""
        by_category = self.top_k, self._item_categories, len(self.names)
        return {
            "chr": CategoryHitRatioMetric(*by_category),
            "ncdcg": NormalizedCategoryDCG(*by_category, data.seen_items(stage), self.ncdcg_ideal),
        }

    def count(self, ranking: Ranking) -> None:
        """Count the lists of some users."""
        self.metrics["chr"].update(ranking["recommended"])
        self.metrics["ncdcg"].update(ranking["recommended"], ranking["users"])

    def values(self) -> dict[str, Tensor]:
        """Return both metrics of the categories to log."""
        shape = len(self.top_k), len(self.names)
        return {
            f"{kind}@{k}/{name}": value
            for kind, metric in self.metrics.items()
            for k, values in zip(self.top_k, metric.compute().reshape(shape).unbind(), strict=True)
            for name, value in zip(self.names, values.unbind(), strict=True)
            if self.categories is None or name in self.categories
        }
