"""Logs how many images a CNN still classifies correctly under attack."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import MeanMetric

from callbacks.both_stages import MeasuringCallback
from callbacks.trainer_callbacks import callbacks_of
from catwalk.attacks import PGD
from catwalk.attacks.attack import Attack
from catwalk.errors import CatwalkError
from catwalk.keyed_random import content_keys
from lightning_modules.cnn import ProductClassifier
from lightning_modules.measured_module import Stage


class AdversarialAccuracy(MeasuringCallback):
    """Logs ``val/pgd_accuracy`` and ``test/pgd_accuracy``: the accuracy on images attacked away from their category.

    It is an upper bound of the CNN's robustness: a stronger attack may lower it. With another attack the metric has its
    name. The random start of an image depends on its pixels and the attack's seed alone, so that batch size and number
    of processes do not change the metric. The attack computes in float32, whatever the training does.

    Args:
        attack: An untargeted attack; PGD with ε = 8 grey levels, ten steps of ε/6 and a random start by default.
        max_validation_images: How many validation images to attack at most, the first ones; all by default. The test
            attacks all of its images.
        name: What stands before ``_accuracy`` in the metric's name; that of the attack's class by default.

    Raises:
        CatwalkError: If the attack is targeted or there is nothing to attack.
    """

    def __init__(
        self, attack: Attack | None = None, max_validation_images: int | None = None, name: str | None = None
    ) -> None:
        self.attack = PGD(epsilon=8.0, iterations=10, targeted=False) if attack is None else attack
        if self.attack.targeted or self.attack.knowledge != "network":
            raise CatwalkError(
                f"AdversarialAccuracy.attack: must lead away from an image's category, which {self.attack.name} does "
                "not; set targeted: false, or take another attack"
            )
        if max_validation_images is not None and max_validation_images < 1:
            raise CatwalkError(
                f"AdversarialAccuracy.max_validation_images: must be at least 1, or null for all, got "
                f"{max_validation_images}"
            )
        self.max_validation_images = max_validation_images
        self.name = type(self.attack).__name__.lower() if name is None else name
        self._hits = MeanMetric()
        self._left: int | None = None

    @property
    def metric_name(self) -> str:
        """Name of the metric, behind the stage's."""
        return f"{self.name}_accuracy"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what has no categories to be right about, and two metrics of one name."""
        if not isinstance(pl_module, ProductClassifier):
            raise CatwalkError(f"AdversarialAccuracy measures product classifiers, not a {type(pl_module).__name__}")
        others = (
            other for other in callbacks_of(trainer) if isinstance(other, AdversarialAccuracy) and other is not self
        )
        if any(other.metric_name == self.metric_name for other in others):
            raise CatwalkError(
                f"two AdversarialAccuracy would both log val/{self.metric_name}: give one of them another name "
                "(name: …)"
            )

    def begin_measuring(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Begin to count."""
        self._hits.to(pl_module.device).reset()
        most = self.max_validation_images if stage == "val" else None
        # Each process has every ``world_size``-th image.
        self._left = None if most is None else len(range(trainer.global_rank, most, trainer.world_size))

    def measure(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: tuple[Tensor, Tensor]) -> None:
        """Attack a batch."""
        if not trainer.sanity_checking:
            self._attack(pl_module, *batch)

    def end_measuring(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Log."""
        if not trainer.sanity_checking:
            pl_module.log(f"{stage}/{self.metric_name}", self._hits.compute(), prog_bar=stage == "val", sync_dist=True)

    def _attack(self, pl_module: Any, images: Tensor, categories: Tensor) -> None:
        images, categories = images[: self._left], categories[: self._left]
        if len(images) == 0:
            return
        if self._left is not None:
            self._left -= len(images)
        result = self.attack(pl_module.network, images, categories, keys=content_keys(images))
        self._hits.update((~result.success).float())
