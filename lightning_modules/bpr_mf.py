"""BPR-MF, matrix factorisation without images: the control that shows what images add."""

from collections.abc import Sequence

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor

from catwalk.scorers import bpr_difference, bpr_loss, squared_norm
from lightning_modules.recommender import Recommender, embedding


class BPRMF(Recommender):
    """Matrix factorisation trained by Bayesian personalised ranking: ``s_ui = p_u · q_i`` (Rendle et al. 2009).

    Args:
        factors: K, the length of ``p_u`` and ``q_i``.
        regularization: λ of Eq. 1 of the paper, on the rows that a batch uses, per triplet.
        top_k: List lengths K of HR@K and nDCG@K.
        optimizer: Optimizer by class path; Adam with learning rate 0.005 by default.
    """

    def __init__(
        self,
        factors: int = 64,
        regularization: float = 0.02,
        top_k: Sequence[int] = (20,),
        optimizer: OptimizerCallable | None = None,
    ) -> None:
        super().__init__(top_k, optimizer)
        self.save_hyperparameters(ignore="optimizer")

    def build(self, num_users: int, num_items: int, num_features: int) -> None:
        """Create ``P`` and ``Q``."""
        self.users = embedding(num_users, self.hparams["factors"])
        self.items = embedding(num_items, self.hparams["factors"])

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return Eq. 1 of the paper, averaged over the batch."""
        p, q_i, q_j = self.users(users), self.items(positives), self.items(negatives)
        penalty = squared_norm(p, q_i, q_j)
        return bpr_loss(bpr_difference(p, q_i, q_j)) + self.hparams["regularization"] * penalty

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return ``p_u``."""
        return self.users(users)

    def item_vectors(self) -> Tensor:
        """Return ``Q``."""
        return torch.clone(self.items.weight)
