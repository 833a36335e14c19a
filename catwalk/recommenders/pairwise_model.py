"""Models that score by products of vectors, and learn from triplets of a user, an item bought and one not bought."""

import abc
import copy

from torch import Tensor, nn
from typing_extensions import Self

from catwalk.recommenders.feature_rows import FeatureRows


class PairwiseModel(nn.Module, abc.ABC):
    """Base of the models that learn by pairs of items: parameters, scores and loss, without anything of Lightning.

    A model is built without features. One that looks at images is given those of all items by :meth:`look_at`, before
    it is trained or ranks, and again where they change.

    Attributes:
        features: The features of all N items, in D dimensions; None until they are given. No part of a checkpoint,
            which holds what was learnt and is tested on clean and on poisoned features alike.
        feature_scale: What features are divided by, above 0: the largest absolute value of the clean ones.
    """

    features: FeatureRows | None

    groups: tuple[str, ...] = ()
    """Groups of parameters that may have learning rates of their own; :meth:`parameter_groups` says what is in them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = None
        self.feature_scale = 1.0

    def look_at(self, features: FeatureRows, scale: float) -> None:
        """Take the features of all items, in the place of those before, and what they are divided by."""
        self.features = features
        self.feature_scale = scale

    @property
    def images(self) -> FeatureRows:
        """The features that were given."""
        if self.features is None:
            raise ValueError("there are no features to look at: give them by look_at(features, scale)")
        return self.features

    def sharing_parameters(self) -> Self:
        """Return a copy that has the same parameters, and can look at other features."""
        other = copy.copy(self)
        other._modules = dict(self._modules)  # the features are one of them
        return other

    @abc.abstractmethod
    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return the training loss of a batch of triplets, int64 ``(B,)`` each, as a scalar."""

    @abc.abstractmethod
    def user_vectors(self, users: Tensor) -> Tensor:
        """Return what a user's score is linear in, ``(B, K')``, of users int64 ``(B,)``."""

    @abc.abstractmethod
    def item_vectors(self) -> Tensor:
        """Return the items' counterpart of :meth:`user_vectors`, ``(N, K')``: their product is the score matrix."""

    def scores(self, users: Tensor, item_vectors: Tensor | None = None) -> Tensor:
        """Return the scores of all items for users int64 ``(B,)``, ``(B, N)``.

        Args:
            users: The users.
            item_vectors: What :meth:`item_vectors` has returned, where many blocks of users are scored by it.
        """
        return self.user_vectors(users) @ (self.item_vectors() if item_vectors is None else item_vectors).T

    def parameter_groups(self) -> dict[str, list[Tensor]]:
        """Return all parameters by group, for :attr:`groups`."""
        return {"": list(self.parameters())}


def embedding(num_rows: int, num_factors: int) -> nn.Embedding:
    """Return an embedding drawn from a normal distribution of standard deviation 0.01, cut off at two of them."""
    table = nn.Embedding(num_rows, num_factors)
    nn.init.trunc_normal_(table.weight, std=0.01, a=-0.02, b=0.02)
    return table
