"""The detectors of a study: checked, and planned beside its attacks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catwalk.configuration.import_object import import_object
from catwalk.configuration.specification import Specification
from catwalk.detectors import Detector, TrainedDetector
from catwalk.errors import CatwalkError
from catwalk.results.store import StageCache
from catwalk.study.grid import Grid, Training, check_names
from catwalk.study.specifications import data_of
from catwalk.study.stages.attack import AttackStage
from catwalk.study.stages.detection import DetectionSettings, DetectionStage, DetectorStage, DetectorTraining
from lightning_modules.poisoning_detector import PoisoningDetector

POISONED = "datamodules.PoisonedImages"


@dataclass(frozen=True)
class NamedDetector:
    """A detector of a study, checked once for all networks.

    Attributes:
        name: What the study calls it.
        detector: Its class with its arguments, or how it is trained.
        trained_on: Names of the attacks that it is trained on; none of one that is not trained.
    """

    name: str
    detector: Specification | DetectorTraining
    trained_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyDetectors:
    """All detectors of a study, and how they are judged.

    Attributes:
        detectors: The detectors.
        settings: How they are judged.
        confidence: Of intervals.
    """

    detectors: tuple[NamedDetector, ...]
    settings: DetectionSettings
    confidence: float

    @classmethod
    def of(
        cls, detectors: Mapping[str, Training], grid: Grid, settings: DetectionSettings, confidence: float
    ) -> "StudyDetectors":
        """Check what a study states of its detectors.

        Args:
            detectors: By name: ``model``, a detector's class or ``lightning_modules.PoisoningDetector``, and of the
                latter ``data.attacked``, the names of the attacks that it is trained on, ``trainer`` and ``seed``.
            grid: The study's.
            settings: How they are judged.
            confidence: Of intervals.

        Raises:
            CatwalkError: If a class refuses its arguments, or a detector is trained on an attack that there is not.
        """
        check_names("detectors", list(detectors))
        checked = tuple(_checked(name, training, grid, settings) for name, training in detectors.items())
        if checked and not grid.named_attacks:
            raise CatwalkError("detectors: are judged by attacks, and the study has none: give it attacks")
        return cls(checked, settings, confidence)

    def stages(self, cache: StageCache, attacks: Sequence[AttackStage]) -> list[DetectionStage]:
        """Return the stages that judge the detectors by the attacks on one network under one protocol.

        Attacks that know a recommender are left out: there is one for each recommender and seed.
        """
        judged_by = [attack for attack in attacks if not attack.must_know_recommender]
        stages = []
        for each in self.detectors:
            detector: Specification | DetectorStage
            if isinstance(each.detector, DetectorTraining):
                learnt = tuple(attack for attack in judged_by if attack.name in each.trained_on)
                detector = DetectorStage(cache, each.name, each.detector, learnt[0].features, learnt)
            else:
                detector = each.detector
            stages += [
                DetectionStage(cache, each.name, detector, attack, self.settings, self.confidence)
                for attack in judged_by
            ]
        return stages


def _checked(name: str, training: Training, grid: Grid, settings: DetectionSettings) -> NamedDetector:
    argument = f"detectors.{name}"
    kind = import_object(str(training.model.get("class_path", "")), f"{argument}.model")
    if not (isinstance(kind, type) and issubclass(kind, PoisoningDetector)):
        specification = Specification.of(training.model, Detector, f"{argument}.model")
        if specification.kind is TrainedDetector:
            raise CatwalkError(
                f"{argument}.model: a study trains its detectors itself: give lightning_modules.PoisoningDetector, "
                "with data.attacked, the attacks to train it on"
            )
        if training.data is not None or training.trainer is not None:
            raise CatwalkError(f"{argument}: {specification.kind.__name__} is not trained: leave data and trainer out")
        specification.instantiate()
        return NamedDetector(name, specification)
    stated = dict(training.data or {})
    attacked = stated.pop("attacked", None) or []
    known = [each.name for each in grid.named_attacks if each.example.knowledge != "network and recommender"]
    unknown = [each for each in attacked if each not in known]
    if not attacked or unknown:
        raise CatwalkError(
            f"{argument}.data.attacked: must name attacks of the study to train on, of {', '.join(known)}; got "
            f"{unknown[0] if unknown else 'none'}"
        )
    arguments: dict[str, Any] = {
        **{"dataset": str(grid.dataset), "classifier": "classifier.ckpt", "attacked": list(attacked)},
        **{"roles": dict(vars(settings.roles)), "seed": training.seed},
    }
    for taken in ("dataset", "classifier", "roles", "seed", "backbone", "backbone_args"):
        if taken in stated:
            raise CatwalkError(f"{argument}.data.{taken}: the study gives it itself; leave it out")
    data = data_of(stated, POISONED, f"{argument}.data", **arguments)
    model = Specification.of(training.model, PoisoningDetector, f"{argument}.model")
    for specification in (data, model):
        specification.instantiate()
    how = DetectorTraining(model, data, training.trainer, f"{argument}.trainer", training.seed)
    return NamedDetector(name, how, tuple(attacked))
