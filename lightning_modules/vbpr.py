"""VBPR: matrix factorisation that also looks at the items' images."""

from collections.abc import Sequence

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from catwalk.scorers import bpr_difference, bpr_loss, squared_norm, visual_difference
from lightning_modules.recommender import Recommender, embedding


class VBPR(Recommender):
    """Visual Bayesian personalised ranking: ``s_ui = p_u · q_i + ρ_u · (E f_i)`` (He & McAuley 2016; Eq. 2).

    The features ``f`` are divided by the largest absolute value of the clean ones.

    Args:
        factors: Length of ``p_u`` and ``q_i``.
        visual_factors: Length of ``ρ_u`` and number of rows of ``E``.
        regularization: λ of Eq. 1, on the rows of ``P``, ``Q`` and ``ρ`` that a batch uses, per triplet.
        projection_regularization: λ of Eq. 1 on ``E``.
        top_k: List lengths K of HR@K and nDCG@K.
        optimizer: Optimizer by class path; Adam with learning rate 0.005 by default.
    """

    uses_features = True
    features: Tensor

    def __init__(
        self,
        factors: int = 64,
        visual_factors: int = 64,
        regularization: float = 0.02,
        projection_regularization: float = 0.003,
        top_k: Sequence[int] = (20,),
        optimizer: OptimizerCallable | None = None,
    ) -> None:
        super().__init__(top_k, optimizer)
        self.save_hyperparameters(ignore="optimizer")

    def build(self, num_users: int, num_items: int, num_features: int) -> None:
        """Create ``P``, ``Q``, ``ρ`` and ``E``."""
        self.users = embedding(num_users, self.hparams["factors"])
        self.items = embedding(num_items, self.hparams["factors"])
        self.visual_users = embedding(num_users, self.hparams["visual_factors"])
        self.projection = nn.Parameter(torch.empty(num_features, self.hparams["visual_factors"]))
        nn.init.trunc_normal_(self.projection, std=0.01, a=-0.02, b=0.02)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return Eq. 1 of the paper with the scores of Eq. 2, averaged over the batch."""
        p, q_i, q_j, rho = self.users(users), self.items(positives), self.items(negatives), self.visual_users(users)
        differences = bpr_difference(p, q_i, q_j) + visual_difference(
            rho, self.features[positives], self.features[negatives], self.projection
        )
        loss = bpr_loss(differences) + self.hparams["regularization"] * squared_norm(p, q_i, q_j, rho)
        if self.hparams["projection_regularization"]:
            loss = loss + self.hparams["projection_regularization"] * self.projection.square().sum()
        return loss

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``[p_u, ρ_u]``."""
        return torch.cat([self.users(users), self.visual_users(users)], dim=1)

    def item_vectors(self) -> Tensor:
        """Return ``[q_i, E f_i]`` of all items."""
        return torch.cat([self.items.weight, self.features @ self.projection], dim=1)
