"""The stages that train and judge detectors of poisoned uploads."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from catwalk.configuration.specification import Specification
from catwalk.detection.clean_items import CleanItems
from catwalk.detection.judging import Detection, judge
from catwalk.detectors import Detector, ItemRoles, TrainedDetector
from catwalk.results.store import StageCache
from catwalk.study.grid import Settings
from catwalk.study.progress import StudyProgress
from catwalk.study.specifications import modules_of
from catwalk.study.stages.attack import AttackStage
from catwalk.study.stages.classifier import CLASSIFIER_FILE
from catwalk.study.stages.features import FeaturesStage
from catwalk.study.stages.stage import Stage
from catwalk.study.trainer import make_trainer

DETECTOR_FILE = "detector.ckpt"


@dataclass(frozen=True)
class DetectionSettings:
    """How a study judges its detectors.

    Attributes:
        false_positives: Share of clean images that may be flagged, in (0, 1).
        roles: Which items detectors are fitted to, calibrated on, and judged by.
    """

    false_positives: float = 0.01
    roles: ItemRoles = ItemRoles()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class DetectorTraining:
    """How a detector of a study is trained.

    Attributes:
        model: Its LightningModule.
        data: Its data module, with paths that stand for those to come.
        trainer: Arguments of Lightning's Trainer.
        argument: What the user calls these.
        seed: Seed of weights and batches.
    """

    model: Specification
    data: Specification
    trainer: Settings | None
    argument: str
    seed: int


class DetectorStage(Stage):
    """A detector trained on clean items and on images of some attacks."""

    kind = "detector"

    def __init__(
        self,
        cache: StageCache,
        name: str,
        training: DetectorTraining,
        features: FeaturesStage,
        attacks: tuple[AttackStage, ...],
    ) -> None:
        super().__init__(cache)
        self.training = training
        self.features = features
        self.attacks = attacks
        self.inputs = (features, *attacks)
        self.description = f"Detector {name}, CNN {features.classifier.name}"
        self.modules = modules_of(training.model, training.data)
        data = dict(training.data.settings["init_args"])
        for path in ("dataset", "classifier", "attacked"):  # whose contents the others stand for
            data.pop(path)
        self.settings = {
            "model": training.model.settings,
            "data": data,
            "trainer": training.trainer or {},
            "seed": training.seed,
            "features": features.key,
            "attacks": [attack.key for attack in attacks],
        }
        self.files = features.files

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Train."""
        training, classifier = self.training, self.features.classifier
        pl.seed_everything(training.seed, verbose=False)
        data = training.data.with_arguments(
            classifier=classifier.folder / CLASSIFIER_FILE,
            attacked=[attack.folder for attack in self.attacks],
            backbone=classifier.backbone,
            backbone_args=classifier.backbone_args,
        ).instantiate()
        trainer = make_trainer(training.trainer, training.argument, folder, progress)
        trainer.fit(training.model.instantiate(), data)
        trainer.save_checkpoint(folder / DETECTOR_FILE)
        return {"auroc": float(trainer.callback_metrics["val/auroc"])}

    @property
    def outcome(self) -> str:
        """AUROC on items that it was not trained on, and on the attacks that it was."""
        return f"AUROC {self.record['auroc']:.3f} in validation"


class DetectionStage(Stage):
    """How well a detector tells the images of one attack from clean ones."""

    kind = "detection"

    def __init__(
        self,
        cache: StageCache,
        name: str,
        detector: Specification | DetectorStage,
        attack: AttackStage,
        settings: DetectionSettings,
        confidence: float,
    ) -> None:
        """Plan it.

        Args:
            cache: Where results live.
            name: What the study calls the detector.
            detector: A detector that is not trained, or the training of one.
            attack: The attack.
            settings: How it is judged.
            confidence: Of intervals.
        """
        super().__init__(cache)
        self.name = name
        self.detector = detector
        self.attack = attack
        self.features = attack.features
        self.judging = settings
        self.confidence = confidence
        self.inputs = (attack.features, attack)
        self.description = f"{name} against {attack.description}"
        if isinstance(detector, DetectorStage):
            self.inputs += (detector,)
            which: Any = detector.key
            used: tuple[Any, ...] = (TrainedDetector,)
        else:
            which, used = detector.settings, (detector,)
        self.modules = modules_of(judge, CleanItems, *used)
        self.settings = {
            "detector": which,
            "features": self.features.key,
            "attack": attack.key,
            "false positives": settings.false_positives,
            "roles": vars(settings.roles),
            "confidence": confidence,
        }
        self.files = attack.features.files

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Fit, calibrate and judge."""
        training = self.features.classifier.training
        classifier = self.features.classifier.load()
        classifier.network.to(training.device)
        clean = CleanItems.see(classifier, self.features.shop.catalogue, self.judging.roles)
        (judged,) = judge(
            [self._fitting()],
            clean,
            [self.attack.folder],
            false_positives=self.judging.false_positives,
            confidence=self.confidence,
            progress=progress.callback,
        )
        return asdict(judged.detection)

    def _fitting(self) -> Detector:
        if isinstance(self.detector, DetectorStage):
            return TrainedDetector(self.detector.folder / DETECTOR_FILE)
        detector: Detector = self.detector.instantiate()
        return detector

    @property
    def detection(self) -> Detection:
        """What was measured, under the study's names."""
        values = {name: self.record[name] for name in Detection.__dataclass_fields__}
        return Detection(**{**values, "detector": self.name, "attack": self.attack.name})

    @property
    def outcome(self) -> str:
        """AUROC, and the rate of true positives."""
        found = self.detection
        return f"AUROC {found.auroc:.3f}, TPR {found.tpr:.1%} at {self.judging.false_positives:.3g} FPR"
