"""Base of the callbacks that measure a recommender's lists."""

import abc
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics import Metric

from callbacks.both_stages import MeasuringCallback
from catwalk.errors import CatwalkError
from catwalk.shop.catalogue import number_of
from lightning_modules.data_protocols import RecommenderData, recommender_data_of
from lightning_modules.measured_module import Stage
from lightning_modules.recommender import Ranking, Recommender, checked_lengths

PLACES_AT_ONCE = 2**18
"""Blocks of users are measured together, about this many places of lists at a time: a metric costs more per call than
per list."""

CategoriesBy = Literal["network", "dataset"]
"""Source of an item's category."""


class RankedListsCallback(MeasuringCallback, abc.ABC):
    """Base of the callbacks that log metrics of the lists of all users, in validation and in the test.

    Args:
        top_k: List lengths K.
        every_n_epochs: In ``fit``, look at the validations after epochs N, 2N, 3N, … alone.

    Raises:
        CatwalkError: If there is no K, or a K or ``every_n_epochs`` is less than 1.
    """

    def __init__(self, top_k: Sequence[int], every_n_epochs: int = 1) -> None:
        self.top_k = checked_lengths(top_k)
        if every_n_epochs < 1:
            raise CatwalkError(f"{type(self).__name__}.every_n_epochs must be at least 1, got {every_n_epochs}")
        self.every_n_epochs = every_n_epochs
        self.is_counting = False
        self.metrics: dict[str, Metric] = {}
        self._blocks: list[Ranking] = []
        self._places = 0

    @abc.abstractmethod
    def make_metrics(self, data: RecommenderData, stage: Stage) -> dict[str, Metric]:
        """Return what counts the lists of ``val`` or ``test``, by names of its own: made once in a run."""

    @abc.abstractmethod
    def count(self, ranking: Ranking) -> None:
        """Count the lists of some users."""

    @abc.abstractmethod
    def values(self) -> dict[str, Tensor]:
        """Return the metrics of the lists that were counted in all processes, without the stage in their names."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is a recommender, and have it make lists that are long enough."""
        require_lists(self, pl_module, max(self.top_k))
        self.metrics = {}

    def begin_measuring(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Begin to count."""
        is_fit = trainer.state.fn == TrainerFn.FITTING
        self.is_counting = not is_fit or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        self._blocks, self._places = [], 0
        if not self.is_counting:
            return
        if not self.metrics:
            made = self.make_metrics(recommender_data_of(trainer, type(self).__name__), stage)
            self.metrics = {name: metric.to(pl_module.device) for name, metric in made.items()}
        for metric in self.metrics.values():
            metric.reset()

    def measure(self, trainer: Trainer, pl_module: LightningModule, outputs: Ranking, batch: Any) -> None:
        """Count the lists of a block of users."""
        if not self.is_counting:
            return
        self._blocks.append(outputs)
        self._places += outputs["recommended"].numel() + outputs["ranks"].numel()
        if self._places >= PLACES_AT_ONCE:
            self._count_collected()

    def _count_collected(self) -> None:
        blocks, self._blocks, self._places = self._blocks, [], 0
        if blocks:
            self.count(
                Ranking(
                    users=torch.cat([block["users"] for block in blocks]),
                    recommended=torch.cat([block["recommended"] for block in blocks]),
                    targets=torch.cat([block["targets"] for block in blocks]),
                    auc=torch.cat([block["auc"] for block in blocks]),
                    ranked_items=blocks[0]["ranked_items"],
                    ranks=torch.cat([block["ranks"] for block in blocks]),
                )
            )

    def end_measuring(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Log."""
        if not self.is_counting:
            return
        self._count_collected()
        values = {f"{stage}/{name}": value for name, value in self.values().items()}
        # All processes have the same, and Lightning warns of what they do not bring together: the largest has its bits.
        pl_module.log_dict(values, sync_dist=True, reduce_fx="max")


def require_lists(callback: Callback, pl_module: LightningModule, length: int) -> None:
    """Have a recommender make lists of at least ``length``, or raise a :class:`CatwalkError` if it is none."""
    if not isinstance(pl_module, Recommender):
        raise CatwalkError(f"{type(callback).__name__} measures recommenders, not a {type(pl_module).__name__}")
    pl_module.require_list_length(length)


def purchases_of(data: RecommenderData) -> Tensor:
    """Return how many users bought each item in training, int64 ``(N,)``."""
    # What may not be recommended in validation is what was bought in training; in the test it would be more.
    return torch.bincount(data.seen_items("val").items.cpu(), minlength=data.num_items)


def item_categories(
    callback: Callback, data: RecommenderData, categories_by: CategoriesBy, wanted: Sequence[str] | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the categories of the items by which a callback counts, and the names of all categories.

    Args:
        callback: The callback, whom messages name.
        data: The data module.
        categories_by: ``network`` or ``dataset``.
        wanted: Names that must be among those of the categories.

    Returns:
        ``(categories, names)``: int64 ``(N,)``, the number of each item's category among ``names``.

    Raises:
        CatwalkError: If there are no features to tell the categories, or a name is unknown.
    """
    who = type(callback).__name__
    if categories_by == "network":
        if data.feature_table is None:
            raise CatwalkError(
                f"{who} takes the categories from the features' network, and data.features is not given: "
                "give it, or set categories_by: dataset"
            )
        categories, names = data.feature_table.categories, data.feature_table.category_names
    else:
        categories, names = data.catalogue.categories, data.catalogue.category_names
    for name in wanted or ():
        number_of(name, names, f"{who}.categories")
    return torch.from_numpy(categories).long(), names
