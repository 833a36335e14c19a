"""Logs what else there is to tell of top-K lists: MRR, recall, precision, coverage, Gini index, novelty, popularity."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from callbacks.ranked_lists import RankedListsCallback
from catwalk.metrics import Exposure, MeanReciprocalRank, Precision, Recall
from lightning_modules.recommender import Ranking

HELD_OUT_METRICS: dict[str, type] = {
    "mrr": MeanReciprocalRank,
    "recall": Recall,
    "precision": Precision,
}


class RankingFigures(RankedListsCallback):
    """Logs more figures of any recommender, for several K, after ``val/`` or ``test/``.

    - ``mrr@K``, ``recall@K``, ``precision@K``: of the users with held-out items (:mod:`catwalk.metrics`);
    - ``coverage@K``, ``gini@K``, ``novelty@K``, ``arp@K``, ``popularity_lift@K``: of the lists of all users
      (:class:`catwalk.metrics.Exposure`).

    Args:
        top_k: List lengths K.
    """

    def __init__(self, top_k: Sequence[int] = (20,)) -> None:
        super().__init__(top_k)
        self._held_out: dict[str, Metric] = {}
        self._exposure: Exposure

    def start(self, data: Any, device: torch.device, stage: str) -> None:
        """Begin to count."""
        self._held_out = {
            f"{name}@{k}": kind(k).to(device) for k in self.top_k for name, kind in HELD_OUT_METRICS.items()
        }
        # What may not be recommended in validation is what was bought in training; in the test it would be more.
        self._exposure = Exposure(self.top_k, data.seen_items("val")).to(device)

    def count(self, ranking: Ranking) -> None:
        """Count the lists of some users."""
        recommended, targets = ranking["recommended"], ranking["targets"]
        self._exposure.update(recommended)
        asked = targets[:, 0] >= 0
        for metric in self._held_out.values():
            metric.update(recommended[asked], targets[asked])

    def figures(self) -> dict[str, Tensor]:
        """Return all figures."""
        exposure = {
            f"{name}@{k}": value
            for name, values in self._exposure.compute().items()
            for k, value in zip(self.top_k, values.reshape(len(self.top_k)).unbind(), strict=True)
        }
        return {name: metric.compute() for name, metric in self._held_out.items()} | exposure
