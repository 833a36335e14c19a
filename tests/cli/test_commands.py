"""The commands, stacked as the shipped configurations say, in a folder that has no configurations of its own."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from catwalk.networks.classifier import load_classifier
from catwalk.poisoning.attack_files import read_summary

CNN = ["--config", "configs/cnn/traditional.yaml", "--config", "configs/data/synthetic.yaml", "--trainer.logger=false"]
SMALL = ["--model.backbone_args={width: 8}"]
CLASSIFIER = ["--ckpt_path", "runs/traditional/classifier.ckpt"]
DATA = ["--config", "configs/data/synthetic.yaml", "--trainer.logger=false"]
VBPR = ["--config", "configs/recommender/vbpr.yaml", *DATA]
PGD = ["--config", "configs/attack/pgd8.yaml"]
SHORT = ["--trainer.max_epochs=2"]


def values(output: str) -> dict[str, float]:
    """Return the metrics of the table that Lightning prints."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.count("│") == 3]
    return {name: float(value) for name, value in cells if "/" in name}


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_classifier_is_measured(work, run, command: str) -> None:
    outcome = run(command, *CNN, *SMALL, *CLASSIFIER)
    assert outcome.code == 0, outcome.err
    stage = {"validate": "val", "test": "test"}[command]
    assert values(outcome.out)[f"{stage}/accuracy"] > 1.5 / 6  # six categories


def test_predict_writes_the_features_of_every_item(work) -> None:
    assert Path("runs/traditional/features/features.safetensors").is_file()
    with open("runs/traditional/features/predictions.csv") as file:
        assert [row["item_id"] for row in csv.DictReader(file)] == [f"item-{number:02d}" for number in range(90)]


def test_predict_takes_images_of_many_sizes_and_fit_does_not(work, run) -> None:
    files = [Path(f"data/synthetic/images/items/{number:02d}.png") for number in range(90)]
    images = [Image.open(path).resize((16 + number % 3, 16 + number % 17)) for number, path in enumerate(files)]
    for path, image in zip(files, images, strict=True):
        image.save(path)
    outcome = run("predict", *CNN, *SMALL, "--config", "configs/cnn/features.yaml", *CLASSIFIER)
    assert outcome.code == 0, outcome.err
    with open("runs/traditional/features/predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["item_id"] for row in rows] == [f"item-{number:02d}" for number in range(90)]
    classifier = load_classifier("runs/traditional/classifier.ckpt")
    for row, image in zip(rows, images, strict=True):
        levels = torch.from_numpy(np.asarray(image).astype(np.float32).transpose(2, 0, 1) / np.float32(255))
        with torch.no_grad():
            shares = classifier.network(levels[None])[0].softmax(dim=0)
        assert row["category"] == classifier.category_names[int(shares.argmax())]
        assert float(row["probability"]) == pytest.approx(shares.max().item(), rel=1e-5)

    Path("data/synthetic/labelled_images.csv").unlink()
    outcome = run("fit", *CNN, *SMALL)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "01.png is 17×17 and the first is 16×16: give an image_size" in outcome.err


@pytest.mark.parametrize("name", ["vbpr", "bpr_mf"])
def test_a_recommender_is_trained_measured_and_writes_its_lists(work, run, name: str) -> None:
    recommender = ["--config", f"configs/recommender/{name}.yaml", *DATA]
    checkpoint = ["--ckpt_path", f"runs/{name}/recommender.ckpt"]
    fitted = run("fit", *recommender, *SHORT, "--data.validation=true")
    assert (fitted.code, fitted.err) == (0, "")
    validated = values(run("validate", *recommender, *checkpoint, "--data.validation=true").out)
    tested = values(run("test", *recommender, *checkpoint).out)
    for stage, its_figures in (("val", validated), ("test", tested)):
        categories = [value for key, value in its_figures.items() if key.startswith(f"{stage}/chr@20/")]
        assert len(categories) == 6
        assert sum(categories) == pytest.approx(20)  # every place of a list belongs to one category
    written = run("predict", *recommender, *checkpoint, "--config", "configs/recommender/recommendations.yaml")
    assert written.code == 0, written.err
    with open("runs/recommendations.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 200 * 20
    with open("data/synthetic/interactions.csv") as file:
        purchases = list(csv.DictReader(file))
    last = {row["user_id"]: row["item_id"] for row in sorted(purchases, key=lambda row: int(row["timestamp"]))}
    bought = {(row["user_id"], row["item_id"]) for row in purchases if last[row["user_id"]] != row["item_id"]}
    assert not bought & {(row["user_id"], row["item_id"]) for row in rows}


def test_an_attack_poisons_before_fit_wherever_its_configuration_stands(work, run) -> None:
    weights = []
    for order in ([*VBPR, *PGD], [*PGD, *VBPR]):
        assert run("fit", *order, *SHORT).code == 0
        weights.append(torch.load("runs/vbpr/recommender.ckpt", weights_only=True)["state_dict"])
    clean = run("fit", *VBPR, *SHORT)
    assert clean.code == 0
    weights.append(torch.load("runs/vbpr/recommender.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["model.projection"], weights[2]["model.projection"])


def test_an_attack_at_test_time_leaves_the_checkpoint_and_the_clean_features_alone(work, run) -> None:
    files = [Path("runs/vbpr/recommender.ckpt"), *sorted(Path("runs/traditional").rglob("*.*"))]
    before = [path.read_bytes() for path in files]
    checkpoint = ["--ckpt_path", "runs/vbpr/recommender.ckpt"]
    clean = values(run("test", *VBPR, *checkpoint).out)
    attacked = run("test", *VBPR, *PGD, "--poison.attack.epsilon=64", "--poison.output=runs/pgd", *checkpoint)
    assert attacked.code == 0, attacked.err
    assert read_summary(Path("runs/pgd")).epsilon == 64
    assert values(attacked.out) != clean
    assert values(run("test", *VBPR, *checkpoint).out) == clean
    assert [path.read_bytes() for path in files] == before


def test_training_goes_on_from_a_checkpoint(work, run) -> None:
    outcome = run("fit", *VBPR, "--trainer.max_epochs=3", "--ckpt_path", "runs/vbpr/recommender.ckpt")
    assert outcome.code == 0, outcome.err
    assert torch.load("runs/vbpr/recommender.ckpt", weights_only=True)["epoch"] == 2  # the third


def test_without_a_logger_only_the_checkpoint_is_written(work, run) -> None:
    before = set(Path().rglob("*"))
    assert run("fit", *VBPR, *SHORT).code == 0
    assert set(Path().rglob("*")) == before


def test_a_file_of_the_users_own_goes_before_a_shipped_one(work, run) -> None:
    own = Path("configs/recommender/vbpr.yaml")
    own.parent.mkdir(parents=True)
    own.write_text("model: nonsense_of_my_own\n")
    assert "nonsense_of_my_own" in run("fit", *VBPR).err
