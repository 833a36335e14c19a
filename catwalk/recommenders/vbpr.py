"""VBPR: matrix factorisation that also looks at the items' images."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from catwalk.limits import check_memory, check_number
from catwalk.recommenders.bpr_mf import BPRMFModel, BPRMFSettings
from catwalk.recommenders.losses import dot, parameter_penalty
from catwalk.recommenders.pairwise_model import embedding


@dataclass(frozen=True, kw_only=True)
class VBPRSettings(BPRMFSettings):
    """Settings of :class:`VBPRModel`; :class:`lightning_modules.VBPR` says what they are.

    Raises:
        CatwalkError: If a setting is out of its range.
    """

    visual_factors: int = 64
    shared_user_factors: bool = False
    visual_bias: bool = False
    projection_regularization: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.visual_factors, "visual_factors", least=1)
        check_number(self.projection_regularization, "projection_regularization", least=0)


class VisualTerms(NamedTuple):
    """What the losses of a batch of triplets are made of.

    Attributes:
        differences: ``s_ui - s_uj``, ``(B,)``.
        visual_users: ``ρ_u``, ``(B, K')``; with a visual bias a last column of ones.
        projection: ``E``, ``(D, K')``; with a visual bias ``β'`` is its last column.
        penalty: The λ-terms, a scalar.
    """

    differences: Tensor
    visual_users: Tensor
    projection: Tensor
    penalty: Tensor | float


class VBPRModel(BPRMFModel):
    """Matrix factorisation and images, ``s_ui = p_u · q_i + ρ_u · (E f_i)`` (He & McAuley 2016; Eq. 2).

    :meth:`PairwiseModel.look_at` gives it the features of all items, before it is trained or ranks.

    Args:
        num_users: U.
        num_items: N.
        num_features: D.
        settings: Its settings.

    Attributes:
        visual_users: ``ρ``, ``(U, K')``; only without ``shared_user_factors``.
        projection: ``E``, ``(D, K')``.
        visual_bias: ``β'``, ``(D, 1)``; only with ``visual_bias``.

    Raises:
        TooLargeError: If there is no memory for so many parameters.
    """

    groups: tuple[str, ...] = ("P", "Q", "E")

    settings: VBPRSettings
    visual_users: nn.Embedding
    visual_bias: nn.Parameter

    def __init__(self, num_users: int, num_items: int, num_features: int, settings: VBPRSettings) -> None:
        super().__init__(num_users, num_items, settings)
        width = settings.factors
        if not settings.shared_user_factors:
            width = settings.visual_factors
            check_memory(
                4 * width * (num_users + num_features),
                f"visual_factors {width} of {num_users} users and {num_features} features",
                "give fewer visual_factors",
            )
            self.visual_users = embedding(num_users, width)
        self.projection = nn.Parameter(torch.empty(num_features, width))
        nn.init.trunc_normal_(self.projection, std=0.01, a=-0.02, b=0.02)
        if settings.visual_bias:
            self.visual_bias = nn.Parameter(torch.zeros(num_features, 1))

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return Eq. 1 of the paper with the scores of Eq. 2 for a batch; see :meth:`PairwiseModel.loss`."""
        terms = self.terms(users, positives, negatives)
        return self.bpr(terms.differences) + terms.penalty

    def terms(self, users: Tensor, positives: Tensor, negatives: Tensor) -> VisualTerms:
        """Return what the losses of a batch are made of."""
        p, q_i, q_j = self.users(users), self.items(positives), self.items(negatives)
        rho = p if self.settings.shared_user_factors else self.visual_users(users)
        biases = self.biases(positives, negatives)
        visual_users, projection = self.with_visual_bias(rho), self.biased_projection()
        # The difference of the features is projected once, instead of the features of either item.
        images = self.images.difference(positives, negatives).to(projection.dtype) @ projection / self.feature_scale
        differences = self.difference(p, q_i, q_j, *biases) + dot(visual_users, images)
        penalty = self.penalty([p] if rho is p else [p, rho], [q_i, q_j, *biases])
        if self.settings.regularizer == "linear":
            penalty = penalty + self._linear_penalty_of_images(positives, negatives)
        if self.settings.projection_regularization:
            of_projection = parameter_penalty(self.settings.regularizer, projection)
            penalty = penalty + self.settings.projection_regularization * of_projection
        return VisualTerms(differences, visual_users, projection, penalty)

    def with_visual_bias(self, rho: Tensor) -> Tensor:
        """Return ``ρ_u``, ``(B, K')``, with a last column of ones where there is a visual bias."""
        return torch.cat([rho, rho.new_ones(len(rho), 1)], dim=1) if self.settings.visual_bias else rho

    def biased_projection(self) -> Tensor:
        """Return ``E``, ``(D, K')``, with ``β'`` as its last column where there is one."""
        return torch.cat([self.projection, self.visual_bias], dim=1) if self.settings.visual_bias else self.projection

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``[p_u, ρ_u]``, or ``p_u`` that both parts share, and 1 for the biases."""
        p = self.users(users)
        return self.with_bias(p if self.settings.shared_user_factors else torch.cat([p, self.visual_users(users)], 1))

    def item_vectors(self) -> Tensor:
        """Return ``[q_i, E f_i]``, or their sum, and the biases of all items."""
        images, q = self.images.project(self.biased_projection()) / self.feature_scale, self.items.weight
        width = self.projection.shape[1]
        # Where there is a bias at all: that of the item, that of its image, or their sum.
        biases = images[:, width:].sum(dim=1, keepdim=True)
        if self.settings.item_bias:
            biases = biases + self.item_biases.weight
        images = images[:, :width]
        return self.with_bias(q + images if self.settings.shared_user_factors else torch.cat([q, images], 1), biases)

    def scores_of_images(self, features: Tensor, items: Tensor) -> Tensor:
        """Return the scores of items for all users, as if their images had other features, ``(n, U)``.

        Args:
            features: float ``(n, D)``, as a network gives them, with or without a gradient.
            items: The items' numbers, int64 ``(n,)`` in 0..N-1.
        """
        users, q = self.users.weight, self.items.weight[items]
        visual_users = self.with_visual_bias(users if self.settings.shared_user_factors else self.visual_users.weight)
        if self.settings.item_bias:
            users = torch.cat([users, users.new_ones(len(users), 1)], 1)
            q = torch.cat([q, self.item_biases.weight[items]], 1)
        return q @ users.T + (features @ (self.biased_projection() / self.feature_scale)) @ visual_users.T

    @property
    def has_biases(self) -> bool:
        """Whether items have something that they score with every user."""
        return self.settings.item_bias or self.settings.visual_bias

    def parameter_groups(self) -> dict[str, list[Tensor]]:
        """Return ``P`` with ``ρ``, ``Q``, and ``E`` with ``β'``."""
        groups = super().parameter_groups()
        if not self.settings.shared_user_factors:
            groups["P"].append(self.visual_users.weight)
        groups["E"] = [self.projection, self.visual_bias] if self.settings.visual_bias else [self.projection]
        return groups

    def _linear_penalty_of_images(self, positives: Tensor, negatives: Tensor) -> Tensor | float:
        """Return the linear λ-term of ``E f`` of a batch's items, which the paper's code counts to their rows."""
        weight = self.settings.regularization_of_items
        if not weight:
            return 0.0
        seen = torch.cat([positives, negatives])
        features = self.images.rows(seen).sum(dim=0).to(self.projection.dtype) / self.feature_scale
        total = (features @ self.projection).sum()
        return weight * (total / len(positives) if self.settings.reduction == "mean" else total)
