"""The base of our LightningModules: measured alike in validation and test, ended when they diverge, loaded safely."""

import abc
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from typing_extensions import Self

from catwalk.errors import CatwalkError, DivergedError
from catwalk.files.checkpoints import read_checkpoint
from lightning_modules.checkpoints import CLASS, settings_of

Stage = Literal["val", "test"]
"""What is measured: a validation or a test."""


class MeasuredModule(LightningModule, abc.ABC):
    """Base of the modules of ours.

    - A subclass says once how a batch is measured; validation and test differ by the name of the stage.
    - A run ends where a loss has become NaN or infinite. Losses are looked at after an epoch of training, and before a
      validation and before a checkpoint is written, so that earlier checkpoints stay; never after every batch, which a
      GPU would have to be waited for.
    - With several processes all measure, and end with, what the first one has.
    - Checkpoints are tensors and plain values, none of which decides what is imported.
    """

    def __init__(self) -> None:
        super().__init__()
        self._traces: dict[str, Tensor] = {}

    @abc.abstractmethod
    def measure(self, batch: Any, stage: Stage) -> Any:
        """Measure a batch, and return what callbacks are handed."""

    def begin_measuring(self, stage: Stage) -> None:
        """Prepare for the batches of a stage."""

    @abc.abstractmethod
    def end_measuring(self, stage: Stage) -> None:
        """Log what was measured, or refuse it."""

    def on_validation_epoch_start(self) -> None:
        """Begin."""
        self.begin_measuring("val")

    def on_test_epoch_start(self) -> None:
        """Begin."""
        self.begin_measuring("test")

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Measure a batch."""
        return self.measure(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """Measure a batch."""
        return self.measure(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """End."""
        self.end_measuring("val")

    def on_test_epoch_end(self) -> None:
        """End."""
        self.end_measuring("test")

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
        """Look at the losses of the training so far, and let all processes measure one and the same network."""
        self.require_finite_loss()
        self._share_running_statistics()

    def on_train_end(self) -> None:
        """Let all processes end with one and the same network."""
        self._share_running_statistics()

    def _share_running_statistics(self) -> None:
        """Give every process the first one's BatchNorm statistics, which are in the checkpoint.

        During the training each process gathers its own, from its own examples.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parameters = dict(self.named_parameters())
            for name, tensor in self.state_dict().items():
                if name not in parameters:
                    torch.distributed.broadcast(tensor, 0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Look at the losses of the training so far: there is nothing to go on from where they are not finite.

        Say what was trained, too.
        """
        self.require_finite_loss()
        checkpoint[CLASS] = type(self).__qualname__

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, *, weights_only: bool | None = None, **settings: Any
    ) -> Self:
        """Load a module with the settings of its checkpoint, as Lightning does, but for what would run code.

        Args:
            checkpoint_path: The checkpoint, a file of this machine.
            weights_only: False lets PyTorch run the code that is pickled in the file: for files that you trust alone.
            **settings: Arguments of the class that take the place of the checkpoint's, and ``map_location`` and
                ``strict`` as Lightning's own method has them.

        Raises:
            CatwalkError: If the file is missing or damaged, or names code that Catwalk does not know and ``settings``
                do not name.
        """
        if settings.get("hparams_file") is not None:
            raise CatwalkError("hparams_file: leave it out, a checkpoint of ours holds its settings itself")
        if weights_only is not False:
            saved = settings_of(read_checkpoint(checkpoint_path), checkpoint_path)
            cls.check_settings(checkpoint_path, saved, settings)
        try:
            return super().load_from_checkpoint(checkpoint_path, weights_only=weights_only is not False, **settings)
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise CatwalkError(f"{checkpoint_path} cannot be loaded as {cls.__name__}: {reason}") from error

    @classmethod
    def check_settings(cls, path: str | Path, saved: dict[str, Any], given: dict[str, Any]) -> None:
        """Raise a CatwalkError if a checkpoint's settings name code that is neither known nor given.

        Args:
            path: The checkpoint.
            saved: Its settings.
            given: Those that the caller gives in their place.
        """


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
