"""VBPR trained against perturbations of images, by the shifts of features that these can reach."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.trainer.states import TrainerFn

from catwalk.errors import CatwalkError
from catwalk.recommenders.feature_rows import FeatureRows
from catwalk.recommenders.image_robust_vbpr import ImageRobustVBPRModel, ImageRobustVBPRSettings
from catwalk.recommenders.reachable_shifts import ReachableShifts
from lightning_modules.data_protocols import RecommenderData
from lightning_modules.vbpr import VBPR


class ImageRobustVBPR(VBPR):
    """VBPR whose loss is also that of the worst image within ε, of the items that a batch uses.

    To VBPR's loss is added, with weight λ, the same loss after the features of every item of a triplet have shifted to
    where it is greatest: the item bought to a lower score, the other to a higher one. AMR lets features move freely
    within a ball, to where no image leads; here they shift as perturbed images shift them, which
    :class:`~callbacks.WriteReachableShifts` has found. The worst of finitely many is found by looking at each
    (:func:`~catwalk.recommenders.reachable_shifts.reachable_drop`). With λ = 0 it is VBPR, bit for bit.

    Args:
        shifts: Folder with the ``reachable_shifts.safetensors`` of the catalogue that is trained on, by the network
            that made its features; for training alone. A study finds its own.
        adversarial_weight: λ of the adversarial loss.
        settings: What :class:`VBPR` takes.
    """

    settings: ImageRobustVBPRSettings
    model: ImageRobustVBPRModel

    def __init__(
        self,
        *,
        shifts: Path | None = None,
        adversarial_weight: float = ImageRobustVBPRSettings.adversarial_weight,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        # Where files are is no part of what was learnt.
        kept: tuple[Any, Any] = self._hparams, self._hparams_initial
        for arguments in kept:
            arguments.pop("shifts", None)
        self.shifts = shifts
        self.settings = self.settings_of(ImageRobustVBPRSettings)

    def make_model(self, num_users: int, num_items: int, num_features: int) -> ImageRobustVBPRModel:
        """Return a new :class:`~catwalk.recommenders.image_robust_vbpr.ImageRobustVBPRModel`."""
        return ImageRobustVBPRModel(num_users, num_items, num_features, self.settings)

    def take_features(self, data: RecommenderData) -> None:
        """Look at the images by the features that the data module has now and, in training, at what they may become.

        Raises:
            CatwalkError: If there are no features, or no shifts of the same catalogue and network.
        """
        super().take_features(data)
        is_fit = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if not is_fit or not self.settings.adversarial_weight:
            return
        if self.shifts is None:
            raise CatwalkError(
                "shifts: ImageRobustVBPR is trained against the shifts of features that images can reach: give the "
                "folder of the file that `catwalk predict --config configs/cnn/reachable_shifts.yaml` writes"
            )
        found = ReachableShifts.read(self.shifts, self._features_of(data))
        rows = FeatureRows(found.shifts.flatten(1), data.feature_rows("cpu").storage)
        self.model.be_ready_for(rows.to(torch.device(self.device)))
