"""The list rank attack: places against lists that are sorted in full, and what the attack reaches."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from black_box import grey_images
from every_attack import make_batch, make_network
from visual_models import parameters_of, visual_model

from catwalk.attacks import AttackContext, ListRankAttack, ShownLists
from catwalk.errors import CatwalkError
from catwalk.study.specifications import attack_of

NUM_ITEMS, NUM_USERS, TOP_K = 300, 23, 4


def make_model(num_features=32, seed=3, num_items=NUM_ITEMS):
    random = torch.Generator().manual_seed(seed)
    shapes = (NUM_USERS, 4), (num_items, 4), (NUM_USERS, 3), (num_features, 3)
    return visual_model(*(torch.randn(shape, generator=random) for shape in shapes))


def catalogue_features(number=NUM_ITEMS):
    return torch.rand(number, 32, generator=torch.Generator().manual_seed(1))


def places_by_sorting(model, features, changed, item):
    """Where an item stands for each user when its features change, by sorting the catalogue for each, in float64."""
    p, q, rho, e = (tensor.double().numpy() for tensor in parameters_of(model))
    features = features.double().numpy().copy()
    features[item] = changed.double().numpy()
    scores = p @ q.T + rho @ (features @ e).T
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.minimum(np.argmax(order == item, axis=1), TOP_K)


@pytest.mark.parametrize("users", [None, [1, 5, 22]])
def test_places_are_those_of_the_sorted_catalogue(users):
    model, features = make_model(), catalogue_features()
    shown = ShownLists.of(model, features, TOP_K, None if users is None else torch.tensor(users))
    items = torch.tensor([7, 250, 0, 299, 42, 42, 42, 42])
    changed = features[items] + torch.linspace(-4, 4, 8)[:, None] * torch.randn(32)
    found = shown.places(changed, items).numpy()
    expected = np.stack([places_by_sorting(model, features, *pair) for pair in zip(changed, items.tolist())])  # noqa: B905
    assert np.array_equal(found, expected if users is None else expected[:, users])
    assert 0 < (found < TOP_K).sum() < found.size


def test_of_equal_scores_the_first_item_stands_first():
    model, features = make_model(num_items=9), torch.ones(9, 32)
    with torch.no_grad():
        for parameter in parameters_of(model):
            parameter[:] = 1.0  # sums of whole numbers are exact
    shown = ShownLists.of(model, features, 4)
    items = torch.tensor([0, 3, 8])
    assert shown.places(features[items], items).tolist() == [[0] * NUM_USERS, [3] * NUM_USERS, [4] * NUM_USERS]


def make_attack(network, images, **settings):
    """An attack on the first items of a catalogue whose other items have random features."""
    attack = ListRankAttack(top_k=TOP_K, **settings)
    features = catalogue_features(30) * network.features(images).detach().abs().max()
    features[: len(images)] = network.features(images).detach()
    model = make_model(num_items=30)
    with torch.no_grad():
        parameters_of(model)[3].mul_(20)  # the image decides
    attack.shown = ShownLists.of(model, features, TOP_K)
    return attack


def gains(attack, network, images, items):
    places = attack.shown.places(network.features(images).detach(), items).double()
    return torch.where(places < TOP_K, 1 / (places + 2).log2(), 0.0).sum(dim=1)


def test_items_come_into_more_lists_or_higher():
    network, (images, _, keys) = make_network(), make_batch(16)
    items = torch.arange(16)
    attack = make_attack(network, images, epsilon=40, queries=150)
    result = attack(network, images, items, keys=keys)
    before, after = (gains(attack, network, points, items) for points in (images, result.images))
    assert (after >= before - 1e-9).all()
    assert torch.equal(result.success, after > before)
    assert result.success.float().mean() > 0.6
    assert after.sum() > 1.5 * before.sum()
    fewer = make_attack(network, images, epsilon=40, queries=10)(network, images, items, keys=keys)
    assert gains(attack, network, fewer.images, items).sum() < after.sum()


def test_who_leads_all_lists_stops():
    network, images = make_network(), grey_images(2, 9)
    attack = make_attack(network, images, queries=50)
    attack.shown.scores[:] = -1e6  # nobody else is worth anything
    attack.shown.items[:] = 29
    assert attack(network, images, torch.tensor([3, 4]), keys=torch.arange(2)).iterations.tolist() == [1, 1]


def scene(number=NUM_ITEMS, size=32):
    features = torch.rand(number, size)
    return AttackContext(
        items=torch.tensor([1, 2]),
        item_ids=[str(item) for item in range(number)],
        category=0,
        category_names=["Sandal"],
        features=features,
        categories=torch.zeros(number, dtype=torch.int64),
        purchases=None,
    )


@pytest.fixture
def checkpoint(monkeypatch):
    monkeypatch.setattr("catwalk.attacks.list_rank.read_visual_model", lambda path: make_model())
    return Path("recommender.ckpt")


@pytest.mark.parametrize("users", [None, 5, 1000])
def test_the_lists_are_made_of_the_recommender_for_a_catalogue(checkpoint, users):
    attack = ListRankAttack(users=users, top_k=TOP_K, recommender=checkpoint)
    assert attack.targets_of(scene()).tolist() == [1, 2]
    shown = attack.shown
    assert shown.scores.shape == (TOP_K + 1, 5 if users == 5 else NUM_USERS)
    assert len(shown.users.unique()) == shown.scores.shape[1]


def test_what_does_not_fit_is_refused(checkpoint):
    for attack, where, message in (
        (ListRankAttack(), scene(), "recommender: ListRankAttack needs the checkpoint"),
        (ListRankAttack(recommender=checkpoint), scene(10), "another catalogue, of 300 items; this one has 10"),
        (ListRankAttack(recommender=checkpoint), scene(size=8), "features of 32 values, and the network gives 8"),
        (ListRankAttack(recommender=checkpoint, top_k=300), scene(), "top_k: must be below the catalogue's 300 items"),
    ):
        with pytest.raises(CatwalkError, match=message):
            attack.targets_of(where)
    network, (images, _, keys) = make_network(), make_batch(2)
    with pytest.raises(CatwalkError, match="shown: ListRankAttack needs the lists"):
        ListRankAttack()(network, images, torch.tensor([0, 1]), keys=keys)
    with pytest.raises(CatwalkError, match=r"targets: must be in 0..29, for the recommender has 30 items; got 30"):
        make_attack(network, images)(network, images, torch.tensor([0, 30]), keys=keys)
    for settings, message in (({"top_k": 0}, "top_k must be at least 1"), ({"users": 0}, "users must be at least 1")):
        with pytest.raises(CatwalkError, match=message):
            ListRankAttack(**settings)


def test_what_it_is_called_and_what_it_sees():
    attack = ListRankAttack()
    assert (attack.name, attack.targeted) == ("List rank attack (ε = 8)", False)
    assert (attack.knowledge, attack.access) == ("network and recommender", "lists")
    assert attack.purpose("Sandal", None) == "push Sandal up in the lists"


def test_the_configuration_is_accepted():
    settings = yaml.safe_load(Path(str(files("configs")), "attack", "list_rank8.yaml").read_text())
    attack = attack_of(settings["poison"]["attack"]).instantiate()
    assert (type(attack), attack.recommender) == (ListRankAttack, Path("runs/vbpr/recommender.ckpt"))
