"""Writes the shifts of features that perturbations of the catalogue's images can reach."""

from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from rich.console import Console

from callbacks.processes import gather
from callbacks.write_features import Batch
from catwalk.errors import CatwalkError
from catwalk.networks.classifier import Classifier
from catwalk.networks.features import FeatureTable
from catwalk.networks.network import network_fingerprint
from catwalk.networks.prediction import Predictions
from catwalk.poisoning.reachable_shifts import find_shifts
from catwalk.recommenders.reachable_shifts import SHIFTS_FILE, ShiftSettings
from catwalk.shop.images import ItemImages
from catwalk.terminal.progress import Progress
from lightning_modules.cnn import ProductClassifier
from lightning_modules.data_protocols import catalogue_images_of


class WriteReachableShifts(Callback):
    """During ``catwalk predict`` with a product classifier, writes ``reachable_shifts.safetensors``.

    :class:`~lightning_modules.ImageRobustVBPR` is trained against these shifts. Costs ``2 · directions · iterations``
    forward and backward passes for each item; several processes share the images among them.

    Args:
        output: Folder to write to, such as that of the features.
        epsilon: Radius of the L∞ ball around every image in grey levels, at least half of one.
        directions: In how many directions of the feature space features are moved, each to and fro; see
            :class:`~catwalk.recommenders.reachable_shifts.ShiftSettings`.
        iterations: Steps of every search.

    Raises:
        CatwalkError: If a number is out of its range.
    """

    def __init__(
        self,
        output: Path,
        epsilon: float = ShiftSettings.epsilon,
        directions: int = ShiftSettings.directions,
        iterations: int = ShiftSettings.iterations,
    ) -> None:
        self.output = Path(output)
        self.settings = ShiftSettings(epsilon, directions, iterations)
        self._parts: list[Batch] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is a classifier before it runs over the catalogue."""
        if not isinstance(pl_module, ProductClassifier):
            raise CatwalkError(
                f"WriteReachableShifts works with a ProductClassifier, not with a {type(pl_module).__name__}"
            )
        catalogue_images_of(trainer, type(self).__name__)

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
        """Collect the clean features of a batch."""
        self._parts.append((batch.items.cpu(), *outputs))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the shifts of the whole catalogue, each process a share, and write them.

        Raises:
            CatwalkError: If the catalogue or an image was written meanwhile.
        """
        assert isinstance(pl_module, ProductClassifier)
        shares = gather(self._parts, trainer.world_size)
        self._parts = []
        items, *columns = (torch.cat(column) for column in zip(*shares, strict=True))
        order = items.argsort()
        data = catalogue_images_of(trainer, type(self).__name__)
        catalogue, network = data.catalogue, pl_module.network
        table = FeatureTable.from_predictions(
            Predictions(*(column[order] for column in columns)),
            pl_module.category_names,
            catalogue=catalogue.fingerprint,
            network=network_fingerprint(network),
        )
        console = Console()
        is_shown = console.is_terminal and trainer.is_global_zero
        with Progress(console=console, transient=True, disable=not is_shown) as bar:
            task = bar.add_task("Feature shifts that images can reach")
            found = find_shifts(
                Classifier(network, tuple(pl_module.category_names), data.image_size),
                catalogue,
                table,
                self.settings,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
                gather=lambda share: gather([share], trainer.world_size),
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        if not trainer.is_global_zero:
            return
        for files in data.watched:
            files.require_unchanged("the feature shifts")
        found.write(self.output)
        rank_zero_info(f"Wrote {SHIFTS_FILE} of {len(catalogue)} items to {self.output}")
