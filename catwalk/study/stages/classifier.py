"""The stage that trains a CNN."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from catwalk.networks.classifier import Classifier, load_classifier
from catwalk.results.store import StageCache
from catwalk.study.progress import StudyProgress
from catwalk.study.shop import Shop
from catwalk.study.specifications import modules_of
from catwalk.study.stages.stage import Stage
from catwalk.study.trainer import make_trainer
from catwalk.study.trainings import ClassifierTraining

CLASSIFIER_FILE = "classifier.ckpt"


class ClassifierStage(Stage):
    """A CNN trained on the labelled images, and its accuracy on the test images; ImageNet's classifiers as they are."""

    kind = "classifier"

    def __init__(self, cache: StageCache, shop: Shop, training: ClassifierTraining) -> None:
        super().__init__(cache)
        self.shop = shop
        self.training = training
        self.name = training.name
        self.description = f"CNN {self.name}"
        self.modules = modules_of(training.model, training.data, training.backbone)
        self.settings = training.settings
        self.files = (shop.lists, training.weights)
        if training.is_trained_here:
            self.settings = {**self.settings, "labelled images": shop.labelled_images.fingerprint}
            self.files = (*shop.labelled_images.files, training.weights)

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Train and test."""
        training = self.training
        pl.seed_everything(training.seed, verbose=False)
        model, data = training.model.instantiate(), training.data.instantiate()
        trainer = make_trainer(training.trainer, training.trainer_argument, folder, progress)
        if not training.is_trained_here:
            data.prepare_data()
            model.build_for(data)
            trainer.strategy.connect(model)
            trainer.save_checkpoint(folder / CLASSIFIER_FILE)
            return {"accuracy": None, "loss": None}
        trainer.fit(model, data)
        trainer.save_checkpoint(folder / CLASSIFIER_FILE)
        (values,) = trainer.test(model, data, verbose=False) or ({},)
        return {"accuracy": values.get("test/accuracy"), "loss": values.get("test/loss")}

    def load(self) -> Classifier:
        """Return the trained network, of the backbone that the study names."""
        return load_classifier(self.folder / CLASSIFIER_FILE, self.backbone, self.backbone_args)

    @property
    def backbone(self) -> str:
        """Import path of the backbone that the study names."""
        return str(self.training.model.settings["init_args"]["backbone"])

    @property
    def backbone_args(self) -> dict[str, Any] | None:
        """Its arguments."""
        return self.training.model.settings["init_args"].get("backbone_args")

    @property
    def dataset(self) -> str:
        """Name of the dataset that it is trained on."""
        return self.shop.catalogue.name

    @property
    def outcome(self) -> str:
        """Accuracy."""
        if not self.training.is_trained_here:
            return "not trained here"
        accuracy = self.record["accuracy"]
        return "no test images" if accuracy is None else f"accuracy {accuracy:.4f} on test images"
