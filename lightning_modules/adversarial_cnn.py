"""Adversarial training (AT) of the CNN: it learns from images that an attack has just crafted against it."""

import abc
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from catwalk.attacks import PGD
from catwalk.attacks.attack import Attack
from catwalk.attacks.threat_model import GreyLevels, below_half_a_level, grey_levels
from catwalk.errors import CatwalkError
from catwalk.networks.frozen import eval_mode
from lightning_modules.cnn import SIZES, ProductClassifier


class DefendedClassifier(ProductClassifier, abc.ABC):
    """Base of the CNNs that are trained to withstand perturbations of up to ε grey levels in the L-infinity norm.

    They train on images of floating-point numbers, which no file holds: an ε below half a grey level is trained with
    all the same, and a warning says so.

    ``label_smoothing`` is of the loss that the weights minimise. AT and Fast AT, whose attacks are passes of their own,
    look for images that are far from the category itself, without smoothing, as their authors do. FAT's perturbation
    climbs the smoothed loss, for one backward pass gives both gradients.

    Args:
        epsilon: Radius ε of the perturbations in grey levels, above 0; ``"8/255"`` are 8.
        **settings: As in :class:`ProductClassifier`.
    """

    def __init__(self, epsilon: GreyLevels = 8.0, **settings: Any) -> None:
        epsilon = grey_levels(epsilon)  # before Lightning records it
        for name in SIZES:  # Lightning hands on all that a checkpoint records
            settings.pop(name, None)
        super().__init__(**settings)
        if not 0 < epsilon <= 255:
            raise CatwalkError(f"epsilon: must be a number of grey levels above 0 and at most 255, got {epsilon!r}")
        reason = below_half_a_level(epsilon)
        if reason is not None:
            rank_zero_warn(f"epsilon: {reason}")

    @abc.abstractmethod
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        """Train on a batch, perturbed."""

    def loss_under(self, attack: Attack, images: Tensor, categories: Tensor) -> Tensor:
        """Attack images away from their categories and return their mean cross-entropy.

        The network is in eval mode for the attack, then as it was. No item keys: each visit of an image starts from
        another point. The attack's gradients flow to the images alone, so nothing reaches the parameters' own, nor
        the hooks by which processes exchange them.
        """
        with eval_mode(self.network):
            adversarial, _ = attack.perturb(self.network, images, categories, None)
        loss = self.classification_loss(adversarial.detach(), categories)
        self.log("train/loss", loss, prog_bar=True)
        return loss


class AdversarialClassifier(DefendedClassifier):
    """A CNN trained on PGD's adversarial images instead of the clean ones (adversarial training, AT in the paper).

    Every step first maximises the cross-entropy over the ε-ball of each image by PGD, away from its category and with
    the network in eval mode, and then minimises it at the images found, in train mode (Madry et al., "Towards Deep
    Learning Models Resistant to Adversarial Attacks", ICLR 2018, section 2.1 and Eq. 2.1). With F the cost of a forward
    pass, a step costs 2F per iteration and 3F for the training: 17F with the seven iterations of the paper's CIFAR
    networks, 5.7 times a traditional step.

    Args:
        epsilon: Radius ε of the perturbations in grey levels, above 0 and at most 255; ``"8/255"`` are 8.
        step: Length of a step in grey levels, above 0; None means ``epsilon / 4``, Madry's 2 for an ε of 8.
        iterations: Number of PGD's steps, at least 1.
        random_start: Whether PGD starts from a uniformly random point of the ball.
        **settings: As in :class:`ProductClassifier`.

    Raises:
        CatwalkError: If an argument is out of its range.
    """

    def __init__(
        self,
        epsilon: GreyLevels = 8.0,
        step: GreyLevels | None = None,
        iterations: int = 7,
        random_start: bool = True,
        **settings: Any,
    ) -> None:
        epsilon, step = grey_levels(epsilon), None if step is None else grey_levels(step, "step")
        super().__init__(epsilon, **settings)
        self.attack = PGD(epsilon, epsilon / 4 if step is None else step, iterations, random_start, targeted=False)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of adversarial images."""
        return self.loss_under(self.attack, *batch)
