"""Logs how far the attacked items themselves get: their mean rank, their places in the lists, and who is shown them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from callbacks.observed_attack import attack_folder
from callbacks.ranked_lists import RankedListsCallback
from catwalk.metrics.item_reach import ItemReach, item_ranks
from catwalk.metrics.mean import ValueMean
from catwalk.poisoning.records import read_attacked_items
from catwalk.shop.user_items import SeenItems
from lightning_modules.data_protocols import RecommenderData, recommender_data_of
from lightning_modules.measured_module import Stage
from lightning_modules.recommender import Ranking, Recommender


class AttackedItems(RankedListsCallback):
    """Logs metrics of the items that an attack changed, and of no others, after ``val/`` or ``test/``.

    - ``attacked/exposure@K``: mean number of places that they take in a list;
    - ``attacked/discounted_exposure@K``: the same with a place at rank r counting ``1 / log2(1 + r)``
      (:class:`catwalk.metrics.ItemReach`);
    - ``attacked/users_reached@K``: share of the users who have at least one of them in the list;
    - ``attacked/mean_rank``, if asked for: mean rank of the items among each user's candidates, over all users and
      items; 1 is the best, and equal scores rank by item number. It tells whether items rise that no list shows.

    The items are those of ``attacked_items.csv``: what :class:`~callbacks.InjectPoisonedImages` writes in the same run,
    wherever it stands among the callbacks, or an earlier one wrote. They are the same ones in the epochs before the
    images are injected, so that the metrics show the jump.

    Args:
        attack: Folder of an earlier attack; null for the attack of the run.
        top_k: List lengths K.
        mean_rank: Rank the attacked items too. All scores are computed once more and sorted, which takes about twice
            as long as to find the lists; without it the metrics cost next to nothing.
        every_n_epochs: In ``fit``, look at the validations after epochs N, 2N, 3N, … alone; a test always.
    """

    def __init__(
        self, attack: Path | None = None, top_k: Sequence[int] = (20,), mean_rank: bool = False, every_n_epochs: int = 1
    ) -> None:
        super().__init__(top_k, every_n_epochs)
        self.attack = None if attack is None else Path(attack)
        self.folder = Path()
        self.mean_rank = mean_rank
        self._items: Tensor | None = None
        self._seen: SeenItems

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the items of an earlier run: this one may attack others."""
        super().setup(trainer, pl_module, stage)
        self._items = None
        self.folder = attack_folder(self, trainer, self.attack)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look into the attack's folder before anything is trained."""
        self._read(recommender_data_of(trainer, type(self).__name__))

    def _read(self, data: RecommenderData) -> Tensor:
        if self._items is None:
            self._items = torch.from_numpy(read_attacked_items(self.folder, data.catalogue)[0])
        return self._items

    def make_metrics(self, data: RecommenderData, stage: Stage) -> dict[str, Metric]:
        """Return that of the lists and, if asked for, that of the ranks."""
        items = self._read(data)
        metrics: dict[str, Metric] = {"reach": ItemReach(self.top_k, items, data.num_items)}
        if self.mean_rank:
            self._seen = data.seen_items(stage)
            metrics["mean_rank"] = ValueMean()
        return metrics

    def count(self, ranking: Ranking) -> None:
        """Count the lists of some users."""
        self.metrics["reach"].update(ranking["recommended"])

    def measure(self, trainer: Trainer, pl_module: LightningModule, outputs: Ranking, batch: Any) -> None:
        """Count the lists of a block of users, and rank the items for them."""
        super().measure(trainer, pl_module, outputs, batch)
        self._rank(trainer, pl_module, outputs["users"])

    def _rank(self, trainer: Trainer, pl_module: LightningModule, users: Tensor) -> None:
        if not (self.mean_rank and self.is_counting):
            return
        assert isinstance(pl_module, Recommender)
        assert self._items is not None
        with trainer.precision_plugin.forward_context():  # the scores of the lists
            scores = pl_module.candidate_scores(users, self._seen.to(users.device))
        ranks = item_ranks(scores, self._items.to(users.device))
        self.metrics["mean_rank"].update(ranks[ranks > 0])

    def values(self) -> dict[str, Tensor]:
        """Return all metrics."""
        reach = {
            f"attacked/{name}@{k}": value
            for name, values in self.metrics["reach"].compute().items()
            for k, value in zip(self.top_k, values.reshape(len(self.top_k)).unbind(), strict=True)
        }
        return reach | ({"attacked/mean_rank": self.metrics["mean_rank"].compute()} if self.mean_rank else {})
