"""VBPR against an adversary who perturbs images within ε, and so shifts features as far as images can."""

from dataclasses import dataclass

from torch import Tensor

from catwalk.limits import check_number
from catwalk.recommenders.feature_rows import FeatureRows
from catwalk.recommenders.reachable_shifts import reachable_drop
from catwalk.recommenders.vbpr import VBPRModel, VBPRSettings


@dataclass(frozen=True, kw_only=True)
class ImageRobustVBPRSettings(VBPRSettings):
    """Settings of :class:`ImageRobustVBPRModel`; :class:`lightning_modules.ImageRobustVBPR` says what they are.

    Raises:
        CatwalkError: If a setting is out of its range.
    """

    adversarial_weight: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.adversarial_weight, "adversarial_weight", least=0)


class ImageRobustVBPRModel(VBPRModel):
    """VBPR whose loss has an adversarial term of shifts that images can reach; see :class:`VBPRModel`.

    Attributes:
        shifts: Of all N items, J shifts of D features in a row; None until :meth:`be_ready_for` gives them. No part of
            a checkpoint: they are for training alone.
    """

    settings: ImageRobustVBPRSettings
    shifts: FeatureRows | None

    def __init__(self, num_users: int, num_items: int, num_features: int, settings: ImageRobustVBPRSettings) -> None:
        super().__init__(num_users, num_items, num_features, settings)
        self.shifts = None

    def be_ready_for(self, shifts: FeatureRows) -> None:
        """Take the shifts of all items, ``(N, J * D)``, before the model is trained."""
        self.shifts = shifts

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return VBPR's loss and λ times the adversarial one, for a batch; see :meth:`PairwiseModel.loss`."""
        terms = self.terms(users, positives, negatives)
        loss = self.bpr(terms.differences) + terms.penalty
        if self.settings.adversarial_weight:
            directions = terms.visual_users @ terms.projection.T / self.feature_scale
            drop = reachable_drop(directions, self._shifts_of(positives), self._shifts_of(negatives))
            loss = loss + self.settings.adversarial_weight * self.bpr(terms.differences - drop)
        return loss

    def _shifts_of(self, items: Tensor) -> Tensor:
        """Return the shifts of items int64 ``(B,)``, float32 ``(B, J, D)``."""
        if self.shifts is None:
            raise ValueError("there are no shifts to train against: give them by be_ready_for(shifts)")
        return self.shifts.rows(items).view(len(items), -1, self.projection.shape[0]).to(self.projection.dtype)
