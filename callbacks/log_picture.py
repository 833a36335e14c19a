"""Logging of pictures, such as plots, shared by callbacks."""

from pathlib import Path

import numpy as np
from PIL import Image
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger


def log_picture(trainer: Trainer, name: str, path: Path) -> None:
    """Show a PNG file in W&B and TensorBoard, where they are among the loggers; others take no pictures.

    Args:
        trainer: Who has the loggers; its process is the one that logs.
        name: What to call the picture.
        path: The file.
    """
    with Image.open(path) as image:
        picture = image.convert("RGB")
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [picture])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(picture), trainer.global_step, dataformats="HWC")
