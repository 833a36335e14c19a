"""AMR: VBPR against an adversary who perturbs the features of the images."""

from dataclasses import dataclass

from torch import Tensor

from catwalk.limits import check_choice, check_number
from catwalk.recommenders.adversarial import Perturbation, visual_drop, visual_drop_by_item
from catwalk.recommenders.vbpr import VBPRModel, VBPRSettings


@dataclass(frozen=True, kw_only=True)
class AMRSettings(VBPRSettings):
    """Settings of :class:`AMRModel`; :class:`lightning_modules.AMR` says what they are.

    Raises:
        CatwalkError: If a setting is out of its range.
    """

    epsilon: float = 1.0
    adversarial_weight: float = 0.1
    perturbation: Perturbation = "per_triplet"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.epsilon, "epsilon", least=0)
        check_number(self.adversarial_weight, "adversarial_weight", least=0)
        check_choice(self.perturbation, "perturbation", Perturbation)


class AMRModel(VBPRModel):
    """VBPR whose loss has an adversarial term of the features (Tang et al. 2020); see :class:`VBPRModel`."""

    settings: AMRSettings

    def __init__(self, num_users: int, num_items: int, num_features: int, settings: AMRSettings) -> None:
        super().__init__(num_users, num_items, num_features, settings)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return VBPR's loss and λ times the adversarial one, for a batch; see :meth:`PairwiseModel.loss`."""
        terms = self.terms(users, positives, negatives)
        loss = self.bpr(terms.differences) + terms.penalty
        if self.settings.adversarial_weight:
            if self.settings.perturbation == "per_item":
                drop = visual_drop_by_item(
                    terms.differences, terms.visual_users, terms.projection, positives, negatives
                )
            else:
                drop = visual_drop(terms.visual_users, terms.projection)
            worst = terms.differences - self.settings.epsilon * drop
            loss = loss + self.settings.adversarial_weight * self.bpr(worst)
        return loss
