"""BPR-MF, matrix factorisation without images: the control that shows what images add."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from catwalk.limits import check_memory
from catwalk.recommenders.scorers import Reduction, Regularizer, bpr_loss, dot, parameter_penalty
from lightning_modules.pairwise import PairwiseRecommender, embedding


class BPRMF(PairwiseRecommender):
    """Matrix factorisation trained by Bayesian personalised ranking: ``s_ui = p_u · q_i`` (Rendle et al. 2009).

    Args:
        factors: K, the length of ``p_u`` and ``q_i``.
        item_bias: Add a bias ``β_i`` of the item to the score.
        regularization: λ of Eq. 1 of the paper, on the rows that a batch uses.
        item_regularization: λ on the items' rows, where it differs from that on the users'.
        regularizer: ``squared`` as in Eq. 1, or ``linear`` as in the paper's code, which adds up the parameters
            themselves and is not bounded below.
        reduction: Loss and λ-terms of a batch's triplets are averaged (``mean``) or added up (``sum``, as in Eq. 1).
        settings: What :class:`PairwiseRecommender` takes. The groups of parameters are ``P`` (users) and ``Q`` (items).
    """

    groups: tuple[str, ...] = ("P", "Q")

    def __init__(
        self,
        *,
        factors: int = 64,
        item_bias: bool = False,
        regularization: float = 0.02,
        item_regularization: float | None = None,
        regularizer: Regularizer = "squared",
        reduction: Reduction = "mean",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.check_at_least(1, "factors")
        self.check_at_least(0, "regularization", "item_regularization")
        self.check_choice(Regularizer, "regularizer")
        self.check_choice(Reduction, "reduction")

    def build(self, num_users: int, num_items: int, num_features: int) -> None:
        """Create ``P``, ``Q`` and the biases."""
        factors = self.hparams["factors"]
        check_memory(
            4 * factors * (num_users + num_items),
            f"factors {factors} of {num_users} users and {num_items} items",
            "give fewer factors",
        )
        self.users = embedding(num_users, factors)
        self.items = embedding(num_items, factors)
        if self.hparams["item_bias"]:
            self.item_biases = nn.Embedding(num_items, 1)
            nn.init.zeros_(self.item_biases.weight)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return Eq. 1 of the paper for a batch; see :meth:`PairwiseRecommender.loss`."""
        p, q_i, q_j = self.users(users), self.items(positives), self.items(negatives)
        biases = self.biases(positives, negatives)
        return self.bpr(self.difference(p, q_i, q_j, *biases)) + self.penalty([p], [q_i, q_j, *biases])

    def biases(self, positives: Tensor, negatives: Tensor) -> list[Tensor]:
        """Return the biases ``(B, 1)`` of the items bought and of those not bought; nothing without ``item_bias``."""
        return [self.item_biases(positives), self.item_biases(negatives)] if self.hparams["item_bias"] else []

    def difference(self, p: Tensor, q_i: Tensor, q_j: Tensor, *biases: Tensor) -> Tensor:
        """Return ``s_ui - s_uj``, ``(B,)``, of factors ``(B, K)`` and :meth:`biases`."""
        difference = dot(p, q_i - q_j)
        return difference + (biases[0] - biases[1]).squeeze(1) if biases else difference

    def bpr(self, differences: Tensor) -> Tensor:
        """Return the loss of a batch's ``s_ui - s_uj``, ``(B,)``."""
        return bpr_loss(differences, self.hparams["reduction"])

    def penalty(self, user_rows: Sequence[Tensor], item_rows: Sequence[Tensor]) -> Tensor | float:
        """Return the λ-terms of the rows, ``(B, ...)`` each, that a batch uses."""
        of_users, of_items = self.hparams["regularization"], self.hparams["item_regularization"]
        of_items = of_users if of_items is None else of_items
        kind, triplets = self.hparams["regularizer"], len(user_rows[0])
        if of_users == of_items:
            total: Any = of_users and of_users * parameter_penalty(kind, *user_rows, *item_rows)
        else:
            total = of_users * parameter_penalty(kind, *user_rows) + of_items * parameter_penalty(kind, *item_rows)
        return total / triplets if self.hparams["reduction"] == "mean" else total

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``p_u``, and 1 for the bias."""
        return self.with_bias(self.users(users))

    def item_vectors(self) -> Tensor:
        """Return ``q_i``, and the bias, of all items."""
        return self.with_bias(self.items.weight, self.item_biases.weight if self.hparams["item_bias"] else None)

    def with_bias(self, vectors: Tensor, biases: Tensor | None = None) -> Tensor:
        """Return vectors ``(n, K)`` with a last column for the items' biases, if there are any: ones by default."""
        if not self.has_biases:
            return vectors
        return torch.cat([vectors, vectors.new_ones(len(vectors), 1) if biases is None else biases], dim=1)

    @property
    def has_biases(self) -> bool:
        """Whether items have something that they score with every user."""
        return self.hparams["item_bias"]

    def parameter_groups(self) -> dict[str, list[Tensor]]:
        """Return ``P`` and ``Q``."""
        biases = [self.item_biases.weight] if self.hparams["item_bias"] else []
        return {"P": [self.users.weight], "Q": [self.items.weight, *biases]}
