"""APR: BPR-MF trained against an adversary who perturbs its factors."""

from typing import Any

from catwalk.recommenders.adversarial import Perturbation
from catwalk.recommenders.apr import APRModel, APRSettings
from lightning_modules.bpr_mf import BPRMF


class APR(BPRMF):
    """Adversarial personalised ranking on matrix factorisation, AMF (He et al., SIGIR 2018).

    To BPR-MF's loss is added, with weight λ, the same loss after every row of ``P`` and ``Q`` that the batch uses has
    moved by ε along its gradient. In closed form: no second pass. With λ = 0 it is BPR-MF. As published it begins with
    a trained BPR-MF (``warm_start``): an ε larger than the factors, as 0.5 is at their beginning, keeps them at 0.

    Args:
        epsilon: Length of the perturbation of a row of ``P`` or ``Q``.
        adversarial_weight: λ of the adversarial loss.
        perturbation: ``per_triplet``, each triplet's own worst case; or ``per_item`` as published, where a user or an
            item has one perturbation for the whole batch, along the gradient of the batch's loss.
        settings: What :class:`BPRMF` takes; biases are not perturbed. As published, ``warm_start`` is a checkpoint of
            BPR-MF.
    """

    settings: APRSettings

    def __init__(
        self,
        *,
        epsilon: float = APRSettings.epsilon,
        adversarial_weight: float = APRSettings.adversarial_weight,
        perturbation: Perturbation = APRSettings.perturbation,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.settings = self.settings_of(APRSettings)

    def make_model(self, num_users: int, num_items: int, num_features: int) -> APRModel:
        """Return a new :class:`~catwalk.recommenders.apr.APRModel`."""
        return APRModel(num_users, num_items, self.settings)
