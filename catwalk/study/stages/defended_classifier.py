"""The stage that puts operations in front of a trained CNN: an input defence, or the shop's processing."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from catwalk.configuration.specification import Specification
from catwalk.files.hashes import file_hash
from catwalk.files.watched import watch
from catwalk.networks.defended import write_defended_checkpoint
from catwalk.processing import Operation
from catwalk.results.store import StageCache
from catwalk.study.derived import Derived
from catwalk.study.progress import StudyProgress
from catwalk.study.shop import Shop
from catwalk.study.specifications import modules_of
from catwalk.study.stages.classifier import CLASSIFIER_FILE, ClassifierStage
from catwalk.study.trainer import make_trainer


class DefendedClassifierStage(ClassifierStage):
    """A trained CNN behind operations, and its accuracy on the test images; nothing is trained."""

    def __init__(self, cache: StageCache, shop: Shop, network: ClassifierStage, derived: Derived) -> None:
        """Plan it.

        Args:
            cache: Where results live.
            shop: The dataset.
            network: The CNN.
            derived: What stands in front of it.

        Raises:
            CatwalkError: If an operation refuses its arguments.
        """
        training = network.training
        own = [Specification.of(settings, Operation, derived.argument) for settings in derived.operations]
        for operation in own:
            operation.instantiate()
        before = list(training.model.settings["init_args"].get("input_operations") or [])
        operations = [*(operation.settings for operation in own), *before]
        model = Specification.of(
            {
                "class_path": training.model.settings["class_path"],
                "init_args": {**training.model.stated, "input_operations": operations},
            },
            training.model.base,
            training.model.argument,
        )
        super().__init__(cache, shop, replace(training, name=derived.name, model=model))
        self.network = network
        self.operations = own
        self.description = f"CNN {network.name} behind {derived.pipeline or derived.defence}"
        self.inputs = (network,)
        self.modules = modules_of(write_defended_checkpoint, *own)
        self.settings = {
            "network": network.key,
            "input operations": [_by_content(operation.settings) for operation in own],
        }
        named = [Path(path) for operation in own for path in _files(operation.settings)]
        self.files = (*network.files, watch(*named))
        if training.is_trained_here:
            self.settings["labelled images"] = shop.labelled_images.fingerprint

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Put the operations in front, and test."""
        training = self.training
        checkpoint = folder / CLASSIFIER_FILE
        operations = [operation.instantiate() for operation in self.operations]
        write_defended_checkpoint(self.network.folder / CLASSIFIER_FILE, operations, checkpoint)
        if not training.is_trained_here:
            return {"accuracy": None, "loss": None}
        pl.seed_everything(training.seed, verbose=False)
        model, data = training.model.instantiate(), training.data.instantiate()
        model.initial_weights.expect_checkpoint()
        trainer = make_trainer(training.trainer, training.trainer_argument, folder, progress)
        values = trainer.test(model, data, ckpt_path=checkpoint, weights_only=True, verbose=False)
        measured = (values or [{}])[0]
        return {"accuracy": measured.get("test/accuracy"), "loss": measured.get("test/loss")}


def _files(settings: Any) -> list[str]:
    """Return the files that settings name, such as a denoiser's checkpoint."""
    if isinstance(settings, Mapping):
        return [path for value in settings.values() for path in _files(value)]
    is_file = isinstance(settings, str | Path) and file_hash(settings) is not None
    return [str(settings)] if is_file else []


def _by_content(settings: Any) -> Any:
    """Return settings with the hash of each file in the place of its path."""
    if isinstance(settings, Mapping):
        return {name: _by_content(value) for name, value in settings.items()}
    return file_hash(settings) if _files(settings) else settings
