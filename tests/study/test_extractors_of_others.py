"""Studies with networks that others trained."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from catwalk.errors import CatwalkError
from catwalk.networks.classifier import load_classifier
from catwalk.networks.compact_cnn import compact_cnn
from catwalk.networks.imagenet import imagenet_categories
from catwalk.poisoning.protocol import Protocol
from catwalk.results.store import StageCache
from catwalk.study import run_study as study_of
from catwalk.study.controls import Controls
from catwalk.study.grid import Training
from catwalk.study.shop import Shop
from catwalk.study.stages.classifier import CLASSIFIER_FILE, ClassifierStage
from catwalk.study.trainings import ClassifierTraining

PLACES = (414, 601, 774, 770, 610, 608)
"""ImageNet's classes that stand for the shop's six categories."""


@pytest.fixture
def imagenet_weights(trained, tmp_path: Path) -> Path:
    own = trained.classifier.network
    state = dict(own.body.state_dict())
    state["6.weight"], state["6.bias"] = torch.zeros(1000, 64), torch.full((1000,), -1e3)
    for row, place in enumerate(PLACES):
        state["6.weight"][place], state["6.bias"][place] = own.head.weight[row].detach(), own.head.bias[row].detach()
    compact_cnn(8, 1000).load_state_dict(state)
    path = tmp_path / "imagenet.pt"
    torch.save(state, path)
    return path


def extractor(weights: Path | str | None, **settings: Any) -> dict[str, Any]:
    arguments = {
        "backbone": "catwalk.networks.compact_cnn",
        "backbone_args": {"width": 8, "num_classes": 1000},
    }
    return {
        "model": {
            "class_path": "lightning_modules.ProductClassifier",
            "init_args": {**arguments, "weights": None if weights is None else str(weights), **settings},
        },
        "data": {"batch_size": 32},
        "trainer": {"accelerator": "cpu", "max_epochs": 0},
    }


@pytest.mark.slow
def test_imagenets_classes_untrained(settings, run_study, imagenet_weights: Path, tmp_path: Path, capfd) -> None:
    settings |= {
        "source": "sandal",
        "target": "running shoe",
        "seeds": [0],
        "extractors": {"ImageNet": extractor(imagenet_weights, categories="imagenet")},
    }
    settings["attacks"] = settings["attacks"][:1]
    del settings["recommenders"]["BPR-MF"]
    study = run_study(settings, tmp_path / "runs")
    of_images = ["classifier", "features", "attack", "perceptual"]
    assert sorted(study.made) == sorted([*of_images, *["recommender", "recommendations"] * 2])
    assert "CNN ImageNet · not trained here" in capfd.readouterr().out
    manifest = json.loads((study.folder / "manifest.json").read_text())
    assert manifest["classifiers"] == {"ImageNet": {"accuracy": None, "accuracy under attack": None}}
    cells = (study.folder / "cells.csv").read_text().splitlines()
    assert len(cells) == 3
    assert all(",sandal,running shoe," in cell for cell in cells[1:])
    (folder,) = (study.output / "cache" / "classifier").iterdir()
    classifier = load_classifier(folder / CLASSIFIER_FILE)
    assert classifier.category_names == imagenet_categories()
    weights = torch.load(imagenet_weights)
    assert torch.equal(classifier.network.head.weight, weights["6.weight"])
    assert str(imagenet_weights) not in (folder / "stage.json").read_text()

    # The same file elsewhere is the same network.
    moved = imagenet_weights.rename(tmp_path / "moved.pt")
    settings["extractors"]["ImageNet"] = extractor(moved, categories="imagenet")
    assert run_study(settings, tmp_path / "runs").made == ()
    # Another file at the same place is another.
    weights["6.bias"][0] -= 1
    torch.save(weights, moved)
    assert "classifier" in run_study(settings, tmp_path / "runs").made


def test_a_trained_checkpoint_without_training(shop, trained, tmp_path: Path) -> None:
    stage = planned(shop, tmp_path, trained.checkpoint, backbone_args={"width": 8})

    class Progress:
        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: None

    (tmp_path / "stage").mkdir()
    record = stage.make(tmp_path / "stage", Progress())  # type: ignore[arg-type]
    assert record["accuracy"] > 0.8
    network = load_classifier(tmp_path / "stage" / CLASSIFIER_FILE).network.state_dict()
    expected = trained.classifier.network.state_dict()
    assert all(torch.equal(network[name], expected[name]) for name in expected)


def planned(shop: Path, cache: Path, weights: Path, **settings: Any) -> ClassifierStage:
    training = Training(**extractor(weights, **settings))
    dataset = Shop.read(shop)
    return ClassifierStage(StageCache(cache), dataset, ClassifierTraining.of(dataset, "T", training))


def key(shop: Path, cache: Path, weights: Path, **settings: Any) -> str:
    return planned(shop, cache, weights, **settings).key


def test_the_key_has_the_content_of_the_file_and_not_its_place(shop, imagenet_weights: Path, tmp_path: Path) -> None:
    first = key(shop, tmp_path, imagenet_weights)
    copied = tmp_path / "elsewhere.pth"
    copied.write_bytes(imagenet_weights.read_bytes())
    assert key(shop, tmp_path, copied) == first
    assert key(shop, tmp_path, copied, freeze_up_to="1") != first
    assert key(shop, tmp_path, copied, categories="imagenet") != first
    copied.write_bytes(imagenet_weights.read_bytes() + b"\0")
    assert key(shop, tmp_path, copied) != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"source": "Sandal"},
            r"source \(of ImageNet, which .* sees\): there is no category 'Sandal'; .* mean sandal\?",
        ),
        ({"target": "Sneaker"}, r"target \(of ImageNet.*: there is no category 'Sneaker'"),
        (
            {"protocol": {"chr_categories": "dataset"}},
            r"source \(of the dataset, which the protocol asks\): there is no category 'sandal'",
        ),
    ],
)
def test_names_must_be_known_to_whoever_is_asked(shop, imagenet_weights, settings, tmp_path, change, message) -> None:
    settings |= {"source": "sandal", "target": "running shoe", "dataset": shop, "output": tmp_path / "runs"} | change
    del settings["lpips"]
    settings["extractors"] = {"ImageNet": Training(**extractor(imagenet_weights, categories="imagenet"))}
    settings["recommenders"] = {name: Training(**value) for name, value in settings["recommenders"].items()}
    settings["protocol"] = Protocol(**settings.get("protocol", {}))
    settings["controls"] = Controls(**settings["controls"])
    with pytest.raises(CatwalkError, match=message):
        study_of(**settings)
    assert not (tmp_path / "runs").exists()


def test_a_random_network_is_refused_before_anything_runs(shop, tmp_path: Path) -> None:
    with pytest.raises(CatwalkError, match="categories: imagenet needs a trained network"):
        key(shop, tmp_path, None, categories="imagenet")  # type: ignore[arg-type]
