"""Logs CHR@K: how many places of the top-K lists every category takes."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from catwalk.catalogue import number_of
from catwalk.errors import CatwalkError
from catwalk.metrics import CategoryHitRatio as CategoryHitRatioMetric
from lightning_modules.recommender import Recommender


class CategoryHitRatio(Callback):
    """Logs ``{val,test}/chr@K/CATEGORY`` of a recommender, for every category and several K (Di Noia et al. 2020).

    Every user counts, with a held-out item or without. An item keeps the category that it had before any attack.

    Args:
        top_k: List lengths K.
        categories: Names of the categories to log; all by default.
        categories_by: ``network`` takes for an item's category what the network that made the features sees in its
            clean image (the paper's protocol), ``dataset`` what the dataset says.
    """

    def __init__(
        self,
        top_k: Sequence[int] = (20,),
        categories: Sequence[str] | None = None,
        categories_by: Literal["network", "dataset"] = "network",
    ) -> None:
        if not top_k or min(top_k) < 1:
            raise CatwalkError(f"top_k must name list lengths of at least 1, got {list(top_k)}")
        self.top_k = list(top_k)
        self.categories = list(categories) if categories is not None else None
        self.categories_by = categories_by
        self.names: tuple[str, ...] = ()
        self.metric: CategoryHitRatioMetric | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the categories, before a recommender that has none of them is trained."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(pl_module, Recommender):
            raise CatwalkError(f"CategoryHitRatio measures recommenders, not a {type(pl_module).__name__}")
        pl_module.require_list_length(max(self.top_k))
        if self.categories_by == "network":
            if data.feature_table is None:
                raise CatwalkError(
                    "CategoryHitRatio takes the categories from the features' network, and data.features is not given: "
                    "give it, or set categories_by: dataset"
                )
            categories, self.names = data.feature_table.categories, data.feature_table.category_names
        else:
            categories, self.names = data.catalogue.categories, data.catalogue.category_names
        for name in self.categories or ():
            number_of(name, self.names, "CategoryHitRatio.categories")
        self.metric = CategoryHitRatioMetric(self.top_k, torch.from_numpy(categories), len(self.names))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._start(pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._start(pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the lists of a block of users."""
        self._update(outputs)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the lists of a block of users."""
        self._update(outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log."""
        self._log(pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log."""
        self._log(pl_module, "test")

    def _start(self, pl_module: LightningModule) -> None:
        assert self.metric is not None
        self.metric.to(pl_module.device).reset()

    def _update(self, outputs: Any) -> None:
        assert self.metric is not None
        self.metric.update(outputs["recommended"])

    def _log(self, pl_module: LightningModule, stage: str) -> None:
        assert self.metric is not None
        values = self.metric.compute()  # summed over all processes
        pl_module.log_dict(
            {
                f"{stage}/chr@{k}/{name}": values[row, column]
                for row, k in enumerate(self.top_k)
                for column, name in enumerate(self.names)
                if self.categories is None or name in self.categories
            }
        )
