"""A small CNN and the images of the tiny shop, to train it on."""

from pathlib import Path
from typing import Any

from datamodules import ProductImages
from lightning_modules import ProductClassifier


def small_classifier(**settings: Any) -> ProductClassifier:
    return ProductClassifier("catwalk.networks.compact_cnn", {"width": 8}, **settings)


def small_images(shop: Path, **settings: Any) -> ProductImages:
    return ProductImages(shop, **{"batch_size": 32, "shift": 1} | settings)
