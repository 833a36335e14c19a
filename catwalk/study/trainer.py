"""Lightning's Trainer as a stage uses it: it shows its batches on the study's bar and is quiet otherwise."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from callbacks.show_batches import ShowBatches
from catwalk.configuration import notices as known_notices
from catwalk.errors import CatwalkError
from catwalk.study.progress import StudyProgress
from catwalk.terminal.stopping import keep_sigterm
from lightning_modules.checkpoints import write_whole_checkpoints


def make_trainer(
    settings: Mapping[str, Any] | None,
    argument: str,
    folder: Path | None = None,
    progress: StudyProgress | None = None,
    *callbacks: Callback,
) -> Trainer:
    """Return a Trainer that writes nothing by itself.

    Args:
        settings: What the user states of the Trainer's arguments.
        argument: What the user calls them, for messages.
        folder: Folder of the stage.
        progress: Where to show the batches.
        callbacks: The stage's own callbacks.

    Raises:
        CatwalkError: If the Trainer refuses the settings, or they ask for several processes.
    """
    complete: dict[str, Any] = {
        "accelerator": "auto",
        "devices": 1,
        "deterministic": True,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        **(settings or {}),
    }
    shown = [ShowBatches(progress)] if progress is not None else []
    with quiet_lightning():
        try:
            trainer = Trainer(callbacks=[*shown, *callbacks], **complete)
        except (TypeError, ValueError, MisconfigurationException) as error:
            raise CatwalkError(f"{argument}: {str(error).removeprefix('Trainer.__init__() ')}") from error
    if trainer.world_size > 1 or trainer.strategy.launcher is not None:
        raise CatwalkError(
            f"{argument}: a study runs each training in one process on one device, and these settings ask for "
            f"{trainer.world_size} processes (strategy {(settings or {}).get('strategy', 'auto')!r}); leave devices, "
            "num_nodes and strategy out, and let the study run several stages side by side with --workers"
        )
    keep_sigterm(trainer)
    write_whole_checkpoints(trainer)
    return trainer


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's news and known notices from breaking into a study's own display; warnings get through."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.fabric", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        known_notices.hide()
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
