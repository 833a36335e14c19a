"""Logs what else there is to tell of top-K lists: MRR, recall, precision, coverage, Gini index, novelty, popularity."""

from collections.abc import Sequence

from torch import Tensor
from torchmetrics import Metric

from callbacks.ranked_lists import RankedListsCallback
from catwalk.metrics import Exposure, MeanReciprocalRank, Precision, Recall
from lightning_modules.data_protocols import RecommenderData
from lightning_modules.measured_module import Stage
from lightning_modules.recommender import Ranking

HELD_OUT_METRICS: dict[str, type] = {
    "mrr": MeanReciprocalRank,
    "recall": Recall,
    "precision": Precision,
}


EXPOSURE = "exposure"
"""Name of the one metric that gives several values."""


class RankingMetrics(RankedListsCallback):
    """Logs more metrics of any recommender, for several K, after ``val/`` or ``test/``.

    - ``mrr@K``, ``recall@K``, ``precision@K``: of the users with held-out items (:mod:`catwalk.metrics`);
    - ``coverage@K``, ``gini@K``, ``novelty@K``, ``arp@K``, ``popularity_lift@K``: of the lists of all users
      (:class:`catwalk.metrics.Exposure`).

    Args:
        top_k: List lengths K.
        every_n_epochs: In ``fit``, look at the validations after epochs N, 2N, 3N, … alone; a test always.
    """

    def __init__(self, top_k: Sequence[int] = (20,), every_n_epochs: int = 1) -> None:
        super().__init__(top_k, every_n_epochs)

    def make_metrics(self, data: RecommenderData, stage: Stage) -> dict[str, Metric]:
        """Return those of held-out items, by what they are logged as, and that of exposure."""
        held_out = {f"{name}@{k}": kind(k) for k in self.top_k for name, kind in HELD_OUT_METRICS.items()}
        # What may not be recommended in validation is what was bought in training; in the test it would be more.
        return held_out | {EXPOSURE: Exposure(self.top_k, data.seen_items("val"))}

    def count(self, ranking: Ranking) -> None:
        """Count the lists of some users."""
        recommended, targets = ranking["recommended"], ranking["targets"]
        asked = targets[:, 0] >= 0
        lists, targets = recommended[asked], targets[asked]
        for name, metric in self.metrics.items():
            metric.update(recommended) if name == EXPOSURE else metric.update(lists, targets)

    def values(self) -> dict[str, Tensor]:
        """Return all metrics."""
        values = {name: metric.compute() for name, metric in self.metrics.items()}
        exposure = {
            f"{name}@{k}": value
            for name, by_length in values.pop(EXPOSURE).items()
            for k, value in zip(self.top_k, by_length.reshape(len(self.top_k)).unbind(), strict=True)
        }
        return values | exposure
