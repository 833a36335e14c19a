"""The score formulae of the recommenders, their training losses and their adversarial terms."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.files.checkpoints import read_checkpoint

Reduction = Literal["mean", "sum"]
"""Over the triplets of a batch."""

Regularizer = Literal["squared", "linear"]
"""What a regulariser adds up: the squares of parameters, or, as the paper's code does, the parameters themselves."""

Perturbation = Literal["per_triplet", "per_item"]
"""Whether an adversary perturbs every triplet by itself, or has one perturbation of each item for the whole batch."""

TINY = 1e-24
"""Least squared length of a vector that is normalised: shorter ones have no direction, and no gradient."""


@dataclass(frozen=True, eq=False)
class VisualScorer:
    """The parameters of a recommender whose scores are linear in the features, ``s_ui = p_u · q_i + ρ_u · E f_i``.

    A recommender's biases are in them: an item's is a column of ``q`` whose counterpart in ``p`` is 1, and the visual
    one is a column of ``E`` whose counterpart in ``ρ`` is 1.

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
        built_for = built_for_of(checkpoint) or {"feature_scale": None}
        weights, scale = checkpoint.get("state_dict", {}), built_for["feature_scale"]
        if scale is None or any(name not in weights for name in ("users.weight", "items.weight", "projection")):
            raise CatwalkError(f"{path} is not a checkpoint of a recommender that looks at images, such as VBPR")
        # In float32, as networks give features, whatever the recommender's own precision.
        weights = {name: weight.float() for name, weight in weights.items()}
        users, items, projection = weights["users.weight"], weights["items.weight"], weights["projection"]
        visual_users = weights.get("visual_users.weight", users)
        ones = torch.ones(len(users), 1)
        if "item_biases.weight" in weights:
            users, items = torch.cat([users, ones], 1), torch.cat([items, weights["item_biases.weight"]], 1)
        if "visual_bias" in weights:
            visual_users = torch.cat([visual_users, ones], 1)
            projection = torch.cat([projection, weights["visual_bias"]], 1)
        projection = projection / scale
        if not all(bool(tensor.isfinite().all()) for tensor in (users, items, visual_users, projection)):
            raise CatwalkError(f"{path} holds a recommender whose parameters are not finite: its training has diverged")
        return cls(users, items, visual_users, projection)

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


BUILT_FOR = "built_for"
"""Key of a recommender's checkpoint with the sizes of the data, and by what features are divided."""


def built_for_of(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return for what sizes, and which ``feature_scale``, a recommender was built, by its checkpoint.

    Returns:
        ``num_users``, ``num_items``, ``num_features`` and ``feature_scale``; None if the checkpoint is not one of a
        recommender, or holds values of another kind.
    """
    found, weights = checkpoint.get(BUILT_FOR), checkpoint.get("state_dict")
    sizes = ("num_users", "num_items", "num_features")
    if not isinstance(found, dict) or set(found) != {*sizes, "feature_scale"}:
        return None
    scale = found["feature_scale"]
    is_sound = (
        all(type(found[name]) is int and found[name] >= 0 for name in sizes)
        and (scale is None or (isinstance(scale, float) and 0 < scale < math.inf))
        and isinstance(weights, dict)
        and all(isinstance(weight, Tensor) for weight in weights.values())
    )
    return found if is_sound else None


def dot(left: Tensor, right: Tensor) -> Tensor:
    """Return the row-wise inner products ``(B,)`` of two ``(B, K)`` matrices."""
    return (left * right).sum(dim=1)


def bpr_loss(differences: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Return ``-ln σ(s_ui - s_uj)`` over ``(B,)`` triplets, the first term of Eq. 1 of the paper (Rendle et al. 2009).

    Args:
        differences: ``s_ui - s_uj``, ``(B,)``.
        reduction: Their mean, or, as Eq. 1 has it, their sum.
    """
    losses = F.softplus(-differences)
    return losses.mean() if reduction == "mean" else losses.sum()


def parameter_penalty(regularizer: Regularizer, *parameters: Tensor) -> Tensor:
    """Return the sum of the squares of all entries, ``‖θ‖²`` of Eq. 1, or of the entries themselves.

    The second, which the paper's code has, is not bounded below.
    """
    if regularizer == "linear":
        return torch.stack([tensor.sum() for tensor in parameters]).sum()
    return torch.stack([tensor.square().sum() for tensor in parameters]).sum()


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
