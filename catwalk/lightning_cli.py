"""LightningCLI as Catwalk sets it up: any of our modules by class path, and a configuration that always counts."""

from pathlib import Path

import pytorch_lightning.loggers
from jsonargparse import lazy_instance
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.cli import LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import Logger, WandbLogger

# Imported so that their classes can be named without a path.
import callbacks  # noqa: F401
import catwalk.attacks  # noqa: F401
import datamodules  # noqa: F401
import lightning_modules  # noqa: F401


class SaveConfiguration(SaveConfigCallback):
    """Writes the full configuration into the run's own folder."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``configuration.yaml``; without a logger there is no run folder and nothing to write."""
        for logger in trainer.loggers[:1]:
            folder = run_folder(logger)
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                self.parser.save(
                    self.config, folder / "configuration.yaml", skip_none=False, overwrite=True, multifile=False
                )


def run_folder(logger: Logger) -> Path | None:
    """Return the folder of a logger's run, where Lightning also puts its checkpoints by default."""
    if isinstance(logger, WandbLogger):
        # Its `save_dir` is shared by all runs, and its id is known only after the run has begun.
        return Path(logger.save_dir or ".", str(logger.name), str(logger.experiment.id))
    return Path(logger.log_dir) if logger.log_dir else None


class CatwalkCLI(LightningCLI):
    """``catwalk fit|validate|test|predict``."""

    def __init__(self) -> None:
        commands = ("fit", "validate", "test", "predict")
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfiguration,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults={
                # Offline: nothing leaves the machine unless the user asks for it.
                "logger": lazy_instance(
                    pytorch_lightning.loggers.WandbLogger, project="catwalk", save_dir="runs", offline=True
                ),
            },
            parser_kwargs={name: {"exit_on_error": False} for name in commands} | {"exit_on_error": False},
        )

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as it was given.

        Lightning would let a checkpoint's hyper-parameters silently win over files and flags, and even over the
        class. The modules themselves check that a checkpoint fits (``on_load_checkpoint``) and say what differs.
        """
