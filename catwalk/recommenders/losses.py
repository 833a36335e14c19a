"""Losses of the recommenders that learn from pairs of items, and what their parameters cost."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["mean", "sum"]
"""Over the triplets of a batch."""

Regularizer = Literal["squared", "linear"]
"""Terms of a regulariser: the squares of parameters, or, as the paper's code does, the parameters themselves."""


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
