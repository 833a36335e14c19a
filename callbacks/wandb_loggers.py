"""W&B loggers, shared by the callbacks that log more than metrics."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import WandbLogger

if TYPE_CHECKING:
    import wandb

DATA_FOLDER = "WANDB_DATA_DIR"
"""Environment variable that says where W&B keeps copies of what a run is to send."""


def wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    """Return the W&B loggers in the process that writes, and none in the others."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger) and trainer.is_global_zero]


@contextmanager
def files_with_run(run: "wandb.Run") -> Iterator[None]:
    """Let W&B keep the files of a run's tables and artifacts in the run's own folder meanwhile.

    It copies them to the user's home otherwise, where a run that is sent later, by somebody else or after a cleaning,
    does not find them. An environment variable of the user's, ``WANDB_DATA_DIR``, stands.
    """
    folder = getattr(run.settings, "sync_dir", None)
    if folder is None or DATA_FOLDER in os.environ:
        yield
        return
    os.environ[DATA_FOLDER] = str(Path(folder).resolve())
    try:
        yield
    finally:
        del os.environ[DATA_FOLDER]
