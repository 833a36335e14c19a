"""The commands on a machine with a GPU, which they take without being told."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from gpu import DEVICE

from catwalk.cli.main import main
from catwalk.study.stages import attack as attack_stage
from catwalk.study.stages import perceptual as perceptual_stage

CNN = ["--config", "configs/cnn/traditional.yaml", "--config", "configs/data/synthetic.yaml", "--trainer.logger=false"]
VBPR = [
    "--config",
    "configs/recommender/vbpr.yaml",
    "--config",
    "configs/data/synthetic.yaml",
    "--trainer.logger=false",
]
SMALL = ["--model.backbone_args={width: 8}", "--data.batch_size=32"]
TRAINED = ["--ckpt_path", "runs/vbpr/recommender.ckpt"]
SIZES = ["--items=90", "--users=200", "--image_size=16", "--train_images=40", "--test_images=10"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a tiny shop, which is the current one."""
    monkeypatch.chdir(tmp_path)
    main(["data", "synthetic", "data/synthetic", *SIZES])
    return tmp_path


def test_from_images_to_lists(work):
    main(["fit", *CNN, *SMALL, "--trainer.max_epochs=8"])
    main(["test", *CNN, *SMALL, "--ckpt_path", "runs/traditional/classifier.ckpt"])
    main(["predict", *CNN, *SMALL, "--config", "configs/cnn/features.yaml"])
    main(["fit", *VBPR, "--trainer.max_epochs=2"])
    attack = ["--config", "configs/attack/pgd8.yaml", "--poison.output=runs/attacks/pgd8"]
    values = ["--config", "configs/recommender/metrics.yaml"]
    main(["test", *VBPR, *attack, *values, *TRAINED])
    summary = json.loads((work / "runs/attacks/pgd8/attack.json").read_text())
    assert summary["linf_levels"] <= 8
    assert summary["n_attacked"] > 0
    main(["predict", *VBPR, *TRAINED, "--config", "configs/recommender/recommendations.yaml"])
    with (work / "runs/recommendations.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 200 * 20
    main(["fit", *VBPR, *attack, "--trainer.max_epochs=2", "--data.feature_storage=host"])
    # A checkpoint of the GPU is one for everywhere.
    main(["test", *VBPR, *TRAINED, "--trainer.accelerator=cpu"])


def test_study(work, monkeypatch):
    """Networks are trained and attacked on the GPU, and images measured there."""
    devices = {}
    for module, name, device_of in (
        (attack_stage, "poison", lambda arguments, settings: arguments[0].network.mean.device),
        (perceptual_stage, "measure_attacked_images", lambda arguments, settings: settings["device"]),
    ):
        original = getattr(module, name)

        def noted(*arguments, original=original, name=name, device_of=device_of, **settings):
            devices[name] = device_of(arguments, settings).type
            return original(*arguments, **settings)

        monkeypatch.setattr(module, name, noted)
    attacks = [
        {"class_path": "catwalk.attacks.PGD", "init_args": {"epsilon": 8}},
        {"class_path": "catwalk.attacks.PGD", "init_args": {"epsilon": 255, "norm": "l2"}},
        {"class_path": "catwalk.attacks.RankAttack", "init_args": {"epsilon": 8, "iterations": 5}},
        {
            "class_path": "catwalk.attacks.CarliniWagner",
            "init_args": {"searches": 2, "iterations": 20, "initial_c": 1.0, "learning_rate": 0.02},
        },
    ]
    network = {
        "model": {
            "class_path": "lightning_modules.ProductClassifier",
            "init_args": {"backbone": "catwalk.networks.compact_cnn", "backbone_args": {"width": 8}},
        },
        "data": {"batch_size": 32},
        "trainer": {"max_epochs": 8},
    }
    vbpr = {"model": {"class_path": "lightning_modules.VBPR"}, "trainer": {"max_epochs": 2}}
    study = {
        "name": "small",
        "dataset": "data/synthetic",
        "source": "Sandal",
        "target": "Sneaker",
        "seeds": [0],
        "extractors": {"T": network},
        "attacks": attacks,
        "recommenders": {"VBPR": vbpr},
        "lpips": {"on_missing": "skip"},
    }
    (work / "study.yaml").write_text(yaml.safe_dump(study))
    main(["study", "--config", "study.yaml"])
    with (work / "runs/small/cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert all(float(row["hr@20"]) > 0 for row in rows)
    assert all(float(row["ssim"]) > 0 for row in rows[1:])
    assert devices == {"poison": DEVICE.type, "measure_attacked_images": DEVICE.type}
