"""The score formulae of the recommenders and their training losses."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
