"""A small CNN, the images of the tiny shop, and a Trainer that says nothing."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer

from datamodules import ProductImages
from lightning_modules import ProductClassifier


def small_classifier(**settings: Any) -> ProductClassifier:
    return ProductClassifier("catwalk.networks.compact_cnn", {"width": 8}, **settings)


def small_images(shop: Path, **settings: Any) -> ProductImages:
    return ProductImages(shop, **{"batch_size": 32, "shift": 1} | settings)


def quiet_trainer(**settings: Any) -> Trainer:
    return Trainer(
        **{
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        | settings
    )
