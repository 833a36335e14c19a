"""Ending a run whose loss is no number, before anything is made of it."""

from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor

from catwalk.errors import DivergedError


class FiniteLoss(LightningModule):
    """Base of the modules whose runs end where a loss has become NaN or infinite.

    Losses are looked at after an epoch of training, and before a validation and before a checkpoint is written, so that
    earlier checkpoints stay; never after every batch, which a GPU would have to be waited for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._traces: dict[str, Tensor] = {}

    def watch_loss(self, loss: Tensor, stage: str = "train") -> None:
        """Remember whether a batch's loss is finite; :meth:`require_finite_loss` looks at it."""
        trace = loss.detach() * 0  # 0 if it is finite, and otherwise NaN
        if stage in self._traces and not (stage == "train" and self._skips_overflows):
            trace = self._traces[stage] + trace
        self._traces[stage] = trace

    def require_finite_loss(self, stage: str = "train") -> None:
        """Raise a :class:`~catwalk.errors.DivergedError` if a loss of a stage has been NaN or infinite."""
        if stage not in self._traces:
            return
        is_finite = bool(self._traces[stage].isfinite())
        if self.trainer.strategy.reduce_boolean_decision(is_finite, all=True):
            return
        del self._traces[stage]
        name = type(self).__name__
        if stage == "train":
            raise DivergedError(
                f"the training of {name} has diverged: its loss is NaN or infinite in epoch "
                f"{self.trainer.current_epoch + 1}; lower the optimizer's learning rate, or look for extreme values in "
                "the settings of the loss"
            )
        raise DivergedError(f"the {stage} loss of {name} is NaN or infinite; {why_not_finite(self)}")

    @property
    def _skips_overflows(self) -> bool:
        """Whether the Trainer leaves a step out whose gradients have overflowed, as it does in float16.

        The last loss tells then whether the training has recovered.
        """
        if self._trainer is None:
            return False
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def on_train_epoch_end(self) -> None:
        """Look at the losses of the epoch."""
        self.require_finite_loss()

    def on_validation_start(self) -> None:
        """Look at the losses of the training so far."""
        self.require_finite_loss()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Look at the losses of the training so far: there is nothing to go on from where they are not finite."""
        self.require_finite_loss()


def why_not_finite(module: LightningModule) -> str:
    """Return the likely cause of outputs that are NaN or infinite, and what to do about it."""
    for name, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            return (
                f"its parameters ({name}) are not finite, for its training has diverged: train it again with a lower "
                "learning rate"
            )
    return (
        "its parameters are finite, so numbers have overflowed on the way: train it again with a lower learning rate "
        "or more regularization"
    )
