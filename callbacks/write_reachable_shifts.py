"""Writes the shifts of features that perturbations of the catalogue's images can reach."""

from pathlib import Path

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info
from rich.console import Console

from callbacks.catalogue_callback import CatalogueCallback
from callbacks.processes import gather
from catwalk.networks.classifier import Classifier
from catwalk.poisoning.reachable_shifts import find_shifts
from catwalk.recommenders.reachable_shifts import SHIFTS_FILE, ShiftSettings
from catwalk.terminal.progress import Progress
from lightning_modules.cnn import ProductClassifier
from lightning_modules.data_protocols import catalogue_images_of


class WriteReachableShifts(CatalogueCallback):
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
        super().__init__()
        self.output = Path(output)
        self.settings = ShiftSettings(epsilon, directions, iterations)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the shifts of the whole catalogue, each process a share, and write them.

        Raises:
            CatwalkError: If the catalogue or an image was written meanwhile.
        """
        assert isinstance(pl_module, ProductClassifier)
        table = self.collected(trainer, pl_module)
        data = catalogue_images_of(trainer, type(self).__name__)
        catalogue, network = data.catalogue, pl_module.network
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
