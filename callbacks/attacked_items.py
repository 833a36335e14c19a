"""Logs how far the attacked items themselves get: their mean rank, their places in the lists, and who is shown them."""

from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from callbacks.observed_attack import FollowedItems
from callbacks.ranked_lists import RankedListsCallback
from catwalk.metrics.item_reach import ItemRanks, ItemReach
from lightning_modules.data_protocols import RecommenderData, recommender_data_of
from lightning_modules.measured_module import Stage
from lightning_modules.recommender import Ranking, Recommender, ranks_of


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
        mean_rank: Rank the attacked items too. The scores of the lists are sorted, which takes about as long as the
            rest of the evaluation; without it the metrics cost next to nothing.
        every_n_epochs: In ``fit``, look at the validations after epochs N, 2N, 3N, … alone; a test always.
        items: Ids of the items to follow, in the place of an attack's.

    Raises:
        CatwalkError: If both ``attack`` and ``items`` are given, or an item twice.
    """

    def __init__(
        self,
        attack: Path | None = None,
        top_k: Sequence[int] = (20,),
        mean_rank: bool = False,
        every_n_epochs: int = 1,
        items: Sequence[str] | None = None,
    ) -> None:
        super().__init__(top_k, every_n_epochs)
        self.followed = FollowedItems(self, attack, items)
        self.mean_rank = mean_rank
        self._items: Tensor

    @property
    def folder(self) -> Path | None:
        """Folder of the attack in the run; None where the items were given."""
        return self.followed.folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the items of an earlier run: this one may attack others."""
        super().setup(trainer, pl_module, stage)
        self.followed.find(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look into the attack's folder before anything is trained."""
        self._read(recommender_data_of(trainer, type(self).__name__))

    def _read(self, data: RecommenderData) -> Tensor:
        items = self.followed.read(data.catalogue)
        assert items is not None  # required
        return items

    def begin_measuring(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Begin to count, and have the items ranked if that was asked for."""
        super().begin_measuring(trainer, pl_module, stage)
        if self.is_counting and self.mean_rank:
            assert isinstance(pl_module, Recommender)
            pl_module.require_ranks(self._items)

    def make_metrics(self, data: RecommenderData, stage: Stage) -> dict[str, Metric]:
        """Return that of the lists and, if asked for, that of the ranks."""
        self._items = self._read(data)
        metrics: dict[str, Metric] = {"reach": ItemReach(self.top_k, self._items, data.num_items)}
        return metrics | ({"ranks": ItemRanks(self.top_k, self._items, data.num_items)} if self.mean_rank else {})

    def count(self, ranking: Ranking) -> None:
        """Count the lists of some users."""
        self.metrics["reach"].update(ranking["recommended"])
        if self.mean_rank:
            self.metrics["ranks"].update(ranking["recommended"], ranks_of(ranking, self._items))

    def values(self) -> dict[str, Tensor]:
        """Return all metrics."""
        reach = {
            f"attacked/{name}@{k}": value
            for name, values in self.metrics["reach"].compute().items()
            for k, value in zip(self.top_k, values.reshape(len(self.top_k)).unbind(), strict=True)
        }
        return reach | ({"attacked/mean_rank": self.metrics["ranks"].compute()["overall"]} if self.mean_rank else {})
