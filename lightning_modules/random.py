"""Random: the floor below all floors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from catwalk.keyed_random import uniform
from catwalk.limits import check_seed
from lightning_modules.data_protocols import RecommenderData
from lightning_modules.recommender import Recommender


class Random(Recommender):
    """Recommends at random, to every user something else: CHR@K is then K times the category's share of the catalogue.

    There is nothing to train.

    Args:
        seed: Seed of the scores, which depend on it and on the number of the user alone; by default that of the run: of
            ``seed_everything`` or of the study.
        top_k: List lengths K of HR@K and nDCG@K.
    """

    def __init__(self, seed: int | None = None, top_k: Sequence[int] = (20,)) -> None:
        super().__init__(top_k)
        if seed is not None:
            check_seed(seed)
        self.seed = torch.initial_seed() if seed is None else seed

    def build(self, num_users: int, num_items: int, num_features: int) -> None:
        """Remember the number of items."""
        self.num_items = num_items

    def prepare_scores(self, data: RecommenderData) -> None:
        """Compute nothing: the scores are a hash of seed, user and item."""

    def scores(self, users: Tensor) -> Tensor:
        """Return uniform random numbers in [0, 1), ``(B, N)``."""
        return uniform(self.seed, users, (self.num_items,))
