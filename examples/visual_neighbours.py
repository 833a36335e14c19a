"""A recommender of your own: what looks like the things that a user has bought."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from catwalk.recommenders.feature_rows import FeatureRows
from lightning_modules import Recommender


class VisualNeighbours(Recommender):
    """Recommends what looks most like a user's purchases: the mean cosine of the item's features with theirs.

    There is nothing to train. One that learns from triplets subclasses :class:`lightning_modules.PairwiseRecommender`.
    See :class:`lightning_modules.Recommender` for the arguments.
    """

    uses_features = True

    def build(self, num_users: int, num_items: int, num_features: int) -> None:
        """Create nothing: the features are the data module's."""

    def look_at(self, features: FeatureRows, scale: float) -> None:
        """Take the features of all items, those that a callback may just have poisoned; cosines need no scale."""
        self.features = features

    def prepare_scores(self, data: Any) -> None:
        """Compute the directions of the items' features, ``(N, D)``, and each user's mean of them, ``(U, D)``."""
        self._items = F.normalize(self.features.rows(torch.arange(data.num_items, device=self.device)).float())
        users, items = (torch.from_numpy(ids).to(self.device) for ids in (data.split.users, data.split.items))
        sums = self._items.new_zeros(data.num_users, self._items.shape[1]).index_add_(0, users, self._items[items])
        purchases = torch.bincount(users, minlength=data.num_users)
        self._users = sums / purchases.clamp(min=1)[:, None]

    def scores(self, users: Tensor) -> Tensor:
        """Return mean cosines in [-1, 1], ``(B, N)``; 0 for a user without a training purchase."""
        return self._users[users] @ self._items.T
