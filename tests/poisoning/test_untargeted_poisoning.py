"""Attacks that aim at no category are never told of one, whatever else they must know."""

import json

import numpy as np
import pytest
import torch
from visual_models import visual_model

from catwalk.attacks import APGD, DDN, FGSM, FMN, MIFGSM, PGD, CarliniWagner, FeatureMatching, RandomNoise, RankAttack
from catwalk.errors import CatwalkError
from catwalk.poisoning.poison import poison

SOURCE = "Sandal"
ATTACKS = {
    "fgsm": lambda: FGSM(targeted=False),
    "pgd": lambda: PGD(iterations=2, targeted=False),
    "pgd in l2": lambda: PGD(60.0, iterations=2, targeted=False, norm="l2"),
    "mi-fgsm": lambda: MIFGSM(iterations=2, targeted=False),
    "apgd": lambda: APGD(iterations=2, targeted=False),
    "apgd by dlr": lambda: APGD(iterations=2, targeted=False, loss="dlr"),
    "c&w": lambda: CarliniWagner(searches=1, iterations=5, targeted=False),
    "ddn": lambda: DDN(iterations=5, targeted=False),
    "fmn": lambda: FMN("linf", iterations=5, targeted=False),
    "noise": lambda: RandomNoise(targeted=False),
    "rank attack": lambda: rank_attack(),
}
every_attack = pytest.mark.parametrize("make_attack", ATTACKS.values(), ids=ATTACKS.keys())


def rank_attack():
    attack = RankAttack(iterations=2)
    attack.scorers = [visual_model(*(torch.ones(shape) for shape in ((5, 2), (90, 2), (5, 3), (64, 3))))]
    return attack


@every_attack
def test_is_told_of_the_source_alone(trained, tmp_path, make_attack):
    attack, scenes, given = make_attack(), [], []
    targets_of, perturb = attack.targets_of, attack.perturb
    attack.targets_of = lambda scene: scenes.append(scene) or targets_of(scene)
    attack.perturb = lambda network, images, targets, keys: (
        given.append(targets) or perturb(network, images, targets, keys)
    )
    poison(trained.classifier, attack, trained.catalogue, trained.table, tmp_path, source=SOURCE, target=None)
    names = trained.table.category_names
    (attacked,) = np.nonzero(trained.table.categories == names.index(SOURCE))
    (scene,) = scenes
    assert scene.category == names.index(SOURCE)
    assert scene.items.tolist() == attacked.tolist()
    wanted = attacked.tolist() if "Rank" in attack.name else [names.index(SOURCE)] * len(attacked)
    targets = torch.cat(given).tolist()
    assert targets[: len(attacked)] == wanted
    assert set(targets[len(attacked) :]) <= {wanted[-1]}, "what pads a batch"
    summary = json.loads((tmp_path / "attack.json").read_text())
    assert summary["target"] is None
    assert not any(name in summary["purpose"] for name in names if name != SOURCE)


@every_attack
def test_refuses_any_target(trained, tmp_path, make_attack):
    for target in (*trained.table.category_names, "Hat", ""):
        with pytest.raises(CatwalkError, match=f"target: an untargeted attack takes none, got {target!r}"):
            poison(
                *(trained.classifier, make_attack(), trained.catalogue, trained.table, tmp_path / "out"),
                **{"source": SOURCE, "target": target},
            )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("attack", "target", "message"),
    [
        (FeatureMatching(), "Sneaker", "item: it is not known what was bought most often"),
        (FeatureMatching(item="item-99"), "Sneaker", "item: 'item-99' is no item of the catalogue"),
        (FeatureMatching(), None, "target: a targeted attack needs the category"),
        (RankAttack(), None, "recommender: RankAttack needs the checkpoint"),
    ],
)
def test_an_attack_that_does_not_know_enough_writes_nothing(trained, tmp_path, attack, target, message):
    arguments = trained.classifier, attack, trained.catalogue, trained.table, tmp_path / "out"
    with pytest.raises(CatwalkError, match=message):
        poison(*arguments, source=SOURCE, target=target)
    assert not (tmp_path / "out").exists()
