"""The score formulae of the recommenders and their training losses."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from catwalk.backbones import read_checkpoint
from catwalk.errors import CatwalkError


@dataclass(frozen=True, eq=False)
class VisualScorer:
    """The parameters of a recommender whose scores are linear in the features, ``s_ui = p_u · q_i + ρ_u · E f_i``.

    Attributes:
        users: ``p``, float32 ``(U, K)``.
        items: ``q``, float32 ``(N, K)``.
        visual_users: ``ρ``, float32 ``(U, K')``.
        projection: ``E``, float32 ``(D, K')``, for features as networks give them: the recommender's own, divided by
            what it divides features by.
    """

    users: Tensor
    items: Tensor
    visual_users: Tensor
    projection: Tensor

    @classmethod
    def read(cls, path: str | Path) -> "VisualScorer":
        """Read the checkpoint of a recommender that looks at images.

        Raises:
            CatwalkError: If the file is missing, damaged or none of such a recommender, or its values are not finite.
        """
        checkpoint = read_checkpoint(path)
        weights = checkpoint.get("state_dict", {})
        names = ("users.weight", "items.weight", "visual_users.weight", "projection")
        scale = checkpoint.get("hyper_parameters", {}).get("feature_scale")
        if scale is None or any(name not in weights for name in names):
            raise CatwalkError(f"{path} is not a checkpoint of a recommender that looks at images, such as VBPR")
        # In float32, as networks give features, whatever the recommender's own precision.
        users, items, visual_users, projection = (weights[name].float() for name in names)
        if not all(bool(tensor.isfinite().all()) for tensor in (users, items, visual_users, projection)):
            raise CatwalkError(f"{path} holds a recommender whose parameters are not finite: its training has diverged")
        return cls(users, items, visual_users, projection / scale)

    def to(self, device: torch.device) -> "VisualScorer":
        """Return the same on a device, in tensors that gradients can flow by."""
        if self.users.device == device and not self.users.is_inference():
            return self
        with torch.inference_mode(False):
            return replace(self, **{name: tensor.to(device, copy=True) for name, tensor in vars(self).items()})

    def scores(self, features: Tensor, items: Tensor) -> Tensor:
        """Return the scores of items with given features for all users, ``(n, U)``.

        Args:
            features: float32 ``(n, D)``, as a network gives them.
            items: int64 ``(n,)`` in 0..N-1.
        """
        return self.items[items] @ self.users.T + (features @ self.projection) @ self.visual_users.T


def dot(left: Tensor, right: Tensor) -> Tensor:
    """Return the row-wise inner products ``(B,)`` of two ``(B, K)`` matrices."""
    return (left * right).sum(dim=1)


def bpr_difference(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return ``s_ui - s_uj`` of matrix factorisation, ``p_u · (q_i - q_j)`` (Rendle et al. 2009).

    Args:
        users: Factors of each triplet's user, ``(B, K)``.
        positives: Factors of the item bought, ``(B, K)``.
        negatives: Factors of the item not bought, ``(B, K)``.
    """
    return dot(users, positives - negatives)


def visual_difference(users: Tensor, positives: Tensor, negatives: Tensor, projection: Tensor) -> Tensor:
    """Return the visual part of ``s_ui - s_uj``, ``ρ_u · E(f_i - f_j)`` (Eq. 2 of the paper).

    The difference is projected once, instead of projecting either item.

    Args:
        users: Visual factors ``ρ_u`` of each triplet's user, ``(B, K)``.
        positives: Features of the item bought, ``(B, D)``.
        negatives: Features of the item not bought, ``(B, D)``.
        projection: ``E``, ``(D, K)``.
    """
    return dot(users, (positives - negatives) @ projection)


def bpr_loss(differences: Tensor) -> Tensor:
    """Return the mean of ``-ln σ(s_ui - s_uj)`` over ``(B,)`` triplets (the first term of Eq. 1 of the paper)."""
    return F.softplus(-differences).mean()


def squared_norm(*rows: Tensor) -> Tensor:
    """Return the sum of the squares of all entries, divided by the number of rows of the first: ``‖θ‖²`` per triplet.

    Args:
        *rows: Parameters that a batch used, ``(B, K)`` each.
    """
    return torch.stack([tensor.square().sum() for tensor in rows]).sum() / len(rows[0])
