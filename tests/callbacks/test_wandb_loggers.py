"""What a run on W&B is called, and where W&B keeps its files."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning.loggers import WandbLogger

from callbacks import InjectPoisonedImages
from callbacks.run_labels import call_run, run_labels
from callbacks.wandb_loggers import files_with_run
from catwalk.attacks import PGD, CarliniWagner, RandomNoise, RankAttack, Transfer
from catwalk.study.cells import SETTINGS
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import BPRMF, VBPR, ProductClassifier


@pytest.fixture(autouse=True)
def no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def labels_of(**changed: Any) -> dict[str, Any]:
    return dict.fromkeys(SETTINGS) | {"dataset": "Shop", "seed": 3} | changed


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ({"attack": "PGD (ε = 8)", "recommender": "VBPR", "extractor": "runs/x"}, "PGD (ε = 8) · VBPR · seed 3"),
        ({"attack": "No attack", "recommender": "BPRMF", "seed": 0}, "No attack · BPRMF · seed 0"),
        ({"extractor": "ProductClassifier"}, "ProductClassifier · seed 3"),
        ({"extractor": "ProductClassifier", "seed": None}, "ProductClassifier"),
    ],
)
def test_a_run_has_a_name_a_group_and_a_job_type(labels: dict[str, Any], name: str) -> None:
    logger = WandbLogger(project="catwalk", offline=True)
    call_run(logger, "fit", labels_of(**labels))
    named = {key: logger._wandb_init[key] for key in ("name", "group", "job_type")}
    assert named == {"name": name, "group": "Shop", "job_type": "fit"}
    assert logger.name == "catwalk"  # by which the run's folder is found


def test_the_users_own_names_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = WandbLogger("mine", offline=True, group="ours", job_type="try")
    call_run(logger, "fit", labels_of(extractor="X"))
    assert [logger._wandb_init[key] for key in ("name", "group", "job_type")] == ["mine", "ours", "try"]
    for variable in ("WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE"):
        monkeypatch.setenv(variable, "from the environment")
    logger = WandbLogger(offline=True)
    call_run(logger, "fit", labels_of(extractor="X"))
    assert [logger._wandb_init.get(key) for key in ("name", "group", "job_type")] == [None] * 3


def test_labels_are_those_of_a_cell(shop: Path, tmp_path: Path) -> None:
    triplets = InteractionTriplets(shop, tmp_path / "features")
    pgd = InjectPoisonedImages(tmp_path, PGD(epsilon=4), "Sandal", tmp_path / "a", "Sneaker")
    untargeted = InjectPoisonedImages(tmp_path, CarliniWagner(targeted=False), "Sandal", tmp_path / "a")
    base = {"dataset": "Synthetic", "seed": 5}
    assert run_labels(VBPR(), triplets, [pgd], 5) == labels_of(
        **base,
        protocol="corrected",
        differences="",
        scenario="poisoning",
        extractor=str(tmp_path / "features"),
        attack="PGD (ε = 4)",
        epsilon=4,
        recommender="VBPR",
        source="Sandal",
        target="Sneaker",
    )
    found = run_labels(VBPR(), triplets, [untargeted], 5, "test")
    assert (found["epsilon"], found["target"], found["scenario"]) == (None, None, None)
    noise = InjectPoisonedImages(tmp_path, RandomNoise(epsilon=4), "Sandal", tmp_path / "a", "Sneaker")
    assert run_labels(VBPR(), triplets, [noise], 5)["control"] == "noise"
    assert run_labels(BPRMF(), InteractionTriplets(shop), [], 5) == labels_of(
        **base, attack="No attack", recommender="BPRMF"
    )
    rank = InjectPoisonedImages(tmp_path, RankAttack(recommender=Path("vbpr.ckpt")), "Sandal", tmp_path / "a")
    assert run_labels(VBPR(), triplets, [rank], 5)["known_recommender"] == "vbpr.ckpt"
    transfer = Transfer(PGD(), ["t.ckpt", "fat.ckpt"])
    moved = InjectPoisonedImages(tmp_path, transfer, "Sandal", tmp_path / "a", "Sneaker")
    assert run_labels(VBPR(), triplets, [moved], 5)["crafted_on"] == "t.ckpt, fat.ckpt"
    network = ProductClassifier(backbone="catwalk.networks.compact_cnn")
    assert run_labels(network, ProductImages(shop), [], 5) == labels_of(**base, extractor="ProductClassifier")


def test_a_dataset_that_is_not_there_is_told_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "dataset.json").write_text("{")
    for name in ("broken", "absent"):
        assert run_labels(VBPR(), InteractionTriplets(tmp_path / name), [], 0)["dataset"] == name


def test_files_lie_with_their_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = SimpleNamespace(settings=SimpleNamespace(sync_dir="wandb/offline-run-1"))
    monkeypatch.chdir(tmp_path)
    with files_with_run(run):
        assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "wandb" / "offline-run-1")
    assert "WANDB_DATA_DIR" not in os.environ
    with pytest.raises(RuntimeError), files_with_run(run):
        raise RuntimeError
    assert "WANDB_DATA_DIR" not in os.environ
    monkeypatch.setenv("WANDB_DATA_DIR", "/elsewhere")
    with files_with_run(run):
        assert os.environ["WANDB_DATA_DIR"] == "/elsewhere"
