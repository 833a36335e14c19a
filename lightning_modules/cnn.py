"""Traditional training (T) of the CNN that classifies product images, and the base of every defended one."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics.classification import MulticlassAccuracy

from catwalk.errors import CatwalkError
from catwalk.networks.batching import Bucket
from catwalk.networks.building import build_network, without_initial_weights
from catwalk.networks.device import slow_in_bfloat16
from catwalk.networks.imagenet import imagenet_categories
from catwalk.networks.known_backbones import check_backbone
from catwalk.networks.network import IMAGENET_MEAN, IMAGENET_STD, Network
from catwalk.networks.prediction import Predictions, predict
from catwalk.processing.known import build_operations, specifications_of
from catwalk.processing.operation import Operation, Specification
from catwalk.shop.images import ItemImages
from lightning_modules.checkpoints import check_checkpoint, check_class
from lightning_modules.data_protocols import ClassifierData, classifier_data_of
from lightning_modules.initial_weights import InitialWeights
from lightning_modules.measured_module import MeasuredModule, Stage
from lightning_modules.resuming import Resuming

SIZES = ("category_names", "image_size")
"""Settings of a checkpoint that come from the data module."""

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Precisions of the Trainer: images, perturbations and weights stay float32 in all of them."""


class ProductClassifier(MeasuredModule):
    """A CNN that learns the categories of product images by cross-entropy (traditional training, T in the paper).

    Batches are ``(images, categories)`` with float32 images ``(N, 3, H, W)`` in [0, 1]; normalisation happens inside.
    The number of categories comes from the data module.

    Args:
        backbone: Import path of a function or class that returns a classifier, such as ``torchvision.models.resnet50``,
            ``timm.create_model`` or ``catwalk.networks.compact_cnn``.
        backbone_args: Its keyword arguments, such as ``{weights: IMAGENET1K_V2}``.
        weights: File with weights to begin with, of PyTorch or safetensors: the backbone's own ``state_dict``, or a
            checkpoint that holds it, such as those of the ``robustness`` library, of Free adversarial training and of
            ``catwalk fit``. The classification layer is kept if it is known to tell the same categories.
        freeze_up_to: Name of the last module, in the backbone's own naming, that stays as loaded, such as ``layer3``:
            it and all that is registered before it are not trained, and their BatchNorm statistics do not move.
        categories: ``dataset`` learns the dataset's categories; with ``imagenet`` an item's category is the one of
            ImageNet's 1000 classes that the pretrained network sees (the paper's protocol), and nothing is trained.
        mean: Mean per colour channel of the images that the backbone expects; ImageNet's by default.
        std: Standard deviation per colour channel.
        input_operations: What happens to images before the network sees them, in training too, such as
            ``catwalk.processing.JPEG``, each by class path; those of the checkpoint, if there is one, by default.
        label_smoothing: Share in [0, 1) of the target probability that is spread over all categories, in the loss that
            the weights minimise.
        optimizer: Optimizer by class path; SGD with Nesterov momentum 0.9, learning rate 0.1 and weight decay 5e-4 by
            default.
        lr_scheduler: Learning rate schedule by class path, stepped after every batch; one cycle from a tenth of the
            optimizer's rate up to it and down to 0 by default.
    """

    network: Network

    def __init__(
        self,
        backbone: str = "torchvision.models.resnet18",
        backbone_args: dict[str, Any] | None = None,
        weights: str | None = None,
        freeze_up_to: str | None = None,
        categories: Literal["dataset", "imagenet"] = "dataset",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        input_operations: list[Operation] | None = None,
        label_smoothing: float = 0.0,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.initial_weights = InitialWeights(weights, backbone_args)
        self.resuming = Resuming()
        if categories not in ("dataset", "imagenet"):
            raise CatwalkError(f"categories: must be dataset or imagenet, got {categories!r}")
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        # Plain values, which every checkpoint may hold.
        # No modules of this one until the network is built; a checkpoint holds their specifications and weights.
        self._stated = None if input_operations is None else _operations(input_operations)
        stated = None if self._stated is None else specifications_of(self._stated)
        plain = {
            "mean": list(mean),
            "std": list(std),
            "weights": None if weights is None else str(weights),
            "input_operations": stated,
        }
        self.hparams.update(plain)
        self.make_optimizer: Callable[[Iterable], Optimizer] = optimizer or _default_optimizer
        self.make_lr_scheduler = lr_scheduler

    @property
    def category_names(self) -> tuple[str, ...]:
        """Names of the C categories, in the order of the logits."""
        return tuple(self.hparams["category_names"])

    @property
    def is_built(self) -> bool:
        """Whether there is a network."""
        return hasattr(self, "network")

    def setup(self, stage: str) -> None:
        """Refuse what makes no sense with these categories, and types with less than 8 bits for a grey level."""
        self.check_command(getattr(stage, "value", stage))  # Lightning gives an enumeration
        if stage == "fit" and self.trainer.precision not in PRECISIONS:
            raise CatwalkError(
                f"trainer.precision: must be one of {', '.join(PRECISIONS)}, for images and weights stay float32; got "
                f"{self.trainer.precision}"
            )
        if stage == "fit" and self.trainer.precision == "bf16-mixed":
            notice = slow_in_bfloat16(self.trainer.strategy.root_device)
            if notice is not None:
                rank_zero_warn(f"trainer.precision: {notice}; leave it at 32-true")

    def configure_model(self) -> None:
        """Build the network for the data module's categories, once."""
        if self._trainer is not None:
            self.build_for(classifier_data_of(self.trainer))

    def build_for(self, data: ClassifierData) -> None:
        """Build the network for a data module's categories and images, unless it is there, and check that it fits.

        Args:
            data: The data module.

        Raises:
            CatwalkError: If the weights do not fit, or the network is there and was trained on something else.
        """
        size = data.image_size
        names = imagenet_categories() if self.hparams["categories"] == "imagenet" else data.category_names
        sizes = {"category_names": list(names), "image_size": list(size) if size is not None else None}
        if self.is_built:
            _check_sizes(self.hparams, sizes)
        else:
            self._build(sizes, pretrained=self.initial_weights.are_used)

    def _build(self, sizes: dict[str, Any], pretrained: bool) -> None:
        self.hparams.update(sizes)
        settings = self.hparams
        backbone_args = settings["backbone_args"]
        network = build_network(
            settings["backbone"],
            backbone_args if pretrained else without_initial_weights(backbone_args),
            len(settings["category_names"]),
            settings["mean"],
            settings["std"],
            weights=settings["weights"] if pretrained else None,
            category_names=settings["category_names"],
            keep_head=pretrained and settings["categories"] == "imagenet",
        )
        operations = self._stated
        if operations is None:  # the checkpoint's, which have been looked at
            found = settings["input_operations"]
            operations = build_operations(found, "model.input_operations", found)
        network = network.behind(operations)
        if settings["freeze_up_to"] is not None:
            network.freeze_up_to(settings["freeze_up_to"])
            # Lightning's warning that something is in eval mode when training begins: it is meant to be.
            warnings.filterwarnings("ignore", "Found .* in eval mode at the start of training")
        self.network = network
        accuracy = MulticlassAccuracy(len(settings["category_names"]), average="micro")
        self.val_accuracy, self.test_accuracy = accuracy.clone(), accuracy.clone()

    def check_command(self, command: str) -> None:
        """Raise a CatwalkError if ImageNet's classes were to be learnt or measured by the dataset's labels.

        Args:
            command: ``fit``, ``validate``, ``test`` or ``predict``.
        """
        if self.hparams["categories"] == "imagenet" and command != "predict":
            raise CatwalkError(
                f"categories: imagenet is for `predict` and for attacks, not for `{command}`: the dataset's labels are "
                "none of ImageNet's classes; to fine-tune the network on them, set categories: dataset"
            )

    @classmethod
    def check_settings(cls, path: str | Path, saved: dict[str, Any], given: dict[str, Any]) -> None:
        """Raise a CatwalkError if the checkpoint's backbone is neither known nor given."""
        named = given.get("backbone")
        arguments = given.get("backbone_args", saved.get("backbone_args"))
        given_args = without_initial_weights(given.get("backbone_args"))
        if isinstance(arguments, dict):
            arguments = without_initial_weights(arguments)
        check_backbone(str(path), saved.get("backbone") if named is None else named, arguments, named, given_args)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the network that the checkpoint describes where there is no data module, and check that it fits."""
        saved = checkpoint.get("hyper_parameters", {})
        if any(name not in saved for name in SIZES):
            raise CatwalkError("the checkpoint is not one of a product classifier")
        check_class(self, checkpoint)
        self._take_operations(saved.get("input_operations"))
        if not self.is_built:
            self._build({name: saved[name] for name in SIZES}, pretrained=False)
        else:
            _check_sizes(saved, self.hparams)
        check_checkpoint(self, checkpoint)
        self.initial_weights.replace_by_checkpoint()
        self.network.is_head_new = False
        if self._trainer is not None and self.trainer.training:
            self.resuming.load(checkpoint)

    def _take_operations(self, specifications: Any) -> None:
        """Put the network behind the input operations of a checkpoint, or raise a CatwalkError if others are stated."""
        stated = self.hparams["input_operations"]
        operations = build_operations(specifications, "the checkpoint", stated)
        found = specifications_of(operations)
        if stated is not None and stated != found:
            raise CatwalkError(
                f"input_operations: the checkpoint has {_named(found)}, and {_named(stated)} is stated: leave them "
                "out, or write another checkpoint with `catwalk defend`"
            )
        self.hparams["input_operations"] = found
        if self.is_built and specifications_of(self.network.operations) != found:
            self.network = self.network.behind(operations)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, C)`` of images ``(N, 3, H, W)`` in [0, 1]."""
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        """Return the mean cross-entropy of a batch."""
        loss = self.classification_loss(*batch)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def classification_loss(self, images: Tensor, categories: Tensor) -> Tensor:
        """Return the mean cross-entropy of images ``(N, 3, H, W)`` in [0, 1], as training minimises it."""
        loss = F.cross_entropy(self(images), categories, label_smoothing=self.hparams["label_smoothing"])
        self.watch_loss(loss)
        return loss

    def measure(self, batch: tuple[Tensor, Tensor], stage: Stage) -> None:
        """Measure loss and accuracy."""
        images, categories = batch
        logits, accuracy = self(images), self.val_accuracy if stage == "val" else self.test_accuracy
        accuracy.update(logits, categories)
        count, loss = len(images), F.cross_entropy(logits, categories)
        self.watch_loss(loss, stage)
        self.log(f"{stage}/loss", loss, sync_dist=True, batch_size=count)
        self.log(f"{stage}/accuracy", accuracy, prog_bar=True, batch_size=count)

    def end_measuring(self, stage: Stage) -> None:
        """Refuse a loss that is no number, and the accuracy that goes with it."""
        self.require_finite_loss(stage)

    def predict_step(self, batch: ItemImages, batch_idx: int) -> Predictions:
        """Return features and categories of the images of a batch; a row does not depend on its batch."""
        levels, items, alone = batch
        return predict(self.network, levels, len(items), [Bucket(np.arange(len(items)), alone)])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and a schedule that is stepped after every batch.

        Raises:
            CatwalkError: If one of them refuses a setting, or the schedule waits for a metric.
        """
        try:
            optimizer = self.make_optimizer([parameter for parameter in self.parameters() if parameter.requires_grad])
        except ValueError as error:
            raise CatwalkError(f"optimizer: {error}") from error
        if self.make_lr_scheduler is None:
            if self.total_steps() == 0:  # nothing is to be trained, and a cycle cannot have no steps
                return {"optimizer": optimizer}
            scheduler: Any = torch.optim.lr_scheduler.OneCycleLR(
                optimizer,
                max_lr=[group["lr"] for group in optimizer.param_groups],
                total_steps=self.total_steps(),
                div_factor=10,
                cycle_momentum=False,
            )
        else:
            try:
                scheduler = self.make_lr_scheduler(optimizer)
            except ValueError as error:
                raise CatwalkError(f"lr_scheduler: {error}") from error
            if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                raise CatwalkError(
                    "lr_scheduler: is stepped after every batch, and ReduceLROnPlateau waits for a metric"
                )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def total_steps(self) -> int:
        """Return how many steps the optimizer will have taken when the training ends.

        Raises:
            CatwalkError: If the training has no end.
        """
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise CatwalkError("the default lr_scheduler needs an end: give trainer.max_epochs or max_steps")
        return int(steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what was trained, and add what the training depends on besides its settings."""
        super().on_save_checkpoint(checkpoint)
        self.resuming.save(checkpoint)
        # The file of the initial weights is no longer needed, and may be gone when the checkpoint is read.
        checkpoint["hyper_parameters"] = {**checkpoint["hyper_parameters"], "weights": None}

    def on_predict_start(self) -> None:
        """Refuse to see ImageNet's classes with a random network; whether a checkpoint comes is known only now."""
        self.initial_weights.require(self.hparams)
        if self.network.is_head_new:
            rank_zero_warn(
                "the features are those of the pretrained network, but the categories are random: its classification "
                "layer is new and untrained; fine-tune it first, or set categories: imagenet"
            )

    def on_fit_start(self) -> None:
        """Take the seed of the run's random numbers from the checkpoint that it goes on from, or from the user."""
        self.initial_weights.require(self.hparams)
        self.network.is_head_new = False
        self.resuming.take_seed()

    def on_train_start(self) -> None:
        """Refuse to go on from a checkpoint of another training.

        Raises:
            CatwalkError: If its class, the number of its batches or its length differ.
        """
        shape = {"class": type(self).__name__, "batches in an epoch": self.trainer.num_training_batches}
        if self.make_lr_scheduler is None:  # whose cycle is in the checkpoint
            shape["steps in all"] = self.total_steps()
        self.resuming.take_shape(shape)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let a batch's random numbers (dropout, random starts) depend on seed, epoch, batch and process alone.

        So a run that was killed goes on as if it had not been, and what runs in between, such as a validation, takes
        no part in it.
        """
        self.resuming.seed_batch(self.current_epoch, batch_idx, self.global_rank)


def _check_sizes(trained: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raise a CatwalkError unless a network was trained for these categories and this size of images."""
    theirs, ours = list(trained["category_names"]), list(data["category_names"])
    if theirs != ours:
        if imagenet_categories() in (tuple(theirs), tuple(ours)):
            is_theirs = tuple(theirs) == imagenet_categories()
            told, stated = ("ImageNet's classes", "dataset") if is_theirs else ("those of a dataset", "imagenet")
            raise CatwalkError(
                f"categories: the classifier of the checkpoint tells {told}, and {stated} is stated; set categories: "
                f"{'imagenet' if is_theirs else 'dataset'}"
            )
        raise CatwalkError(
            f"the classifier was trained on {len(theirs)} categories ({', '.join(theirs[:5])}, …) and the dataset has "
            f"{len(ours)} ({', '.join(ours[:5])}, …): train one for this dataset"
        )
    if trained["image_size"] != data["image_size"]:
        # Attacks run at the size of the training: features of another size would not be theirs.
        raise CatwalkError(
            f"the classifier was trained on images of size {trained['image_size'] or 'their own'} (height, width) and "
            f"data.image_size is {data['image_size'] or 'not given'}: give the same"
        )


def _operations(given: Sequence[Any]) -> list[Operation]:
    """Return operations, which Lightning gives as their specifications where it goes by a checkpoint's settings."""
    return [
        operation
        for each in given
        for operation in ([each] if isinstance(each, Operation) else build_operations([each], "input_operations"))
    ]


def _named(specifications: Sequence[Specification]) -> str:
    """Return what to call operations in a message."""
    named = [f"{each['class_path'].rpartition('.')[2]} {each['init_args']}" for each in specifications]
    return ", ".join(named) or "none"


def _default_optimizer(parameters: Iterable) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
