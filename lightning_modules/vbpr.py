"""VBPR: matrix factorisation that also looks at the items' images."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from catwalk.limits import check_memory
from catwalk.recommenders.scorers import dot, parameter_penalty
from lightning_modules.bpr_mf import BPRMF
from lightning_modules.pairwise import embedding


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


class VBPR(BPRMF):
    """Visual Bayesian personalised ranking: ``s_ui = p_u · q_i + ρ_u · (E f_i)`` (He & McAuley 2016; Eq. 2).

    The features ``f`` are divided by the largest absolute value of the clean ones.

    Args:
        visual_factors: Length of ``ρ_u`` and number of columns of ``E``.
        shared_user_factors: ``ρ_u`` is ``p_u``, as in the paper's code: ``s_ui = p_u · (q_i + E f_i)``. Then
            ``visual_factors`` counts for nothing.
        visual_bias: Add ``β' · f_i`` to the score, a bias of what the item looks like.
        projection_regularization: λ of Eq. 1 on ``E`` and ``β'``, which is not divided by the number of triplets. The
            linear regulariser of the paper's code counts ``E f`` to the items' rows.
        settings: What :class:`BPRMF` takes: ``factors`` is the length of ``p_u`` and ``q_i``, ``regularization`` is on
            the rows of ``P``, ``ρ`` and ``Q``. The groups of parameters are ``P`` (users, ``ρ`` too), ``Q`` (items) and
            ``E`` (with ``β'``).
    """

    uses_features = True
    groups = ("P", "Q", "E")

    def __init__(
        self,
        *,
        visual_factors: int = 64,
        shared_user_factors: bool = False,
        visual_bias: bool = False,
        projection_regularization: float = 0.01,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.check_at_least(1, "visual_factors")
        self.check_at_least(0, "projection_regularization")

    def build(self, num_users: int, num_items: int, num_features: int) -> None:
        """Create ``P``, ``Q``, ``ρ``, ``E`` and the biases."""
        super().build(num_users, num_items, num_features)
        width = self.hparams["factors"]
        if not self.hparams["shared_user_factors"]:
            width = self.hparams["visual_factors"]
            check_memory(
                4 * width * (num_users + num_features),
                f"visual_factors {width} of {num_users} users and {num_features} features",
                "give fewer visual_factors",
            )
            self.visual_users = embedding(num_users, width)
        self.projection = nn.Parameter(torch.empty(num_features, width))
        nn.init.trunc_normal_(self.projection, std=0.01, a=-0.02, b=0.02)
        if self.hparams["visual_bias"]:
            self.visual_bias = nn.Parameter(torch.zeros(num_features, 1))

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return Eq. 1 of the paper with the scores of Eq. 2 for a batch; see :meth:`PairwiseRecommender.loss`."""
        terms = self.terms(users, positives, negatives)
        return self.bpr(terms.differences) + terms.penalty

    def terms(self, users: Tensor, positives: Tensor, negatives: Tensor) -> VisualTerms:
        """Return what the losses of a batch are made of."""
        p, q_i, q_j = self.users(users), self.items(positives), self.items(negatives)
        rho = p if self.hparams["shared_user_factors"] else self.visual_users(users)
        biases = self.biases(positives, negatives)
        visual_users, projection = self.with_visual_bias(rho), self.biased_projection()
        # The difference of the features is projected once, instead of the features of either item.
        images = self.features.difference(positives, negatives).to(projection.dtype) @ projection / self.feature_scale
        differences = self.difference(p, q_i, q_j, *biases) + dot(visual_users, images)
        penalty = self.penalty([p] if rho is p else [p, rho], [q_i, q_j, *biases])
        if self.hparams["regularizer"] == "linear":
            penalty = penalty + self._linear_penalty_of_images(positives, negatives)
        if self.hparams["projection_regularization"]:
            of_projection = parameter_penalty(self.hparams["regularizer"], projection)
            penalty = penalty + self.hparams["projection_regularization"] * of_projection
        return VisualTerms(differences, visual_users, projection, penalty)

    def with_visual_bias(self, rho: Tensor) -> Tensor:
        """Return ``ρ_u``, ``(B, K')``, with a last column of ones where there is a visual bias."""
        return torch.cat([rho, rho.new_ones(len(rho), 1)], dim=1) if self.hparams["visual_bias"] else rho

    def biased_projection(self) -> Tensor:
        """Return ``E``, ``(D, K')``, with ``β'`` as its last column where there is one."""
        return torch.cat([self.projection, self.visual_bias], dim=1) if self.hparams["visual_bias"] else self.projection

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``[p_u, ρ_u]``, or ``p_u`` that both parts share, and 1 for the biases."""
        p = self.users(users)
        return self.with_bias(p if self.hparams["shared_user_factors"] else torch.cat([p, self.visual_users(users)], 1))

    def item_vectors(self) -> Tensor:
        """Return ``[q_i, E f_i]``, or their sum, and the biases of all items."""
        images, q = self.features.project(self.biased_projection()) / self.feature_scale, self.items.weight
        width = self.projection.shape[1]
        # Where there is a bias at all: that of the item, that of its image, or their sum.
        biases = images[:, width:].sum(dim=1, keepdim=True)
        if self.hparams["item_bias"]:
            biases = biases + self.item_biases.weight
        images = images[:, :width]
        return self.with_bias(q + images if self.hparams["shared_user_factors"] else torch.cat([q, images], 1), biases)

    @property
    def has_biases(self) -> bool:
        """Whether items have something that they score with every user."""
        return self.hparams["item_bias"] or self.hparams["visual_bias"]

    def parameter_groups(self) -> dict[str, list[Tensor]]:
        """Return ``P`` with ``ρ``, ``Q``, and ``E`` with ``β'``."""
        groups = super().parameter_groups()
        if not self.hparams["shared_user_factors"]:
            groups["P"].append(self.visual_users.weight)
        groups["E"] = [self.projection, self.visual_bias] if self.hparams["visual_bias"] else [self.projection]
        return groups

    def _linear_penalty_of_images(self, positives: Tensor, negatives: Tensor) -> Tensor | float:
        """Return the linear λ-term of ``E f`` of a batch's items, which the paper's code counts to their rows."""
        weight = self.hparams["item_regularization"]
        weight = self.hparams["regularization"] if weight is None else weight
        if not weight:
            return 0.0
        seen = torch.cat([positives, negatives])
        features = self.features.rows(seen).sum(dim=0).to(self.projection.dtype) / self.feature_scale
        total = (features @ self.projection).sum()
        return weight * (total / len(positives) if self.hparams["reduction"] == "mean" else total)
