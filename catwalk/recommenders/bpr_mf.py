"""BPR-MF: matrix factorisation trained by Bayesian personalised ranking."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from catwalk.limits import check_choice, check_memory, check_number
from catwalk.recommenders.losses import Reduction, Regularizer, bpr_loss, dot, parameter_penalty
from catwalk.recommenders.pairwise_model import PairwiseModel, embedding


@dataclass(frozen=True, kw_only=True)
class BPRMFSettings:
    """Settings of :class:`BPRMFModel`; :class:`lightning_modules.BPRMF` says what they are.

    Raises:
        CatwalkError: If a setting is out of its range.
    """

    factors: int = 64
    item_bias: bool = False
    regularization: float = 0.02
    item_regularization: float | None = None
    regularizer: Regularizer = "squared"
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        check_number(self.factors, "factors", least=1)
        check_number(self.regularization, "regularization", least=0)
        if self.item_regularization is not None:
            check_number(self.item_regularization, "item_regularization", least=0)
        check_choice(self.regularizer, "regularizer", Regularizer)
        check_choice(self.reduction, "reduction", Reduction)

    @property
    def regularization_of_items(self) -> float:
        """λ on the items' rows."""
        return self.regularization if self.item_regularization is None else self.item_regularization


class BPRMFModel(PairwiseModel):
    """Matrix factorisation, ``s_ui = p_u · q_i`` and a bias of the item (Rendle et al. 2009).

    Args:
        num_users: U.
        num_items: N.
        settings: Its settings.

    Attributes:
        users: ``p``, ``(U, K)``.
        items: ``q``, ``(N, K)``.
        item_biases: ``β``, ``(N, 1)``; only with ``item_bias``.

    Raises:
        TooLargeError: If there is no memory for so many parameters.
    """

    groups: tuple[str, ...] = ("P", "Q")

    item_biases: nn.Embedding

    def __init__(self, num_users: int, num_items: int, settings: BPRMFSettings) -> None:
        super().__init__()
        self.settings = settings
        factors = settings.factors
        check_memory(
            4 * factors * (num_users + num_items),
            f"factors {factors} of {num_users} users and {num_items} items",
            "give fewer factors",
        )
        self.users = embedding(num_users, factors)
        self.items = embedding(num_items, factors)
        if settings.item_bias:
            self.item_biases = nn.Embedding(num_items, 1)
            nn.init.zeros_(self.item_biases.weight)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return Eq. 1 of the paper for a batch; see :meth:`PairwiseModel.loss`."""
        p, q_i, q_j = self.users(users), self.items(positives), self.items(negatives)
        biases = self.biases(positives, negatives)
        return self.bpr(self.difference(p, q_i, q_j, *biases)) + self.penalty([p], [q_i, q_j, *biases])

    def biases(self, positives: Tensor, negatives: Tensor) -> list[Tensor]:
        """Return the biases ``(B, 1)`` of the items bought and of those not bought; nothing without ``item_bias``."""
        return [self.item_biases(positives), self.item_biases(negatives)] if self.settings.item_bias else []

    def difference(self, p: Tensor, q_i: Tensor, q_j: Tensor, *biases: Tensor) -> Tensor:
        """Return ``s_ui - s_uj``, ``(B,)``, of factors ``(B, K)`` and :meth:`biases`."""
        difference = dot(p, q_i - q_j)
        return difference + (biases[0] - biases[1]).squeeze(1) if biases else difference

    def bpr(self, differences: Tensor) -> Tensor:
        """Return the loss of a batch's ``s_ui - s_uj``, ``(B,)``."""
        return bpr_loss(differences, self.settings.reduction)

    def penalty(self, user_rows: Sequence[Tensor], item_rows: Sequence[Tensor]) -> Tensor | float:
        """Return the λ-terms of the rows, ``(B, ...)`` each, that a batch uses."""
        of_users, of_items = self.settings.regularization, self.settings.regularization_of_items
        kind, triplets = self.settings.regularizer, len(user_rows[0])
        if of_users == of_items:
            total: Any = of_users and of_users * parameter_penalty(kind, *user_rows, *item_rows)
        else:
            total = of_users * parameter_penalty(kind, *user_rows) + of_items * parameter_penalty(kind, *item_rows)
        return total / triplets if self.settings.reduction == "mean" else total

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``p_u``, and 1 for the bias."""
        return self.with_bias(self.users(users))

    def item_vectors(self) -> Tensor:
        """Return ``q_i``, and the bias, of all items."""
        return self.with_bias(self.items.weight, self.item_biases.weight if self.settings.item_bias else None)

    def with_bias(self, vectors: Tensor, biases: Tensor | None = None) -> Tensor:
        """Return vectors ``(n, K)`` with a last column for the items' biases, if there are any: ones by default."""
        if not self.has_biases:
            return vectors
        return torch.cat([vectors, vectors.new_ones(len(vectors), 1) if biases is None else biases], dim=1)

    @property
    def has_biases(self) -> bool:
        """Whether items have something that they score with every user."""
        return self.settings.item_bias

    def parameter_groups(self) -> dict[str, list[Tensor]]:
        """Return ``P`` and ``Q``."""
        biases = [self.item_biases.weight] if self.settings.item_bias else []
        return {"P": [self.users.weight], "Q": [self.items.weight, *biases]}
