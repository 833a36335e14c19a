"""AMR: VBPR trained against an adversary who perturbs the features of the images."""

from typing import Any

from catwalk.recommenders.adversarial import Perturbation
from catwalk.recommenders.amr import AMRModel, AMRSettings
from lightning_modules.vbpr import VBPR


class AMR(VBPR):
    """Adversarial multimedia recommendation: VBPR with adversarial regularisation of the features (Tang et al. 2020).

    To VBPR's loss is added, with weight λ, the same loss after the features of every item that the batch uses have
    moved by ε to where the loss is greatest. In closed form, from ``K × K`` numbers: no second pass through the
    features. With λ = 0 it is VBPR, bit for bit.

    Args:
        epsilon: Length of the perturbation of an item's features, after their division by the largest absolute value
            of the clean ones.
        adversarial_weight: λ of the adversarial loss.
        perturbation: ``per_triplet``, each triplet's own worst case; or ``per_item`` as published, where an item has
            one perturbation for the whole batch, along the gradient of the batch's loss.
        settings: What :class:`VBPR` takes. As published, ``warm_start`` is a checkpoint of VBPR.
    """

    settings: AMRSettings

    def __init__(
        self,
        *,
        epsilon: float = AMRSettings.epsilon,
        adversarial_weight: float = AMRSettings.adversarial_weight,
        perturbation: Perturbation = AMRSettings.perturbation,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.settings = self.settings_of(AMRSettings)

    def make_model(self, num_users: int, num_items: int, num_features: int) -> AMRModel:
        """Return a new :class:`~catwalk.recommenders.amr.AMRModel`."""
        return AMRModel(num_users, num_items, num_features, self.settings)
