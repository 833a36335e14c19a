"""Adversarial perturbations in closed form: what an adversary takes from the difference of two scores."""

from typing import Literal

import torch
from torch import Tensor

from catwalk.recommenders.losses import dot

Perturbation = Literal["per_triplet", "per_item"]
"""Whether an adversary perturbs every triplet by itself, or has one perturbation of each item for the whole batch."""

TINY = 1e-24
"""Least squared length of a vector that is normalised: shorter ones have no direction, and no gradient."""


def visual_drop(visual_users: Tensor, projection: Tensor) -> Tensor:
    """Return by how much features that move by at most 1 can lower ``s_ui - s_uj``: ``2‖E ρ_u‖``, ``(B,)``.

    The worst that can be done to a triplet within radius ε is to move ``f_i`` along ``-E ρ_u`` and ``f_j`` along
    ``E ρ_u``. With ``G = EᵀE`` the length is ``sqrt(ρᵀGρ)``, and no vector of D entries is needed. Its gradient is that
    of a perturbation which is held constant, as AMR does it (Tang et al., *Adversarial training towards robust
    multimedia recommender system*, TKDE 2020).

    Args:
        visual_users: ``ρ_u`` of each triplet's user, ``(B, K)``.
        projection: ``E``, ``(D, K)``.
    """
    gram = projection.T @ projection
    return 2 * dot(visual_users @ gram, visual_users).clamp(min=TINY).sqrt()


def visual_drop_by_item(
    differences: Tensor, visual_users: Tensor, projection: Tensor, positives: Tensor, negatives: Tensor
) -> Tensor:
    """Return by how much features that move by 1 lower ``s_ui - s_uj``, one move per item and batch, ``(B,)``.

    As the code of AMR does it, an item's features move along the gradient of the batch's summed loss, which adds up
    over the triplets in which it occurs: it is ``E c_i`` with ``c_i = Σ ∓σ(-x) ρ_u``, minus where the item was bought.
    So ``Eᵀδ_i = G c_i / sqrt(c_iᵀ G c_i)`` with ``G = EᵀE``, and no vector of D entries is needed. The moves are held
    constant in the gradient.

    Args:
        differences: ``x = s_ui - s_uj`` of each triplet, ``(B,)``.
        visual_users: ``ρ_u`` of each triplet's user, ``(B, K)``.
        projection: ``E``, ``(D, K)``.
        positives: Items bought, int64 ``(B,)``.
        negatives: Items not bought, int64 ``(B,)``.
    """
    fixed = projection.detach()
    slopes = (torch.sigmoid(-differences)[:, None] * visual_users).detach()
    items, places = torch.cat([positives, negatives]).unique(return_inverse=True)
    gradients = slopes.new_zeros(len(items), slopes.shape[1]).index_add(0, places, torch.cat([-slopes, slopes]))
    lengths = dot(gradients @ (fixed.T @ fixed), gradients).clamp(min=TINY).sqrt()
    moves = (gradients / lengths[:, None])[places]
    moved = moves[: len(positives)] - moves[len(positives) :]
    # One E is that of the moves, which are constant, and the other that of the scores.
    return -dot(moved @ (fixed.T @ projection), visual_users)


def factor_drop(
    users: Tensor,
    positives: Tensor,
    negatives: Tensor,
    epsilon: float,
    differences: Tensor | None = None,
    rows: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Return by how much factors that move by ε along the gradient of the loss lower ``p_u · (q_i - q_j)``, ``(B,)``.

    The perturbation of adversarial personalised ranking, of every row of ``P`` and ``Q`` that a batch uses; it is held
    constant in the gradient (He et al., *Adversarial personalized ranking for recommendation*, SIGIR 2018).

    Args:
        users: ``p_u`` of each triplet, ``(B, K)``.
        positives: ``q_i`` of the item bought, ``(B, K)``.
        negatives: ``q_j`` of the item not bought, ``(B, K)``.
        epsilon: Length of each perturbation.
        differences: ``s_ui - s_uj`` of each triplet, ``(B,)``; only needed with ``rows``.
        rows: Numbers of users, items bought and items not bought, int64 ``(B,)`` each, where a user or an item that
            occurs several times shall have one perturbation, along the gradient of the batch's summed loss; each
            triplet has its own if None.
    """
    p, q_i, q_j = users.detach(), positives.detach(), negatives.detach()
    # The gradient of softplus(-x) by p, q_i and q_j, but for the factor σ(-x), which has no part in its direction.
    by_user, by_positive, by_negative = q_j - q_i, -p, p
    if rows is None:
        move_p, move_i, move_j = _unit(by_user), _unit(by_positive), _unit(by_negative)
    else:
        assert differences is not None
        slopes = torch.sigmoid(-differences.detach())[:, None]
        move_p = _unit_of_sums(slopes * by_user, rows[0])
        moves = _unit_of_sums(slopes.repeat(2, 1) * torch.cat([by_positive, by_negative]), torch.cat(rows[1:]))
        move_i, move_j = moves[: len(p)], moves[len(p) :]
    moved = dot(users + epsilon * move_p, positives - negatives + epsilon * (move_i - move_j))
    return dot(users, positives - negatives) - moved


def _unit(vectors: Tensor) -> Tensor:
    """Return rows of length 1; those without a direction stay 0."""
    return vectors / vectors.square().sum(dim=1, keepdim=True).clamp(min=TINY).sqrt()


def _unit_of_sums(vectors: Tensor, rows: Tensor) -> Tensor:
    """Return for each vector the direction of the sum of all that have its row number."""
    numbers, places = rows.unique(return_inverse=True)
    return _unit(vectors.new_zeros(len(numbers), vectors.shape[1]).index_add(0, places, vectors))[places]
