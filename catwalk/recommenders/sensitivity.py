"""How strongly a visual recommender's scores depend on images: what makes several of them comparable."""

import torch
from torch import Tensor

from catwalk.recommenders.vbpr import VBPRModel


@torch.no_grad()
def visual_sensitivity(model: VBPRModel) -> Tensor:
    """Return the root mean square, over users, of the length of a score's gradient by the features, a scalar.

    The score of user u has the gradient ``E ρ_u / scale`` by an item's features, whatever the item. With ``G = EᵀE``
    the mean of the squared lengths is that of ``ρ_uᵀ G ρ_u``: no vector of D entries is needed.
    """
    projection = model.biased_projection() / model.feature_scale
    factors = model.users if model.settings.shared_user_factors else model.visual_users
    users = model.with_visual_bias(factors.weight)
    return ((users @ (projection.T @ projection)) * users).sum(dim=1).mean().clamp(min=0).sqrt()
