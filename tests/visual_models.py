"""A model of VBPR with given parameters, for attacks that know it."""

import torch

from catwalk.recommenders.vbpr import VBPRModel, VBPRSettings


def visual_model(p, q, rho, e):
    """Eq. 2 with these parameters: p ``(U, K)``, q ``(N, K)``, rho ``(U, K')``, e ``(D, K')``."""
    settings = VBPRSettings(factors=p.shape[1], visual_factors=rho.shape[1])
    with torch.random.fork_rng():  # its own weights, which are replaced, are drawn
        model = VBPRModel(len(p), len(q), len(e), settings)
    weights = {"users.weight": p, "items.weight": q, "visual_users.weight": rho, "projection": e}
    model.load_state_dict(weights)
    return model.requires_grad_(False)


def parameters_of(model):
    """p, q, rho and e again."""
    return model.users.weight, model.items.weight, model.visual_users.weight, model.projection
