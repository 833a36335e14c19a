"""What the callbacks share that tell W&B more than figures."""

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import WandbLogger


def wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    """Return the W&B loggers in the process that writes, and none in the others."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger) and trainer.is_global_zero]
