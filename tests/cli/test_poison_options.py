"""The options ``poison``: what they come to, and the configurations from before there were any."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks import CategoryHitRatio, InjectPoisonedImages
from catwalk.attacks import PGD, CarliniWagner, RankAttack
from catwalk.cli.poison import Poison
from catwalk.errors import CatwalkError
from catwalk.poisoning.protocol import AttackProtocol
from datamodules import InteractionTriplets
from lightning_modules import VBPR, ProductClassifier

OF_OLD = """
trainer:
  callbacks+:
    - class_path: callbacks.InjectPoisonedImages
      init_args:
        classifier: runs/traditional/classifier.ckpt
        source: Sandal
        target: Sneaker
        output: runs/attacks/of_old
        protocol: {name: corrected, source_items: network, chr_categories: network, epsilon_space: pixels}
        attack:
          class_path: catwalk.attacks.PGD
          init_args:
            epsilon: 8
"""
"""What configs/attack/pgd8.yaml was, with a protocol as a run's configuration.yaml has it."""


@pytest.fixture
def data(tmp_path: Path) -> InteractionTriplets:
    """Return data whose features stand beside their network's checkpoint."""
    features = tmp_path / "network" / "features"
    features.mkdir(parents=True)
    (features.parent / "classifier.ckpt").touch()
    return InteractionTriplets(tmp_path / "shop", features)


def made(data: InteractionTriplets, **options: Any) -> InjectPoisonedImages:
    poison = Poison(**{"attack": PGD(), "source": "Sandal", "target": "Sneaker"} | options)
    callback = poison.callback(VBPR(), data, [CategoryHitRatio()])
    assert callback is not None
    return callback


def test_everything_that_is_given_reaches_the_callback(data) -> None:
    protocol, attack = AttackProtocol(clip=False), PGD(epsilon=3)
    options = {"attack": attack, "source": "Bag", "target": "Coat", "protocol": protocol, "from_epoch": 2}
    options |= {"classifier": Path("x.ckpt"), "output": Path("y"), "backbone": "my.network", "backbone_args": {"a": 1}}
    options["undefended"] = Path("u")
    callback = made(data, **options)
    assert {name: getattr(callback, name) for name in options} == options


def test_the_network_is_the_one_that_made_the_features(data) -> None:
    assert made(data).classifier == data.features.parent / "classifier.ckpt"
    (data.features / "classifier.ckpt").touch()  # of a network that others trained, by `predict`
    assert made(data).classifier == data.features / "classifier.ckpt"
    for path in (data.features, data.features.parent):
        (path / "classifier.ckpt").unlink()
    with pytest.raises(CatwalkError, match=r"poison\.classifier is missing: neither .* nor .*classifier\.ckpt exists"):
        made(data)


def test_the_shops_target_is_for_attacks_that_have_one(data) -> None:
    assert made(data).target == "Sneaker"
    assert made(data, attack=CarliniWagner(targeted=False)).target is None
    assert made(data, attack=RankAttack(recommender="x.ckpt")).target is None


def test_without_an_attack_nothing_is_poisoned(data) -> None:
    assert Poison(source="Sandal", target="Sneaker").callback(VBPR(), data, []) is None


def test_what_cannot_be_poisoned_is_told(data) -> None:
    poison = Poison(attack=PGD(), source="Sandal", target="Sneaker")
    with pytest.raises(CatwalkError, match=r"ProductClassifier is a CNN.*`catwalk attack`"):
        poison.callback(ProductClassifier("catwalk.networks.compact_cnn"), data, [])
    with pytest.raises(CatwalkError, match=r"poison\.source is missing.*configs/data/demo\.yaml"):
        made(data, source=None)
    with pytest.raises(CatwalkError, match=r"poison\.attack: InjectPoisonedImages is among trainer\.callbacks, too"):
        poison.callback(VBPR(), data, [made(data)])
    data.features = None
    with pytest.raises(CatwalkError, match=r"poison\.attack: .*data\.features is not given"):
        made(data)


def test_configurations_of_old_do_the_same(work, run, own_store: Path) -> None:
    Path("old.yaml").write_text(OF_OLD)
    data = ["--config", "configs/data/synthetic.yaml", "--trainer.logger=false", "--trainer.max_epochs=1"]
    vbpr = ["fit", "--config", "configs/recommender/vbpr.yaml", *data]
    weights = []
    for stack in (["--config", "old.yaml"], ["--config", "configs/attack/pgd8.yaml"]):
        outcome = run(*vbpr, *stack)
        assert (outcome.code, outcome.err) == (0, "")
        weights.append(torch.load("runs/vbpr/recommender.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    (new,) = (own_store / "attack").iterdir()
    assert json.loads(Path("runs/attacks/of_old/stage.json").read_text())["key"] == new.name
    both = run(*vbpr, "--config", "old.yaml", "--config", "configs/attack/pgd8.yaml")
    assert both.code == 2
    assert both.err.startswith("catwalk: error: poison.attack: InjectPoisonedImages is among trainer.callbacks, too")
    assert both.err.count("\n") == 1


@pytest.mark.parametrize("option", ["source", "target"])
def test_a_category_that_there_is_not_is_told_by_its_option(work, run, option: str) -> None:
    vbpr = ["fit", "--config", "configs/recommender/vbpr.yaml", "--config", "configs/data/synthetic.yaml"]
    stack = [*vbpr, "--config", "configs/attack/pgd8.yaml", "--trainer.logger=false", f"--poison.{option}=Sandl"]
    outcome = run(*stack)
    assert outcome.code == 2
    assert outcome.err.startswith(
        f"catwalk: error: poison.{option}: there is no category 'Sandl'; did you mean Sandal? "
    )
