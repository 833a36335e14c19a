"""APR: BPR-MF against an adversary who perturbs its factors."""

from dataclasses import dataclass

from torch import Tensor

from catwalk.limits import check_choice, check_number
from catwalk.recommenders.adversarial import Perturbation, factor_drop
from catwalk.recommenders.bpr_mf import BPRMFModel, BPRMFSettings


@dataclass(frozen=True, kw_only=True)
class APRSettings(BPRMFSettings):
    """Settings of :class:`APRModel`; :class:`lightning_modules.APR` says what they are.

    Raises:
        CatwalkError: If a setting is out of its range.
    """

    epsilon: float = 0.5
    adversarial_weight: float = 1.0
    perturbation: Perturbation = "per_triplet"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.epsilon, "epsilon", least=0)
        check_number(self.adversarial_weight, "adversarial_weight", least=0)
        check_choice(self.perturbation, "perturbation", Perturbation)


class APRModel(BPRMFModel):
    """Matrix factorisation whose loss has an adversarial term (He et al., SIGIR 2018); see :class:`BPRMFModel`."""

    settings: APRSettings

    def __init__(self, num_users: int, num_items: int, settings: APRSettings) -> None:
        super().__init__(num_users, num_items, settings)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return BPR-MF's loss and λ times the adversarial one, for a batch; see :meth:`PairwiseModel.loss`."""
        p, q_i, q_j = self.users(users), self.items(positives), self.items(negatives)
        biases = self.biases(positives, negatives)
        differences = self.difference(p, q_i, q_j, *biases)
        loss = self.bpr(differences) + self.penalty([p], [q_i, q_j, *biases])
        if self.settings.adversarial_weight:
            rows = (users, positives, negatives) if self.settings.perturbation == "per_item" else None
            worst = differences - factor_drop(p, q_i, q_j, self.settings.epsilon, differences, rows)
            loss = loss + self.settings.adversarial_weight * self.bpr(worst)
        return loss
