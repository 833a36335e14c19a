"""AMR: VBPR trained against an adversary who perturbs the features of the images."""

from typing import Any

from torch import Tensor

from catwalk.recommenders.scorers import Perturbation, visual_drop, visual_drop_by_item
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

    def __init__(
        self,
        *,
        epsilon: float = 1.0,
        adversarial_weight: float = 0.1,
        perturbation: Perturbation = "per_triplet",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.check_at_least(0, "epsilon", "adversarial_weight")
        self.check_choice(Perturbation, "perturbation")

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return VBPR's loss and λ times the adversarial one, for a batch; see :meth:`PairwiseRecommender.loss`."""
        terms = self.terms(users, positives, negatives)
        loss = self.bpr(terms.differences) + terms.penalty
        if self.hparams["adversarial_weight"]:
            if self.hparams["perturbation"] == "per_item":
                drop = visual_drop_by_item(
                    terms.differences, terms.visual_users, terms.projection, positives, negatives
                )
            else:
                drop = visual_drop(terms.visual_users, terms.projection)
            worst = terms.differences - self.hparams["epsilon"] * drop
            loss = loss + self.hparams["adversarial_weight"] * self.bpr(worst)
        return loss
