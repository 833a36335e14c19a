"""Base of callbacks that make something of what a network computes of every item of a catalogue."""

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.processes import gather
from catwalk.errors import CatwalkError
from catwalk.networks.features import FeatureTable
from catwalk.networks.network import network_fingerprint
from catwalk.networks.prediction import Predictions
from catwalk.shop.images import ItemImages
from lightning_modules.cnn import ProductClassifier
from lightning_modules.data_protocols import catalogue_images_of

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Some items, with their features, categories and probabilities."""


class CatalogueCallback(Callback):
    """During ``catwalk predict`` with a product classifier, collects what it computes of every item."""

    def __init__(self) -> None:
        self._parts: list[Batch] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is a classifier before it runs over the catalogue."""
        name = type(self).__name__
        if not isinstance(pl_module, ProductClassifier):
            raise CatwalkError(f"{name} works with a ProductClassifier, not with a {type(pl_module).__name__}")
        catalogue_images_of(trainer, name)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with nothing collected."""
        self._parts = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Predictions,
        batch: ItemImages,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect a batch."""
        self._parts.append((batch.items.cpu(), *outputs))

    def collected(self, trainer: Trainer, classifier: ProductClassifier) -> FeatureTable:
        """Return what all processes have collected, in the order of the catalogue; each process must ask for it."""
        shares = gather(self._parts, trainer.world_size)
        self._parts = []
        items, *columns = (torch.cat(column) for column in zip(*shares, strict=True))
        order = items.argsort()
        return FeatureTable.from_predictions(
            Predictions(*(column[order] for column in columns)),
            classifier.category_names,
            catalogue=catalogue_images_of(trainer, type(self).__name__).catalogue.fingerprint,
            network=network_fingerprint(classifier.network),
        )
