"""The key of a stage knows all code that makes its result: what runs in it is among the modules of its key."""

import sys
from collections import defaultdict
from pathlib import Path
from types import FrameType

import pytest

from catwalk.results.keys import OUR_PACKAGES, modules_imported_by
from catwalk.study.stages.accuracy import AccuracyStage
from catwalk.study.stages.attack import AttackStage
from catwalk.study.stages.classifier import ClassifierStage
from catwalk.study.stages.detection import DetectionStage, DetectorStage
from catwalk.study.stages.features import FeaturesStage
from catwalk.study.stages.mixed_features import MixedFeaturesStage
from catwalk.study.stages.perceptual import PerceptualStage
from catwalk.study.stages.recommendations import RecommendationsStage
from catwalk.study.stages.recommender import RecommenderStage
from catwalk.study.stages.shifts import ShiftsStage
from catwalk.study.stages.stage import Stage

KINDS = (
    *(ClassifierStage, AccuracyStage, FeaturesStage, AttackStage, PerceptualStage, RecommenderStage),
    *(MixedFeaturesStage, RecommendationsStage, ShiftsStage, DetectorStage, DetectionStage),
)

WITHOUT_TRACE = (
    "catwalk.study",  # which calls the others
    "catwalk.configuration",
    "catwalk.terminal",
    "catwalk.results",
    "callbacks.show_batches",
)
"""What leaves no trace in a result: how settings are read, results are stored, and progress is shown."""

PASSES_ON = {"datamodules"}
"""Packages whose ``__getattr__`` imports a class when it is asked for."""


def known(stage: Stage) -> set[str]:
    """Return the modules of the key of a stage, and of those that it depends on."""
    return modules_imported_by(stage.modules).union(*map(known, stage.inputs))


@pytest.mark.slow
def test_what_runs_in_a_stage_is_in_its_key(settings, run_study, tmp_path: Path, monkeypatch) -> None:
    ran: dict[str, set[str]] = defaultdict(set)
    unknown: dict[str, set[str]] = {}

    def watch(kind: type[Stage]) -> None:
        make = kind.make

        def watched(self, *arguments):
            modules: set[str] = set()

            def note(frame: FrameType, event: str, argument: object) -> None:
                if event == "call" and frame.f_code.co_name != "<module>":
                    modules.add(frame.f_globals.get("__name__", ""))

            sys.setprofile(note)
            try:
                return make(self, *arguments)
            finally:
                sys.setprofile(None)
                ours = {name for name in modules if name.partition(".")[0] in OUR_PACKAGES}
                ran[self.kind] |= ours
                without = {name for name in ours if f"{name}.".startswith(tuple(f"{each}." for each in WITHOUT_TRACE))}
                unknown[self.kind] = unknown.get(self.kind, set()) | (ours - known(self) - without - PASSES_ON)

        monkeypatch.setattr(kind, "make", watched)

    for kind in KINDS:
        watch(kind)
    settings |= {"seeds": [0], "metrics": ["mrr@5", "chr@5", "attacked/mean_rank"]}
    settings |= {"protocol": {"feature_scale": "own_matrix"}}
    settings["split"] = {"class_path": "catwalk.shop.splits.RatioSplit"}
    settings["extractors"]["T"]["trainer"]["max_epochs"] = 6
    settings["attacks"].append({"class_path": "catwalk.attacks.RankAttack", "init_args": {"epsilon": 32}})
    attacked = settings["attacks"][0]
    settings["detectors"] = {
        "squeezing": {"model": {"class_path": "catwalk.detectors.FeatureSqueezing"}},
        "learnt": {
            "model": {"class_path": "lightning_modules.PoisoningDetector"},
            "data": {"attacked": [f"FGSM (ε = {attacked['init_args']['epsilon']})"]},
            "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        },
    }
    settings["detection"] = {"false_positives": 0.1}
    run_study(settings, tmp_path / "runs")
    robust = {"class_path": "lightning_modules.ImageRobustVBPR", "init_args": {"factors": 4, "visual_factors": 4}}
    trained = {"model": robust, "trainer": {"max_epochs": 1, "accelerator": "cpu"}}
    settings |= {"protocol": {}, "metrics": [], "attacks": settings["attacks"][:1], "name": "robust"}
    settings["recommenders"] = {"robust": trained | {"shifts": {"directions": 1, "iterations": 1}}}
    run_study(settings, tmp_path / "runs")
    assert set(ran) == {kind.kind for kind in KINDS}
    assert all(len(modules) > 10 for modules in ran.values())
    assert unknown == {kind.kind: set() for kind in KINDS}
