"""Training of a detector that tells attacked images from clean ones."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer

from catwalk.detectors.trained_detector import SETTINGS, PoisoningHead, Sees, check_head
from catwalk.errors import CatwalkError
from catwalk.metrics import DetectionAUROC
from lightning_modules.checkpoints import check_class
from lightning_modules.data_protocols import detector_data_of
from lightning_modules.measured_module import MeasuredModule, Stage


class PoisoningDetector(MeasuredModule):
    """A small network that learns to tell attacked images from clean ones, beside a classifier that stays as it is.

    It minimises the binary cross-entropy, in which clean and attacked images weigh the same in sum (Metzen et al., "On
    Detecting Adversarial Perturbations", ICLR 2017, section 3.1). Batches are dictionaries of ``is_poisoned``, bool
    ``(N,)``, and of what it sees. What is trained is used through :class:`catwalk.detectors.TrainedDetector`.

    Args:
        sees: ``features`` of the classifier, or ``images``, which must all be of one size.
        width: Hidden units above features; channels of the first of four convolutions over images.
        optimizer: Optimizer by class path; Adam with a learning rate of 0.001 by default.
    """

    head: PoisoningHead

    def __init__(self, sees: Sees = "features", width: int = 64, optimizer: OptimizerCallable | None = None) -> None:
        super().__init__()
        check_head(sees, width)
        self.save_hyperparameters(ignore=["optimizer"])
        self.make_optimizer: Callable[[Iterable], Optimizer] = optimizer or _adam
        self.clean_per_poisoned = 1.0
        self.val_auroc, self.test_auroc = DetectionAUROC(), DetectionAUROC()

    def configure_model(self) -> None:
        """Build the network for the data module's classifier, once."""
        if self._trainer is None:
            return
        data = detector_data_of(self.trainer)
        self.clean_per_poisoned = data.clean_per_poisoned
        made_of = {
            "num_features": data.num_features,
            "network": data.network_fingerprint,
            "trained_on": list(data.attack_names),
            "roles": dict(vars(data.roles)),
        }
        if hasattr(self, "head"):
            if self.hparams["network"] != made_of["network"] and self.hparams["sees"] == "features":
                raise CatwalkError("data.classifier: the detector was trained beside another network: give that one")
            return
        self._build(made_of)

    def _build(self, made_of: dict[str, Any]) -> None:
        self.hparams.update(made_of)
        self.head = PoisoningHead(self.hparams["sees"], self.hparams["width"], self.hparams["num_features"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the network that the checkpoint describes, and check that it is this one."""
        saved = checkpoint.get("hyper_parameters", {})
        if not set(SETTINGS) <= set(saved):
            raise CatwalkError("the checkpoint is not one of a detector")
        check_class(self, checkpoint)
        for name in ("sees", "width"):
            if saved[name] != self.hparams[name]:
                raise CatwalkError(
                    f"the checkpoint was trained with {name}: {saved[name]}, and model.{name} is {self.hparams[name]}"
                )
        if not hasattr(self, "head"):
            self._build({name: saved[name] for name in SETTINGS})
        elif self.hparams["sees"] == "features" and saved["network"] != self.hparams["network"]:
            raise CatwalkError("the checkpoint was trained beside another network than data.classifier")

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return logits ``(N,)``, above 0 for what is taken for poisoned."""
        seen = self.hparams["sees"]
        if seen not in batch:
            raise CatwalkError(
                "model.sees: images must all be of one size, and those of the data are not: let it see features"
            )
        return self.head(batch[seen])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the weighted binary cross-entropy of a batch."""
        loss = self._loss(self(batch), batch["is_poisoned"])
        self.watch_loss(loss)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["is_poisoned"]))
        return loss

    def _loss(self, logits: Tensor, is_poisoned: Tensor) -> Tensor:
        weight = logits.new_tensor(self.clean_per_poisoned)
        return F.binary_cross_entropy_with_logits(logits, is_poisoned.float(), pos_weight=weight)

    def measure(self, batch: dict[str, Tensor], stage: Stage) -> None:
        """Measure loss and AUROC."""
        logits, is_poisoned = self(batch), batch["is_poisoned"]
        loss = self._loss(logits, is_poisoned)
        self.watch_loss(loss, stage)
        (self.val_auroc if stage == "val" else self.test_auroc).update(logits, is_poisoned)
        self.log(f"{stage}/loss", loss, sync_dist=True, batch_size=len(logits))

    def end_measuring(self, stage: Stage) -> None:
        """Log the AUROC, and refuse a loss that is no number."""
        self.require_finite_loss(stage)
        metric = self.val_auroc if stage == "val" else self.test_auroc
        self.log_dict({f"{stage}/{name}": value.float() for name, value in metric.compute().items()}, prog_bar=True)
        metric.reset()

    def configure_optimizers(self) -> Optimizer:
        """Return the optimizer.

        Raises:
            CatwalkError: If it refuses a setting.
        """
        try:
            return self.make_optimizer(self.parameters())
        except ValueError as error:
            raise CatwalkError(f"optimizer: {error}") from error


def _adam(parameters: Iterable) -> Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)
