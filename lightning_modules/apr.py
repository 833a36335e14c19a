"""APR: BPR-MF trained against an adversary who perturbs its factors."""

from typing import Any

from torch import Tensor

from catwalk.recommenders.scorers import Perturbation, factor_drop
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

    def __init__(
        self,
        *,
        epsilon: float = 0.5,
        adversarial_weight: float = 1.0,
        perturbation: Perturbation = "per_triplet",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.check_at_least(0, "epsilon", "adversarial_weight")
        self.check_choice(Perturbation, "perturbation")

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return BPR-MF's loss and λ times the adversarial one, for a batch; see :meth:`PairwiseRecommender.loss`."""
        p, q_i, q_j = self.users(users), self.items(positives), self.items(negatives)
        biases = self.biases(positives, negatives)
        differences = self.difference(p, q_i, q_j, *biases)
        loss = self.bpr(differences) + self.penalty([p], [q_i, q_j, *biases])
        if self.hparams["adversarial_weight"]:
            rows = (users, positives, negatives) if self.hparams["perturbation"] == "per_item" else None
            worst = differences - factor_drop(p, q_i, q_j, self.hparams["epsilon"], differences, rows)
            loss = loss + self.hparams["adversarial_weight"] * self.bpr(worst)
        return loss
