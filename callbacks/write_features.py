"""Writes the features of the whole catalogue and what the CNN sees in every item."""

import os
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_info

from callbacks.catalogue_callback import CatalogueCallback
from callbacks.wandb_loggers import files_with_run, wandb_loggers
from catwalk.errors import CatwalkError
from catwalk.networks.features import FEATURES_FILE, PREDICTIONS_FILE, FeatureTable
from lightning_modules.cnn import ProductClassifier
from lightning_modules.data_protocols import catalogue_images_of

CLASSIFIER_FILE = "classifier.ckpt"


class WriteFeatures(CatalogueCallback):
    """During ``catwalk predict`` with a product classifier, writes ``features.safetensors`` and ``predictions.csv``.

    Where the network came with weights that others trained and not from a checkpoint, ``classifier.ckpt`` is written as
    well: what an attack needs of it.

    Args:
        output: Folder to write to.
        artifact: Add what was written to the W&B run, as an artifact ``features-RUN`` of type ``features``.
    """

    def __init__(self, output: Path, artifact: bool = False) -> None:
        super().__init__()
        self.output = Path(output)
        self.artifact = artifact

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is a classifier, and W&B where it is wanted, before it runs over the catalogue."""
        super().setup(trainer, pl_module, stage)
        is_off = os.environ.get("WANDB_MODE") == "disabled"  # on purpose
        if self.artifact and not is_off and not any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            raise CatwalkError(
                "WriteFeatures.artifact: is true, and the run does not log to W&B; add --config "
                "configs/logger/wandb_offline.yaml or wandb.yaml, or set it to false"
            )

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the shares of all processes, in the order of the catalogue, and write them.

        Raises:
            CatwalkError: If the catalogue or an image was written meanwhile.
        """
        assert isinstance(pl_module, ProductClassifier)
        table = self.collected(trainer, pl_module)
        written = [FEATURES_FILE, PREDICTIONS_FILE]
        if pl_module.initial_weights.are_in_no_checkpoint:
            trainer.save_checkpoint(self.output / CLASSIFIER_FILE, weights_only=True)
            written.append(CLASSIFIER_FILE)
        if not trainer.is_global_zero:
            return
        data = catalogue_images_of(trainer, type(self).__name__)
        catalogue = data.catalogue
        for files in data.watched:
            files.require_unchanged("the features")
        table.write(self.output, catalogue)
        rank_zero_info(f"Wrote {FEATURES_FILE} and {PREDICTIONS_FILE} of {len(catalogue)} items to {self.output}")
        if self.artifact:
            self._add_artifact(trainer, table, written)

    def _add_artifact(self, trainer: Trainer, table: FeatureTable, written: Sequence[str]) -> None:
        """Add the files to the W&B run; copied, for the next run may write over them before they are sent."""
        import wandb

        catalogue = catalogue_images_of(trainer, type(self).__name__).catalogue
        about = {"items": len(catalogue), "catalogue": table.catalogue, "network": table.network}
        for logger in wandb_loggers(trainer):
            run = logger.experiment
            artifact = wandb.Artifact(f"features-{run.id}", "features", f"Features of {catalogue.name}", about)
            with files_with_run(run):
                for name in written:
                    artifact.add_file(str(self.output / name), name)
                run.log_artifact(artifact)
