"""A run's configuration as it is kept with the run, and what the run depends on besides."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import Logger, WandbLogger

from callbacks.inject_poisoned_images import InjectPoisonedImages
from callbacks.trainer_callbacks import callbacks_of
from catwalk import __version__
from catwalk.configuration.parsers import KEEP_NONE
from catwalk.files.atomic import written_aside
from catwalk.files.hashes import file_hash
from catwalk.shop.catalogue import fingerprint_files
from datamodules import InteractionTriplets, ProductImages


class SaveConfiguration(SaveConfigCallback):
    """Writes the full configuration into the run's own folder, and logs it as the run's hyper-parameters.

    With it go ``provenance``, what the metrics depend on and the configuration does not say, and what the run is in few
    words, under the names that a study's cells have (:func:`~callbacks.run_labels.run_labels`).
    """

    labels: Mapping[str, Any] = MappingProxyType({})
    """What the run is."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``configuration.yaml``; without a logger there is no run folder and nothing to write."""
        for logger in trainer.loggers[:1]:
            folder = run_folder(logger)
            if folder is not None:
                with written_aside(folder / "configuration.yaml") as path:
                    self.parser.save(self.config, path, overwrite=True, multifile=False, **KEEP_NONE)
        if trainer.loggers:
            configuration = yaml.safe_load(self.parser.dump(self.config, **KEEP_NONE))
            known = {**configuration, **self.labels, "provenance": provenance(trainer, configuration.get("ckpt_path"))}
            for logger in trainer.loggers:
                logger.log_hyperparams(known)


def provenance(trainer: Trainer, checkpoint: str | None) -> dict[str, Any]:
    """Return Catwalk's version and the fingerprints of what a run reads, as plain values.

    Args:
        trainer: The Trainer, whose data module has been set up.
        checkpoint: The checkpoint that the run begins with.

    Returns:
        ``catwalk``; where there are any: ``dataset`` (name), ``lists`` (SHA-256 of the dataset's lists of items and of
        labelled images), ``purchases`` (of those that are trained on, as checkpoints have it), ``catalogue`` (with
        every byte of its images) and ``network`` (fingerprints that the features are stamped with), ``checkpoint`` and
        ``classifier`` (SHA-256 of the files), and the ``protocol`` of the attack in the run.
    """
    data = getattr(trainer, "datamodule", None)
    known: dict[str, Any] = {"catwalk": __version__}
    if isinstance(data, InteractionTriplets | ProductImages):
        folder = data.catalogue.folder
        lists = [name for name in ("dataset.json", "items.csv", "labelled_images.csv") if (folder / name).is_file()]
        known |= {"dataset": data.catalogue.name, "lists": fingerprint_files(folder, lists)}
    if isinstance(data, InteractionTriplets):
        known["purchases"] = data.split.trained_on
        if data.feature_table is not None:
            known |= {"catalogue": data.feature_table.catalogue, "network": data.feature_table.network}
    if checkpoint is not None and Path(checkpoint).is_file():
        known["checkpoint"] = file_hash(Path(checkpoint))
    for callback in callbacks_of(trainer):
        if isinstance(callback, InjectPoisonedImages):
            known["classifier"] = file_hash(callback.classifier)
            known["protocol"] = dataclasses.asdict(callback.protocol)
    return known


def run_folder(logger: Logger) -> Path | None:
    """Return the folder of a logger's run, where Lightning also puts its checkpoints by default."""
    if isinstance(logger, WandbLogger):
        # Its `save_dir` is shared by all runs, and its id is known only after the run has begun.
        return Path(logger.save_dir or ".", str(logger.name), str(logger.experiment.id))
    return Path(logger.log_dir) if logger.log_dir else None
