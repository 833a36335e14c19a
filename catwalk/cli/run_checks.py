"""Checks of a run, before and after its work, and what Lightning's own refusals mean."""

import os
import re
import traceback
from typing import Any

from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter

from callbacks.show_batches import ShowBatches
from callbacks.trainer_callbacks import callbacks_of
from catwalk.configuration.names import did_you_mean
from catwalk.errors import CatwalkError
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import ProductClassifier, Recommender

NOTHING_HELD_OUT = (
    "nothing is held out for validation; set data.validation to true for a recommender, data.validation_share above 0 "
    "for a CNN, or give the dataset folder a validation split"
)


class RequireMonitored(Callback):
    """Refuses to train where another callback waits for a metric of a validation that never comes."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what the callbacks monitor."""
        if any(counts(trainer.num_val_batches)):
            return
        for callback in callbacks_of(trainer):
            monitor = getattr(callback, "monitor", None)
            if isinstance(monitor, str) and monitor.startswith("val/"):
                name = type(callback).__name__
                raise CatwalkError(f"trainer.callbacks: {name}.monitor is {monitor}, and {NOTHING_HELD_OUT}")


def check_pair(model: LightningModule, data: LightningDataModule) -> None:
    """Raise a CatwalkError for a recommender without purchases, and for a CNN without images to learn from."""
    if isinstance(model, Recommender) and isinstance(data, ProductImages):
        wanted = "datamodules.InteractionTriplets: a recommender learns from purchases"
    elif isinstance(model, ProductClassifier) and isinstance(data, InteractionTriplets):
        wanted = "datamodules.ProductImages: a CNN learns from images"
    else:
        return
    raise CatwalkError(f"data: {type(model).__name__} does not work with {type(data).__name__}; give {wanted}")


def require_weights(command: str, model: LightningModule) -> None:
    """Raise a CatwalkError where the weights would be random, for there is no checkpoint."""
    if isinstance(model, Recommender) and not model.learns:
        return
    if not (isinstance(model, ProductClassifier) and model.initial_weights.are_given):
        others = (
            ", or, for a network that others trained, model.weights" if isinstance(model, ProductClassifier) else ""
        )
        raise CatwalkError(
            f"{command}: ckpt_path is missing, and without it the weights would be random; "
            f"give the checkpoint that `catwalk fit` wrote{others}"
        )


def counts(num_batches: Any) -> list[float]:
    """Return the numbers of batches of all loaders."""
    return list(num_batches) if isinstance(num_batches, list | tuple) else [num_batches]


def writes_predictions(callback: Callback) -> bool:
    """Return whether a callback may write predictions: a writer, or one that looks at them and is not Lightning's."""
    if isinstance(callback, BasePredictionWriter):
        return True
    if isinstance(callback, ShowBatches):
        return False
    hooks = ("on_predict_batch_end", "on_predict_epoch_end", "on_predict_end")
    looks = any(getattr(type(callback), hook) is not getattr(Callback, hook) for hook in hooks)
    return looks and not type(callback).__module__.startswith("pytorch_lightning.")


def is_refusal(error: Exception) -> bool:
    """Return whether an error is one by which Lightning, an optimizer or a remote file system refuse a setting.

    They raise it themselves; one that is raised below them, or by our code, is a bug.
    """
    if not isinstance(error, ValueError | RuntimeError | ImportError):
        return False
    place = traceback.extract_tb(error.__traceback__)[-1].filename.replace(os.sep, "/")
    return any(f"/{folder}/" in place for folder in ("pytorch_lightning", "lightning_fabric", "torch/optim", "fsspec"))


def unknown_metric(message: str) -> str | None:
    """Explain how Lightning says that a callback monitors what there is not; None for any other message."""
    match = re.match(r"(Early) stopping conditioned on metric `(.+?)`.*following: (.+)", message) or re.match(
        r"`?(ModelCheckpoint)\(monitor='(.+?)'\)`? could not find the monitored key.*?: \[(.+?)\]", message
    )
    if match is None:
        return None
    names = re.findall(r"[`'](.+?)[`']", match[3])
    callback = "EarlyStopping" if match[1] == "Early" else "ModelCheckpoint"
    return f"trainer.callbacks: {callback}.monitor: there is no metric {match[2]}{did_you_mean(match[2], names)}"
