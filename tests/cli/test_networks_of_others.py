"""Networks that others trained, by the commands of the shipped configurations."""

import csv
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml

from catwalk.importers.synthetic import CATEGORIES
from catwalk.networks.compact_cnn import compact_cnn
from catwalk.networks.imagenet import imagenet_categories

DATA = ["--config", "configs/data/synthetic.yaml", "--trainer.logger=false"]
IMAGENET = ["--config", "configs/cnn/imagenet.yaml", *DATA]
FINE_TUNED = ["--config", "configs/cnn/fine_tuned.yaml", *DATA]
CONFIGURATIONS = sorted(path.name for path in Path(str(files("configs"))).glob("cnn/*.yaml"))
SMALL = ["--model.backbone=catwalk.networks.compact_cnn", "--data.image_size=null", "--data.shift=1"]
PLACES = (414, 601, 774, 770, 610, 608)
"""ImageNet's classes that stand for the shop's six categories."""


@pytest.fixture
def weights(work: Path) -> str:
    """Return the path of a file with a thousand outputs, six of which know the shop's categories."""
    own = torch.load("runs/traditional/classifier.ckpt", weights_only=True)["state_dict"]
    state = {name.removeprefix("network.body."): tensor for name, tensor in own.items() if ".body." in name}
    state["6.weight"], state["6.bias"] = torch.zeros(1000, 64), torch.full((1000,), -1e3)
    for row, place in enumerate(PLACES):
        state["6.weight"][place] = own["network.head.weight"][row]
        state["6.bias"][place] = own["network.head.bias"][row]
    compact_cnn(8, 1000).load_state_dict(state)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, "model_best.pth.tar")
    return "--model.weights=model_best.pth.tar"


WIDE = "--model.backbone_args={width: 8, num_classes: 1000}"


def categories(path: str) -> list[str]:
    with open(path) as file:
        return [row["category"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_is_accepted(work: Path, run, name: str) -> None:
    behind = {"features.yaml": ["traditional"], "reachable_shifts.yaml": ["traditional", "features"]}.get(name, [])
    before = [argument for each in behind for argument in ("--config", f"configs/cnn/{each}.yaml")]
    command = "predict" if behind or name == "imagenet.yaml" else "fit"
    outcome = run(command, *before, "--config", f"configs/cnn/{name}", *DATA, "--print_config")
    assert outcome.code == 0, outcome.err
    assert "class_path: lightning_modules." in outcome.out


def test_robust_weights_are_given_as_the_configurations_say(work: Path, run) -> None:
    for configuration in (IMAGENET, FINE_TUNED):
        command = "predict" if configuration is IMAGENET else "fit"
        robust = ["--model.weights", "imagenet_linf_4.pt", "--model.backbone_args", "null"]
        outcome = run(command, *configuration, *robust, "--print_config")
        assert outcome.code == 0, outcome.err
        model = yaml.safe_load(outcome.out)["model"]["init_args"]
        assert (model["weights"], model["backbone_args"]) == ("imagenet_linf_4.pt", None)


def test_imagenet_classes_and_an_attack_by_their_names(work: Path, run, own_store: Path, weights: str) -> None:
    outcome = run("predict", *IMAGENET, *SMALL, WIDE, weights)
    assert outcome.code == 0, outcome.err
    of_imagenet = dict(zip(CATEGORIES, [imagenet_categories()[place] for place in PLACES], strict=True))
    seen = categories("runs/traditional/features/predictions.csv")
    assert categories("runs/imagenet/features/predictions.csv") == [of_imagenet[name] for name in seen]

    vbpr = ["--config", "configs/recommender/vbpr.yaml", *DATA, "--data.features=runs/imagenet/features"]
    pgd = ["--config", "configs/attack/pgd8.yaml"]
    by_name = ["--poison.source=sandal", "--poison.target=running shoe", "--poison.attack.epsilon=64"]
    outcome = run("fit", *vbpr, *pgd, *by_name, "--trainer.max_epochs=1")
    assert outcome.code == 0, outcome.err
    with open(next(own_store.glob("attack/*/attacked_items.csv"))) as file:
        attacked = list(csv.DictReader(file))
    assert len(attacked) == categories("runs/imagenet/features/predictions.csv").count("sandal") > 0
    assert {row["category_before"] for row in attacked} == {"sandal"}
    assert sum(row["category_after"] == "running shoe" for row in attacked) > len(attacked) / 2


def test_fine_tuning_and_what_comes_after_it(work: Path, run, weights: str) -> None:
    model = [*SMALL, WIDE, "--model.freeze_up_to=1", weights]
    fitted = run("fit", *FINE_TUNED, *model, "--trainer.max_epochs=2")
    assert (fitted.code, fitted.err) == (0, "")
    tuned = torch.load("runs/fine_tuned/classifier.ckpt", weights_only=True)["state_dict"]
    before = torch.load("model_best.pth.tar", weights_only=True)["state_dict"]
    assert torch.equal(tuned["network.body.1.1.running_var"], before["module.1.1.running_var"])
    assert not torch.equal(tuned["network.body.2.1.running_var"], before["module.2.1.running_var"])
    assert tuned["network.head.weight"].shape == (6, 64)
    Path("model_best.pth.tar").unlink()  # the checkpoint does without
    tested = run("test", *FINE_TUNED, *model, "--ckpt_path=runs/fine_tuned/classifier.ckpt")
    assert tested.code == 0, tested.err
    assert "test/accuracy" in tested.out


def test_a_checkpoint_needs_no_download(work: Path, run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("nothing is to be downloaded")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    quick = ["--model.backbone=torchvision.models.squeezenet1_1", "--data.image_size=[32, 32]"]
    outcome = run("test", *FINE_TUNED, *quick, "--ckpt_path=runs/traditional/classifier.ckpt")
    assert (outcome.code, "has no nn.Linear" in outcome.err) == (2, True), outcome.err


MISTAKES = {
    "missing file": (["predict", *IMAGENET, "--model.weights=nowhere.pt"], ["weights", "give one of them"]),
    "missing file alone": (
        ["predict", *IMAGENET, "--model.weights=nowhere.pt", "--model.backbone_args=null"],
        ["weights: nowhere.pt does not exist"],
    ),
    "training on ImageNet's classes": (["fit", *IMAGENET], ["categories: imagenet", "fit", "categories: dataset"]),
    "measuring them": (["test", *IMAGENET], ["categories: imagenet", "test", "categories: dataset"]),
    "random network": (["predict", *IMAGENET, "--model.backbone_args=null"], ["ckpt_path is missing", "model.weights"]),
    "not loaded by timm": (
        ["predict", *IMAGENET, "--model.backbone_args={pretrained: false}"],
        ["ckpt_path is missing", "model.weights"],
    ),
    "freezing a random network": (
        ["fit", *FINE_TUNED, "--model.backbone_args=null"],
        ["freeze_up_to: layer3 needs a trained network", "weights"],
    ),
    "unknown categories": (
        ["predict", *IMAGENET, "--model.categories=coco"],
        ["categories", "dataset, imagenet", "coco"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(work: Path, run, name: str) -> None:
    arguments, words = MISTAKES[name]
    outcome = run(*arguments)
    assert outcome.code == 2, outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("catwalk: error: ")
    for word in words:
        assert word in outcome.err, outcome.err


def test_a_class_that_imagenet_does_not_have(work: Path, run, weights: str) -> None:
    assert run("predict", *IMAGENET, *SMALL, WIDE, weights).code == 0
    vbpr = ["--config", "configs/recommender/vbpr.yaml", *DATA, "--data.features=runs/imagenet/features"]
    outcome = run("fit", *vbpr, "--config", "configs/attack/pgd8.yaml", "--poison.source=sandal")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "target: there is no category 'Sneaker'; did you mean beaker? The 1000 categories are tench, " in outcome.err
