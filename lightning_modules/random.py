"""Random: the floor below all floors."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from catwalk.counter_random import uniform
from catwalk.errors import CatwalkError
from lightning_modules.recommender import Recommender


class Random(Recommender):
    """Recommends at random, to every user something else: CHR@K is then K times the category's share of the catalogue.

    There is nothing to train.

    Args:
        seed: Seed of the scores, which depend on it and on the number of the user alone.
        top_k: List lengths K of HR@K and nDCG@K.
    """

    def __init__(self, seed: int = 0, top_k: Sequence[int] = (20,)) -> None:
        super().__init__(top_k)
        if seed < 0:
            raise CatwalkError(f"seed must be at least 0, got {seed}")
        self.seed = seed

    def build(self, num_users: int, num_items: int, num_features: int) -> None:
        """Remember the number of items."""
        self.num_items = num_items

    def prepare_scores(self, data: Any) -> None:
        """Compute nothing: the scores are a hash of seed, user and item."""

    def scores(self, users: Tensor) -> Tensor:
        """Return uniform random numbers in [0, 1), ``(B, N)``."""
        return uniform(self.seed, users, (self.num_items,))
