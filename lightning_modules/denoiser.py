"""Training of a denoiser, which takes adversarial perturbations out of images before a trained network sees them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from catwalk.attacks import PGD
from catwalk.attacks.threat_model import GreyLevels, grey_levels
from catwalk.errors import CatwalkError
from catwalk.keyed_random import content_keys
from catwalk.limits import check_number
from catwalk.networks.classifier import Classifier, load_classifier
from catwalk.processing.denoiser import DenoisingUNet
from lightning_modules.checkpoints import check_checkpoint, check_class
from lightning_modules.data_protocols import classifier_data_of
from lightning_modules.measured_module import MeasuredModule, Stage
from lightning_modules.resuming import Resuming


class ImageDenoiser(MeasuredModule):
    """A denoiser that learns, for a trained network, to undo what an attack on that network does to images.

    Every batch is attacked by PGD away from its categories. From the adversarial images, and from the clean ones, it
    shall make the clean: ``image_weight · |x̂ - x| + feature_weight · |f(x̂) - f(x)|``, the means of both, with f the
    network's features. The first is the pixel guided denoiser of Liao et al., "Defense Against Adversarial Attacks
    Using High-Level Representation Guided Denoiser", CVPR 2018 (Eq. 4), the second their feature guided one (section
    3.3). The network stays as it is. With F the cost of its forward pass, a step costs ``2F`` per iteration of PGD and
    ``5F`` for the loss, and the denoiser's own passes besides.

    Args:
        classifier: Checkpoint of the network, which ``catwalk fit`` wrote.
        width: Channels of the denoiser at full size, see :class:`~catwalk.processing.denoiser.DenoisingUNet`.
        depth: How often it halves the size.
        epsilon: Radius ε of the perturbations in grey levels, above 0; ``"8/255"`` are 8.
        iterations: Number of PGD's steps, of ε/4 each from a random start.
        image_weight: Weight of the distance between images, at least 0.
        feature_weight: Weight of the distance between features, at least 0.
        backbone: Import path of the network's backbone, where it is your own.
        backbone_args: The arguments that it was trained with, if there were any.
        optimizer: Optimizer by class path; Adam with learning rate 0.001 by default.
        lr_scheduler: Learning rate schedule by class path, stepped after every batch; none by default.

    Raises:
        CatwalkError: If an argument is out of its range, or both weights are 0.
    """

    def __init__(
        self,
        classifier: str,
        width: int = 16,
        depth: int = 2,
        epsilon: GreyLevels = 8.0,
        iterations: int = 7,
        image_weight: float = 1.0,
        feature_weight: float = 1.0,
        backbone: str | None = None,
        backbone_args: dict[str, Any] | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        epsilon = grey_levels(epsilon)
        if not epsilon > 0:
            raise CatwalkError(f"epsilon: must be a number of grey levels above 0, got {epsilon!r}")
        check_number(image_weight, "image_weight", 0)
        check_number(feature_weight, "feature_weight", 0)
        if image_weight == feature_weight == 0:
            raise CatwalkError("image_weight and feature_weight are both 0: there would be nothing to learn")
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        self.hparams.update({"classifier": str(classifier), "epsilon": epsilon})
        self.attack = PGD(epsilon, epsilon / 4, iterations, targeted=False)
        self.unet = DenoisingUNet(width, depth)
        self.resuming = Resuming()
        self.make_optimizer: Callable[[Iterable], Optimizer] = optimizer or _default_optimizer
        self.make_lr_scheduler = lr_scheduler
        self.accuracies = torch.nn.ModuleDict(
            {f"{stage}_{kind}": MeanMetric() for stage in ("val", "test") for kind in ("clean", "attacked")}
        )
        self._guide: tuple[Classifier, ...] = ()  # no module of this one: it is not trained, and in no checkpoint

    @property
    def guide(self) -> Classifier:
        """The trained network."""
        if not self._guide:
            settings = self.hparams
            guide = load_classifier(settings["classifier"], settings["backbone"], settings["backbone_args"])
            guide.network.requires_grad_(False)
            self._guide = (guide,)
        return self._guide[0]

    def setup(self, stage: str) -> None:
        """Load the network, and check that the data are what it was trained on."""
        data = classifier_data_of(self.trainer)
        if tuple(data.category_names) != self.guide.category_names:
            raise CatwalkError(
                f"classifier: {self.hparams['classifier']} was trained on the categories "
                f"{', '.join(self.guide.category_names[:5])}, …, and the dataset has "
                f"{', '.join(list(data.category_names)[:5])}, …: give one that was trained on these"
            )
        size = None if data.image_size is None else tuple(data.image_size)
        if size != self.guide.image_size:
            raise CatwalkError(
                f"classifier: {self.hparams['classifier']} was trained on images of size "
                f"{self.guide.image_size or 'their own'}, and data.image_size is {size or 'not given'}: give the same"
            )
        self.guide.network.to(self.trainer.strategy.root_device)

    def forward(self, images: Tensor) -> Tensor:
        """Return denoised images ``(N, 3, H, W)`` of images in [0, 1], not clipped."""
        return self.unet(images)

    def denoising_loss(self, images: Tensor, clean: Tensor) -> Tensor:
        """Return the mean loss of images ``(N, 3, H, W)`` of which the clean ones shall be made."""
        denoised, network = self(images), self.guide.network
        with torch.no_grad():
            wanted = network.features(clean)
        loss = self.hparams["image_weight"] * F.l1_loss(denoised, clean)
        return loss + self.hparams["feature_weight"] * F.l1_loss(network.features(denoised), wanted)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss on the images of a batch, attacked and clean."""
        images, categories = batch
        # No item keys: each visit of an image starts from another point.
        adversarial, _ = self.attack.perturb(self.guide.network, images, categories, None)
        both, clean = torch.cat([adversarial.detach(), images]), torch.cat([images, images])
        loss = self.denoising_loss(both, clean)
        self.watch_loss(loss)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def measure(self, batch: tuple[Tensor, Tensor], stage: Stage) -> None:
        """Measure the loss on attacked images, and the network's accuracy on denoised ones, attacked and clean."""
        images, categories = batch
        network = self.guide.network
        adversarial = self.attack(network, images, categories, keys=content_keys(images)).images
        loss = self.denoising_loss(adversarial, images)
        self.watch_loss(loss, stage)
        self.log(f"{stage}/loss", loss, sync_dist=True, batch_size=len(images))
        for kind, shown in (("clean", images), ("attacked", adversarial)):
            metric = self.accuracies[f"{stage}_{kind}"]
            assert isinstance(metric, MeanMetric)
            metric.update((network(self(shown).clamp(0, 1)).argmax(dim=1) == categories).float())
            name = "accuracy" if kind == "clean" else "attacked_accuracy"
            self.log(f"{stage}/{name}", metric, prog_bar=True, batch_size=len(images))

    def end_measuring(self, stage: Stage) -> None:
        """Refuse a loss that is no number."""
        self.require_finite_loss(stage)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer, and the schedule if there is one."""
        try:
            optimizer = self.make_optimizer(self.unet.parameters())
            if self.make_lr_scheduler is None:
                return {"optimizer": optimizer}
            scheduler: Any = self.make_lr_scheduler(optimizer)
        except ValueError as error:
            raise CatwalkError(f"optimizer or lr_scheduler: {error}") from error
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what was trained, and add what the training depends on besides its settings."""
        super().on_save_checkpoint(checkpoint)
        self.resuming.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of something else."""
        check_class(self, checkpoint)
        check_checkpoint(self, checkpoint)
        if self._trainer is not None and self.trainer.training:
            self.resuming.load(checkpoint)

    def on_fit_start(self) -> None:
        """Take the seed of the run's random numbers from the checkpoint that it goes on from, or from the user."""
        self.resuming.take_seed()

    def on_train_start(self) -> None:
        """Refuse to go on from a checkpoint of another training."""
        self.resuming.take_shape(
            {"class": type(self).__name__, "batches in an epoch": self.trainer.num_training_batches}
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let a batch's random starts depend on seed, epoch, batch and process alone."""
        self.resuming.seed_batch(self.current_epoch, batch_idx, self.global_rank)


def _default_optimizer(parameters: Iterable) -> Optimizer:
    return torch.optim.Adam(parameters, lr=0.001)
