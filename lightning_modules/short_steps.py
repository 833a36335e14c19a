"""Training steps without what Lightning does around them, where nobody would notice.

A step of a recommender takes milliseconds, of which Lightning's hooks, results and profiles take one or two. Most of
them serve nobody: a step is asked of the Trainer as it is where somebody reads its loss, and of the model and the
optimizer alone where nobody does. Batches, their order, the arithmetic, counters, and so checkpoints are the same.
Where a model's gradients are known in closed form, neither autograd nor the optimizer is asked
(:class:`~catwalk.recommenders.stacked_step.StackedStep`); on a CPU that has their bits.
"""

import math
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from catwalk.recommenders.captured_step import CapturedStep
from catwalk.recommenders.stacked_step import StackedStep
from lightning_modules.lockstep import PartnersStep

AROUND_A_STEP = (
    *("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    "on_before_optimizer_step",
)
"""Hooks of callbacks and modules before the end of a batch."""

OF_MODULE = ("on_train_batch_end", "optimizer_step", "optimizer_zero_grad", "backward", "configure_gradient_clipping")
"""Further hooks of modules that a step consists of."""

OF_BATCHES = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
"""Hooks of modules and data modules that change a batch."""


def shorten_steps(trainer: Trainer) -> None:
    """Let a Trainer that begins to train take short steps, if nothing stands against it; see :func:`may_be_short`.

    Args:
        trainer: It trains a module with ``loss_is_read(number)``, which says of a batch by its number, from 1, over
            all epochs, whether its loss is logged.
    """
    if may_be_short(trainer):
        loop = trainer.fit_loop.epoch_loop
        loop.advance = ShortSteps(trainer)  # type: ignore[method-assign]


def may_be_short(trainer: Any) -> bool:
    """Return whether steps may be short: one process on one device, a plain optimizer, nobody who looks into a step.

    What stands against it: gradients that are clipped or accumulated, another precision than float32, a scheduler that
    counts steps, a profiler, a hook that comes before the end of a batch, and batches that a hook changes.
    """
    module = trainer.lightning_module
    also: Any = trainer  # of which Lightning declares not all attributes
    is_plain = (
        type(trainer.strategy) is SingleDeviceStrategy
        and trainer.strategy.root_device.type in ("cpu", "cuda")
        and type(trainer.precision_plugin) is Precision
        and isinstance(also.profiler, PassThroughProfiler)
        and trainer.accumulate_grad_batches == 1
        and not trainer.gradient_clip_val
        and len(trainer.optimizers) == 1
        and module.automatic_optimization
        and math.isfinite(trainer.num_training_batches)
    )
    data = getattr(trainer, "datamodule", None)
    return (
        is_plain
        and all(config.interval == "epoch" for config in trainer.lr_scheduler_configs)
        and not any(_overrides(callback, Callback, AROUND_A_STEP) for callback in also.callbacks)
        and not _overrides(module, LightningModule, (*AROUND_A_STEP, *OF_MODULE, *OF_BATCHES))
        and (data is None or not _overrides(data, LightningDataModule, OF_BATCHES))
    )


def _overrides(instance: object, base: type, hooks: tuple[str, ...]) -> bool:
    return any(getattr(type(instance), hook) is not getattr(base, hook) for hook in hooks)


class ShortSteps:
    """Takes the place of ``advance`` of Lightning's epoch loop, which is called where a step is to be whole.

    The first and the last batch of an epoch, and those whose loss is read, are whole: there Lightning prepares and ends
    an epoch, and takes what is logged. On a GPU so are all that have no closed form.

    Args:
        trainer: The Trainer.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._module = trainer.lightning_module
        self._loop = trainer.fit_loop.epoch_loop
        self._stacked: StackedStep | CapturedStep | PartnersStep | None = None
        self._is_decided = False
        self._device = trainer.strategy.root_device
        self._at_end = [
            callback for callback in trainer.callbacks if _overrides(callback, Callback, ("on_train_batch_end",))
        ]

    def __call__(self, data_fetcher: Any) -> None:
        """Train on the next batch.

        Raises:
            StopIteration: If there is none.
        """
        trainer, loop = self._trainer, self._loop
        batch_idx = loop.batch_progress.current.ready
        is_whole = (
            loop.restarting
            or trainer.lightning_module is not self._module  # another is trained by now
            or batch_idx == 0
            or batch_idx + 1 >= trainer.num_training_batches
            or self._module.loss_is_read(trainer.fit_loop.total_batch_idx + 2)  # the one that is to come
            or (self._device.type != "cpu" and self._closed_form(trainer.optimizers[0]) is None)
        )
        if is_whole:
            type(loop).advance(loop, data_fetcher)
        else:
            self._advance(data_fetcher, batch_idx)

    def _advance(self, data_fetcher: Any, batch_idx: int) -> None:
        batch, _, _ = next(data_fetcher)
        trainer, progress = self._trainer, self._loop.batch_progress
        progress.is_last_batch = data_fetcher.done
        progress.increment_ready()
        progress.increment_started()
        counts = self._loop.automatic_optimization.optim_progress.optimizer
        counts.step.increment_ready()
        loss = self._step(batch, batch_idx, counts.zero_grad)
        counts.step.increment_completed()
        progress.increment_processed()
        for callback in self._at_end:
            callback.on_train_batch_end(trainer, self._module, {"loss": loss}, batch, batch_idx)
        progress.increment_completed()

    def _step(self, batch: Any, batch_idx: int, zeroed: Any) -> Tensor:
        """Take a step, in closed form where it is known and otherwise as autograd does, and return the loss before."""
        optimizer = self._trainer.optimizers[0]
        losses: list[Tensor] = []

        def zero_grad() -> None:
            zeroed.increment_ready()
            zeroed.increment_started()
            optimizer.zero_grad()
            zeroed.increment_completed()

        @torch.enable_grad()
        def closure() -> Tensor:
            loss: Tensor = self._module.training_step(batch, batch_idx)
            zero_grad()
            loss.backward()
            losses.append(loss.detach())
            return losses[0]

        closed_form = self._closed_form(optimizer)
        if closed_form is None or not closed_form.suits(len(batch[0])):
            optimizer.step(closure)
            return losses[0]
        zero_grad()
        loss = closed_form.take(*(column.to(self._device)[None] for column in batch))[0]
        self._module.watch_loss(loss)
        return loss

    def _closed_form(self, optimizer: Optimizer) -> StackedStep | CapturedStep | PartnersStep | None:
        """Return what takes the steps in the place of autograd; made anew where it holds on to other tensors."""
        if not self._is_decided or (self._stacked is not None and not self._stacked.is_bound):
            self._stacked = self._module.closed_form(optimizer)
            self._is_decided = True
        return self._stacked
