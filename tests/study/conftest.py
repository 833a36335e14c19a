"""A study of seconds on the tiny shop."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import own_study
import pytest
import yaml

from catwalk.cli.main import main
from catwalk.results.store import StageCache

Settings = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A study that has run: its settings, where it wrote, and the stages that it made in this run, by kind."""

    settings: Settings
    output: Path
    made: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return self.output / self.settings["name"]

    @property
    def tables(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.folder.glob("table*"))}


@pytest.fixture(scope="session")
def study_settings(shop: Path) -> Settings:
    """Return the settings of a study with 12 cells and without controls; change a copy."""
    small = {"class_path": "lightning_modules.VBPR", "init_args": {"factors": 4, "visual_factors": 4}}
    return {
        "name": "tiny",
        "dataset": str(shop),
        "source": "Sandal",
        "target": "Sneaker",
        "seeds": [0, 1],
        "extractors": {
            "T": {
                "model": {
                    "class_path": "lightning_modules.ProductClassifier",
                    "init_args": {
                        "backbone": "catwalk.networks.compact_cnn",
                        "backbone_args": {"width": 8},
                    },
                },
                "data": {"batch_size": 32, "shift": 1},
                "trainer": {"max_epochs": 8, "accelerator": "cpu"},
            }
        },
        "lpips": {"net": "alex"},
        "controls": {"noise": [], "other_seeds": False, "evasion": False},
        "attacks": [
            {"class_path": "catwalk.attacks.FGSM", "init_args": {"epsilon": 32}},
            {"class_path": "catwalk.attacks.PGD", "init_args": {"epsilon": 32}},
        ],
        "recommenders": {
            "VBPR": {"model": small, "trainer": {"max_epochs": 3, "accelerator": "cpu"}},
            "BPR-MF": {
                "model": {"class_path": "lightning_modules.BPRMF", "init_args": {"factors": 4}},
                "trainer": {"max_epochs": 3, "accelerator": "cpu"},
            },
        },
    }


@pytest.fixture
def settings(study_settings: Settings) -> Settings:
    """Return a copy to change."""
    return copy.deepcopy(study_settings)


@pytest.fixture
def folder(settings: Settings, tmp_path: Path) -> Path:
    """Return a working folder with a study of the user's own classes."""
    own_study.write_study(settings, tmp_path)
    return tmp_path


def run(settings: Settings, output: Path, *, report: bool = False) -> Study:
    """Run ``catwalk study``, in this process; its report, which takes seconds, only if a test looks at it."""
    path = output.parent / f"{output.name}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    made: list[str] = []
    write = StageCache.write

    def write_and_tell(self: StageCache, stage: str, *arguments: Any) -> None:
        if write(self, stage, *arguments):
            made.append(stage)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageCache, "write", write_and_tell)
        if not report:
            patch.setattr("catwalk.study.report.write_report", lambda folder: folder / "report" / "index.html")
        patch.setattr("sys.argv", ["catwalk"])
        main(["study", "--config", str(path), "--output", str(output), "--workers", "1"])
    return Study(settings, output, tuple(made))


@pytest.fixture(scope="session")
def run_study() -> Callable[..., Study]:
    """Return a function that runs a study."""
    return run


@pytest.fixture(scope="session")
def finished(study_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return the study when it has run. Do not write into its folders."""
    return run(study_settings, tmp_path_factory.mktemp("study") / "runs", report=True)


@pytest.fixture(scope="session")
def controlled(study_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return a study with all controls, of a defended network beside T, under two protocols. Do not write into it."""
    settings = copy.deepcopy(study_settings)
    del settings["recommenders"]["BPR-MF"]
    defended = copy.deepcopy(settings["extractors"]["T"])
    defended["model"]["class_path"] = "lightning_modules.FreeAdversarialClassifier"
    defended["model"]["init_args"] |= {"epsilon": 16, "replays": 2}
    settings["extractors"]["FAT"] = defended
    l2 = {"class_path": "catwalk.attacks.PGD", "init_args": {"norm": "l2", "epsilon": 0}}
    rank = {"class_path": "catwalk.attacks.RankAttack", "init_args": {"epsilon": 64, "iterations": 10}}
    settings |= {
        "name": "controlled",
        "attacks": [rank, l2],
        "controls": {"sham": True},  # and what is there by default
        "vary": {"background_features": ["network", "undefended"], "chr_categories": ["undefended"]},
        "confidence": 0.9,
    }
    return run(settings, tmp_path_factory.mktemp("controlled") / "runs", report=True)
