"""Popularity: a floor that every recommender should be above."""

import torch
from torch import Tensor

from lightning_modules.data_protocols import RecommenderData
from lightning_modules.recommender import Recommender


class Popularity(Recommender):
    """Recommends what most have bought: the score of an item is its number of training purchases, for every user.

    There is nothing to train. See :class:`Recommender` for the arguments.
    """

    def build(self, num_users: int, num_items: int, num_features: int) -> None:
        """Create nothing: the purchases are the data module's."""

    def prepare_scores(self, data: RecommenderData) -> None:
        """Count the purchases."""
        counts = torch.bincount(torch.from_numpy(data.split.items), minlength=data.num_items)
        self._purchases = counts.float().to(self.device)

    def scores(self, users: Tensor) -> Tensor:
        """Return the same counts for everybody, ``(B, N)``."""
        return self._purchases.repeat(len(users), 1)

    @property
    def scores_parts(self) -> bool:
        """Yes: any number of counts is as easily had."""
        return True

    def scores_of(self, users: Tensor, items: slice) -> Tensor:
        """Return the same counts of some items for everybody, ``(B, W)``."""
        return self._purchases[items].repeat(len(users), 1)
