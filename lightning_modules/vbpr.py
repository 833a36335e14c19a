"""VBPR: matrix factorisation that also looks at the items' images."""

from typing import Any

from catwalk.recommenders.losses import Reduction, Regularizer
from catwalk.recommenders.vbpr import VBPRModel, VBPRSettings
from lightning_modules.pairwise import PairwiseRecommender


class VBPR(PairwiseRecommender):
    """Visual Bayesian personalised ranking: ``s_ui = p_u · q_i + ρ_u · (E f_i)`` (He & McAuley 2016; Eq. 2).

    The features ``f`` are divided by the largest absolute value of the clean ones.

    Args:
        factors: K, the length of ``p_u`` and ``q_i``.
        item_bias: Add a bias ``β_i`` of the item to the score.
        regularization: λ of Eq. 1 of the paper, on the rows of ``P``, ``ρ`` and ``Q`` that a batch uses.
        item_regularization: λ on the items' rows, where it differs from that on the users'.
        regularizer: ``squared`` as in Eq. 1, or ``linear`` as in the paper's code, which adds up the parameters
            themselves and is not bounded below.
        reduction: Loss and λ-terms of a batch's triplets are averaged (``mean``) or added up (``sum``, as in Eq. 1).
        visual_factors: Length of ``ρ_u`` and number of columns of ``E``.
        shared_user_factors: ``ρ_u`` is ``p_u``, as in the paper's code: ``s_ui = p_u · (q_i + E f_i)``. Then
            ``visual_factors`` counts for nothing.
        visual_bias: Add ``β' · f_i`` to the score, a bias of what the item looks like.
        projection_regularization: λ of Eq. 1 on ``E`` and ``β'``, which is not divided by the number of triplets. The
            linear regulariser of the paper's code counts ``E f`` to the items' rows.
        settings: What :class:`PairwiseRecommender` takes. The groups of parameters are ``P`` (users, ``ρ`` too), ``Q``
            (items) and ``E`` (with ``β'``).
    """

    uses_features = True
    groups = VBPRModel.groups
    settings: VBPRSettings

    def __init__(
        self,
        *,
        factors: int = VBPRSettings.factors,
        item_bias: bool = VBPRSettings.item_bias,
        regularization: float = VBPRSettings.regularization,
        item_regularization: float | None = VBPRSettings.item_regularization,
        regularizer: Regularizer = VBPRSettings.regularizer,
        reduction: Reduction = VBPRSettings.reduction,
        visual_factors: int = VBPRSettings.visual_factors,
        shared_user_factors: bool = VBPRSettings.shared_user_factors,
        visual_bias: bool = VBPRSettings.visual_bias,
        projection_regularization: float = VBPRSettings.projection_regularization,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.settings = self.settings_of(VBPRSettings)

    def make_model(self, num_users: int, num_items: int, num_features: int) -> VBPRModel:
        """Return a new :class:`~catwalk.recommenders.vbpr.VBPRModel`."""
        return VBPRModel(num_users, num_items, num_features, self.settings)
