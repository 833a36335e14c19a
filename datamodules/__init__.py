"""LightningDataModules: product images for CNNs, attacked ones for detectors, interaction triplets for recommenders."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.interaction_triplets import InteractionTriplets
    from datamodules.poisoned_images import PoisonedImages
    from datamodules.product_images import ProductImages

__all__ = ["InteractionTriplets", "PoisonedImages", "ProductImages"]


def __getattr__(name: str) -> Any:
    """Import a data module when it is asked for: the importers beside them need no PyTorch."""
    modules = {
        "InteractionTriplets": "interaction_triplets",
        "PoisonedImages": "poisoned_images",
        "ProductImages": "product_images",
    }
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{modules[name]}"), name)
