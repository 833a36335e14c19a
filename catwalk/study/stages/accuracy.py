"""The stage that measures a CNN's accuracy under attack."""

from pathlib import Path
from typing import Any

from callbacks.adversarial_accuracy import AdversarialAccuracy
from catwalk.results.store import StageCache
from catwalk.study.progress import StudyProgress
from catwalk.study.shop import Shop
from catwalk.study.specifications import NamedAttack, modules_of
from catwalk.study.stages.classifier import CLASSIFIER_FILE, ClassifierStage
from catwalk.study.stages.stage import Stage
from catwalk.study.trainer import make_trainer


class AccuracyStage(Stage):
    """What is left of a CNN's accuracy on the test images when each of them is attacked."""

    kind = "accuracy"

    def __init__(self, cache: StageCache, shop: Shop, attack: NamedAttack, classifier: ClassifierStage) -> None:
        super().__init__(cache)
        self.classifier = classifier
        self.inputs = (classifier,)
        self.attack = attack.specification
        self.attack_name = attack.name
        self.description = f"Accuracy of CNN {classifier.name} under {self.attack_name}"
        self.modules = modules_of(AdversarialAccuracy, self.attack)
        self.settings = {
            "classifier": classifier.key,
            "attack": self.attack.settings,
            "labelled images": shop.labelled_images.fingerprint,
        }
        self.files = shop.labelled_images.files

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Attack every test image."""
        classifier = self.classifier
        training = classifier.training
        model = training.model.instantiate()
        model.initial_weights.expect_checkpoint()
        measure = AdversarialAccuracy(self.attack.instantiate())
        trainer = make_trainer(training.trainer, training.trainer_argument, folder, progress, measure)
        data, checkpoint = training.data.instantiate(), classifier.folder / CLASSIFIER_FILE
        values = trainer.test(model, data, ckpt_path=checkpoint, weights_only=True, verbose=False)
        return {"accuracy": (values or [{}])[0].get(f"test/{measure.metric_name}")}

    @property
    def outcome(self) -> str:
        """Accuracy."""
        accuracy = self.record["accuracy"]
        return "no test images" if accuracy is None else f"{accuracy:.4f} on test images"
