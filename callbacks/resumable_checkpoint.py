"""Checkpoints of what has been trained, and of where the training stands."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from catwalk.errors import CatwalkError
from lightning_modules.checkpoints import write_whole_checkpoints


class ResumableCheckpoint(ModelCheckpoint):
    """Writes ``dirpath/filename.ckpt`` after every epoch, and ``dirpath/last.ckpt`` every now and then in between.

    A run that was stopped or killed goes on from the latter with ``catwalk fit … --ckpt_path last``, or from the former
    with its path. Both are written aside and then renamed: each is whole whenever the run was killed, and is the one
    before where there was no room for it. Until a training ends, ``filename.ckpt`` is of the epochs so far, or of the
    best of them; whether it has ended, the command's exit code says.

    Args:
        dirpath: Folder for the two.
        filename: Name of the checkpoint of the whole epochs, without ``.ckpt``.
        every_n_batches: Batches from one ``last.ckpt`` to the next; 0 for none.
        monitor: Metric by which to keep the best epoch, such as ``val/pgd_accuracy``; the last one by default.
        mode: Whether the metric is best when it is highest, ``max``, or lowest, ``min``.

    Attributes:
        latest: What ``--ckpt_path`` is to be for a run that goes on where this one was: ``last`` or a path; None before
            anything has been saved.
    """

    def __init__(
        self,
        dirpath: str,
        filename: str,
        every_n_batches: int = 100,
        monitor: str | None = None,
        mode: str = "max",
    ) -> None:
        if every_n_batches < 0:
            raise CatwalkError(f"every_n_batches: must be at least 0 (no last.ckpt), got {every_n_batches}")
        super().__init__(dirpath, filename, monitor=monitor, mode=mode, enable_version_counter=False)
        self.every_n_batches = every_n_batches
        self.latest: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget what another training has saved that had this callback before."""
        super().setup(trainer, pl_module, stage)
        write_whole_checkpoints(trainer)
        if stage == "fit" and trainer.global_step == 0:
            self.best_k_models, self.best_model_path, self.kth_best_model_path = {}, "", ""
            self.best_model_score = self.current_score = None
            self._last_global_step_saved = 0
            self.latest = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where the training stands; within an epoch, for after its last batch it would go on unvalidated."""
        if self._is_due(trainer) and not trainer.is_last_batch:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the whole epoch, and where the training stands if the last batch was one of those to save after."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._is_due(trainer):
            self._save_last(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        if not self.every_n_batches or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return False
        return (trainer.fit_loop.total_batch_idx + 1) % self.every_n_batches == 0

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self.latest = filepath

    def _save_last(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(f"{self.dirpath}/last.ckpt")
        self.latest = "last"
