"""The stage that extracts the features of the clean catalogue."""

from pathlib import Path
from typing import Any

from callbacks.write_features import WriteFeatures
from catwalk.networks.features import FeatureTable
from catwalk.results.store import StageCache
from catwalk.study.progress import StudyProgress
from catwalk.study.shop import Shop
from catwalk.study.stages.classifier import CLASSIFIER_FILE, ClassifierStage
from catwalk.study.stages.stage import Stage
from catwalk.study.trainer import make_trainer


class FeaturesStage(Stage):
    """The features of the clean catalogue, and what the CNN sees in every item."""

    kind = "features"

    def __init__(self, cache: StageCache, shop: Shop, classifier: ClassifierStage) -> None:
        super().__init__(cache)
        self.description = f"Features of {len(shop.catalogue):,} items by {classifier.name}"
        self.title = f"Features by {classifier.name}"
        self.shop = shop
        self.classifier = classifier
        self.inputs = (classifier,)
        self.modules = ("callbacks.write_features", classifier.model.module)
        self.settings = {"classifier": classifier.key, "catalogue": shop.items.fingerprint}
        self.files = shop.items.files

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Run the CNN over the catalogue."""
        model = self.classifier.model.instantiate()
        model.initial_weights.expect_checkpoint()
        classifier = self.classifier
        trainer = make_trainer(
            classifier.training.trainer, classifier.trainer_argument, folder, progress, WriteFeatures(folder)
        )
        checkpoint = self.classifier.folder / CLASSIFIER_FILE
        trainer.predict(
            model, self.classifier.data.instantiate(), return_predictions=False, ckpt_path=checkpoint, weights_only=True
        )
        table = FeatureTable.read(folder, self.shop.catalogue)
        return {"num_features": table.features.shape[1], "scale": table.scale, "network": table.network}

    @property
    def table(self) -> FeatureTable:
        """The features."""
        return FeatureTable.read(self.folder, self.shop.catalogue)

    @property
    def outcome(self) -> str:
        """Size."""
        return f"{self.record['num_features']} per item"
