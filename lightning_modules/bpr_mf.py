"""BPR-MF, matrix factorisation without images: the control that shows what images add."""

from typing import Any

from catwalk.recommenders.bpr_mf import BPRMFModel, BPRMFSettings
from catwalk.recommenders.losses import Reduction, Regularizer
from lightning_modules.pairwise import PairwiseRecommender


class BPRMF(PairwiseRecommender):
    """Matrix factorisation trained by Bayesian personalised ranking: ``s_ui = p_u · q_i`` (Rendle et al. 2009).

    Args:
        factors: K, the length of ``p_u`` and ``q_i``.
        item_bias: Add a bias ``β_i`` of the item to the score.
        regularization: λ of Eq. 1 of the paper, on the rows that a batch uses.
        item_regularization: λ on the items' rows, where it differs from that on the users'.
        regularizer: ``squared`` as in Eq. 1, or ``linear`` as in the paper's code, which adds up the parameters
            themselves and is not bounded below.
        reduction: Loss and λ-terms of a batch's triplets are averaged (``mean``) or added up (``sum``, as in Eq. 1).
        settings: What :class:`PairwiseRecommender` takes. The groups of parameters are ``P`` (users) and ``Q`` (items).
    """

    groups = BPRMFModel.groups
    settings: BPRMFSettings

    def __init__(
        self,
        *,
        factors: int = BPRMFSettings.factors,
        item_bias: bool = BPRMFSettings.item_bias,
        regularization: float = BPRMFSettings.regularization,
        item_regularization: float | None = BPRMFSettings.item_regularization,
        regularizer: Regularizer = BPRMFSettings.regularizer,
        reduction: Reduction = BPRMFSettings.reduction,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.settings = self.settings_of(BPRMFSettings)

    def make_model(self, num_users: int, num_items: int, num_features: int) -> BPRMFModel:
        """Return a new :class:`~catwalk.recommenders.bpr_mf.BPRMFModel`."""
        return BPRMFModel(num_users, num_items, self.settings)
