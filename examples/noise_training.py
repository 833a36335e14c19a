"""A defence of your own: a CNN that is trained on noisy images."""

import torch
from torch import Tensor

from lightning_modules.adversarial_cnn import DefendedClassifier


class NoiseClassifier(DefendedClassifier):
    """A CNN trained on images with noise from ``U(-ε, ε)``, drawn anew at every visit of an image.

    For the arguments see :class:`~lightning_modules.adversarial_cnn.DefendedClassifier`: ``epsilon`` is ε, in grey
    levels.
    """

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of a batch's images ``(N, 3, H, W)`` in [0, 1] with noise."""
        images, categories = batch
        noise = self.hparams["epsilon"] / 255 * (2 * torch.rand_like(images) - 1)
        loss = self.classification_loss((images + noise).clamp(0, 1), categories)
        self.log("train/loss", loss, prog_bar=True)
        return loss
