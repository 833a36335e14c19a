"""AutoAttack: an image withstands it if and only if it withstands every component; and a peer."""

import dataclasses
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml
from every_attack import make_batch, make_network
from test_apgd import smooth_network
from torch import nn

from catwalk.attacks import APGD, APGDT, FAB, AutoAttack, Square
from catwalk.errors import CatwalkError
from catwalk.poisoning.attack_files import read_summary
from catwalk.poisoning.poison import poison
from catwalk.study.specifications import attack_of

FEW = {"iterations": 6, "num_targets": 3, "queries": 40}


@pytest.fixture(scope="module")
def task():
    """A network, images, and categories of which the network mistakes some."""
    network = make_network()
    images, random, keys = make_batch(96)
    with torch.no_grad():
        categories = network(images).argmax(1)
    return network, images, torch.where(torch.arange(96) % 8 == 0, random, categories), keys


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.9), pytest.param("l2", 10.0, marks=pytest.mark.slow)])
def test_withstands_all_or_falls_to_the_first(task, norm, epsilon):
    network, images, categories, keys = task
    attack = AutoAttack(epsilon, norm, seed=3, **FEW)
    result = attack(network, images, categories, keys=keys)
    components = [
        APGD(epsilon, norm, "ce", 6, targeted=False, seed=3),
        APGDT(epsilon, norm, 3, 6, seed=3),
        FAB(epsilon, norm, 3, 6),
        Square(epsilon, norm, 40, targeted=False, seed=3),
    ]
    with torch.no_grad():
        mistaken = network(images).argmax(1) != categories
    alone = [component(network, images, categories, keys=keys) for component in components]
    falls = torch.stack([mistaken, *(one.success for one in alone)])
    assert torch.equal(result.success, falls.any(dim=0))
    expected = torch.where(falls.any(dim=0), falls.int().argmax(dim=0), -1)
    assert torch.equal(result.misled_by, expected)
    assert {-1, 0, 1} < set(expected.tolist()), "and somebody falls to another than the first"
    for place, one in enumerate(alone, start=1):
        rows = expected == place
        assert torch.equal(result.images[rows], one.images[rows])
    assert torch.equal(result.images[mistaken], images[mistaken])
    everything = sum(one.iterations for one in alone)
    assert torch.equal(result.iterations[expected == -1], everything[expected == -1])
    assert not result.iterations[mistaken].any()
    with torch.no_grad():
        assert torch.equal(network(result.images).argmax(1) != categories, result.success)


def test_components_keep_to_a_replaced_threat_model(task):
    network, images, categories, keys = task
    attack = AutoAttack(0.5, components=["apgd-ce", "square"], **FEW)
    few = slice(1, 17)
    attack.threat_model = dataclasses.replace(attack.threat_model, epsilon=20.0)
    result = attack(network, images[few], categories[few], keys=keys[few])
    largest = 255 * (result.images - images[few]).abs().amax()
    assert 15 < largest < 20.01


def test_progress_goes_up_to_the_end(task):
    network, images, categories, keys = task
    told = []
    AutoAttack(0.5, components=["apgd-ce", "apgd-t"], batch_size=16, iterations=2, num_targets=1)(
        network, images, categories, keys=keys, progress=lambda done, total: told.append((done, total))
    )
    done = [number for number, _ in told]
    assert done == sorted(done)
    assert told[-1] == (96, 96)
    assert len(set(done)) > 5


def test_some_components_in_their_order(task):
    network, images, categories, keys = task
    attack = AutoAttack(20, components=["square", "apgd-ce"], **FEW)
    assert [component.title for component in attack.components] == ["Square", "APGD-CE"]
    result = attack(network, images[:16], categories[:16], keys=keys[:16])
    assert {0, 1} <= set(result.misled_by.tolist()) <= {-1, 0, 1, 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"components": []}, "components: must be some of apgd-ce, apgd-t, fab-t, square, each once"),
        ({"components": ["pgd"]}, "components: must be some of .* got pgd"),
        ({"components": ["square", "square"]}, "each once, got square, square"),
        ({"iterations": 0}, "iterations: must be at least 1"),
        ({"num_targets": 0}, "num_targets: must be at least 1"),
        ({"queries": 0}, "queries must be at least 1"),
        ({"precision": "bf16"}, "precision: bf16 moves the boundary"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(CatwalkError, match=message):
        AutoAttack(**settings)


def test_three_categories_need_other_components():
    network = nn.Sequential(nn.Flatten(), nn.Linear(243, 3))
    images, _, keys = make_batch(4)
    own = network(images).argmax(1)
    with pytest.raises(CatwalkError, match="needs a network of at least 4 categories"):
        AutoAttack(0, **FEW)(network, images, own, keys=keys)
    result = AutoAttack(0, components=["apgd-ce", "fab-t", "square"], **FEW)(network, images, own, keys=keys)
    assert len(result.images) == 4


def test_is_the_standard_one_and_configured():
    path = Path(str(files("configs"))) / "attack/auto.yaml"
    attack = attack_of(yaml.safe_load(path.read_text())["poison"]["attack"]).instantiate()
    assert isinstance(attack, AutoAttack)
    assert (attack.name, attack.targeted, attack.threat_model.epsilon) == ("AutoAttack (ε = 8)", False, 8)
    ce, t, fab, square = attack.components
    assert (ce.title, ce.iterations, ce.random_start, ce.targeted) == ("APGD-CE", 100, True, False)
    assert (t.title, t.iterations, t.num_targets) == ("APGD-T", 100, 9)
    assert (fab.title, fab.iterations, fab.num_targets) == ("FAB-T", 100, 9)
    assert (square.title, square.queries, square.p_init, square.loss) == ("Square", 5000, 0.8, "margin")


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 20.0), ("l2", 140.0)])
def test_leaves_what_a_peer_leaves(norm, epsilon):
    peer = pytest.importorskip("torchattacks")
    network, images = smooth_network(), torch.rand(100, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = network(images).argmax(1)
    ours = AutoAttack(epsilon, norm, queries=500)(network, images, own, keys=torch.arange(100))
    craft = peer.AutoAttack(network, {"linf": "Linf", "l2": "L2"}[norm], epsilon / 255, n_classes=7, seed=0)
    with torch.no_grad():
        theirs = network(craft(images, own)).argmax(1) != own
    assert 10 < int(theirs.sum()) < 90
    assert abs(int(ours.success.sum()) - int(theirs.sum())) <= 1


def test_poisons_a_shop(trained, tmp_path):
    attack = AutoAttack(8, **FEW)
    poison(trained.classifier, attack, trained.catalogue, trained.table, tmp_path, source="Sandal", target=None)
    summary = read_summary(tmp_path)
    assert summary.n_attacked > 5
    assert summary.sr > summary.sr_clean
    assert summary.linf_levels <= 8
