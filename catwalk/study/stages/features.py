"""The stage that extracts the features of the clean catalogue."""

from pathlib import Path
from typing import Any

from callbacks.write_features import WriteFeatures
from catwalk.networks.features import FeatureTable
from catwalk.results.store import StageCache
from catwalk.study.progress import StudyProgress
from catwalk.study.shop import Shop
from catwalk.study.specifications import modules_of
from catwalk.study.stages.classifier import CLASSIFIER_FILE, ClassifierStage
from catwalk.study.stages.images import CatalogueFeatures
from catwalk.study.trainer import make_trainer


class FeaturesStage(CatalogueFeatures):
    """The features of the clean catalogue, and what the CNN sees in every item."""

    kind = "features"

    def __init__(self, cache: StageCache, shop: Shop, classifier: ClassifierStage) -> None:
        super().__init__(cache)
        self.description = f"Features of {len(shop.catalogue):,} items by {classifier.name}"
        self.title = f"Features by {classifier.name}"
        self.shop = shop
        self.classifier = classifier
        self.inputs = (classifier,)
        self.modules = modules_of(WriteFeatures, classifier.training.model)
        self.settings = {"classifier": classifier.key, "catalogue": shop.items.fingerprint}
        self.files = shop.items.files

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Run the CNN over the catalogue."""
        training = self.classifier.training
        model, data = training.model.instantiate(), training.data.instantiate()
        model.initial_weights.expect_checkpoint()
        trainer = make_trainer(training.trainer, training.trainer_argument, folder, progress, WriteFeatures(folder))
        checkpoint = self.classifier.folder / CLASSIFIER_FILE
        trainer.predict(model, data, return_predictions=False, ckpt_path=checkpoint, weights_only=True)
        table = FeatureTable.read(folder, self.shop.catalogue)
        return {"num_features": table.features.shape[1], "scale": table.scale, "network": table.network}

    @property
    def seen_by(self) -> str:
        """The network."""
        return self.classifier.name

    @property
    def attack_name(self) -> None:
        """The images are clean."""
        return

    @property
    def table(self) -> FeatureTable:
        """The features."""
        return FeatureTable.read(self.folder, self.shop.catalogue)

    @property
    def outcome(self) -> str:
        """Size."""
        return f"{self.record['num_features']} per item"
