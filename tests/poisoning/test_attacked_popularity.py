"""Items that are attacked for what was bought of them: cold, tail or head."""

import csv
import json
import shutil

import numpy as np
import pytest

from callbacks import InjectPoisonedImages
from catwalk.attacks import FGSM
from catwalk.errors import CatwalkError
from catwalk.poisoning.attack_images import attack_images
from catwalk.poisoning.poison import items_to_attack, poison
from catwalk.poisoning.protocol import AttackProtocol, Protocol
from catwalk.shop.splits import read_split
from datamodules import InteractionTriplets
from lightning_modules import Popularity

GOAL = {"source": "Sandal", "target": "Sneaker"}
every_popularity = pytest.mark.parametrize("popularity", ["cold", "tail", "head"])


@pytest.fixture
def purchases(trained):
    """Every third item was bought by nobody, and of the others no two sell alike."""
    numbers = np.arange(1, len(trained.catalogue) + 1)
    return np.where(numbers % 3 == 0, 0, numbers)


def expected(trained, purchases, popularity):
    """The items by hand: sorted by purchases, a fifth of them all at the head."""
    sandals = np.flatnonzero(trained.table.categories == trained.table.category_names.index("Sandal"))
    head = set(np.argsort(-purchases, kind="stable")[: len(purchases) // 5].tolist())
    of_group = {
        "cold": lambda item: purchases[item] == 0,
        "tail": lambda item: purchases[item] > 0 and item not in head,
        "head": lambda item: item in head,
    }
    return [item for item in sandals.tolist() if of_group[popularity](item)]


@every_popularity
def test_those_of_one_popularity_are_attacked_and_no_others(trained, purchases, tmp_path, popularity):
    wanted = expected(trained, purchases, popularity)
    found = items_to_attack(trained.table, trained.catalogue, "Sandal", popularity=popularity, purchases=purchases)
    assert found.tolist() == wanted
    assert 0 < len(wanted) < (trained.table.categories == trained.table.category_names.index("Sandal")).sum()
    protocol = AttackProtocol(source_popularity=popularity)
    arguments = trained.classifier, FGSM(), trained.catalogue, trained.table, tmp_path
    poisoned = poison(*arguments, **GOAL, protocol=protocol, purchases=purchases)
    changed = (poisoned.features != trained.table.features).any(dim=1).numpy()
    assert set(np.flatnonzero(changed)) <= set(wanted)
    with (tmp_path / "attacked_items.csv").open() as file:
        assert [row["item_id"] for row in csv.DictReader(file)] == [trained.catalogue.item_ids[i] for i in wanted]


def test_all_needs_no_purchases(trained):
    every = items_to_attack(trained.table, trained.catalogue, "Sandal")
    assert every.tolist() == expected(trained, np.zeros(len(trained.catalogue), int), "cold")


def test_says_what_there_is_instead(trained, purchases):
    arguments = trained.table, trained.catalogue, "Sandal"
    with pytest.raises(CatwalkError, match=r"^protocol\.source_popularity: is cold, and it is not known"):
        items_to_attack(*arguments, popularity="cold")
    nobody = np.zeros_like(purchases)
    message = r"protocol\.source_popularity: of the items of 'Sandal' none is head \(there are \d+ cold\); choose"
    with pytest.raises(CatwalkError, match=message):
        items_to_attack(*arguments, popularity="head", purchases=nobody)
    with pytest.raises(CatwalkError, match=r"^protocol\.source_popularity must be one of all, cold, tail, head, got"):
        Protocol(source_popularity="hot")


@pytest.fixture
def cold_shop(trained, tmp_path):
    """The shop, with no purchases of every second item."""
    folder = tmp_path / "shop"
    shutil.copytree(trained.catalogue.folder, folder)
    cold = set(trained.catalogue.item_ids[::2])
    lines = (folder / "interactions.csv").read_text().splitlines()
    kept = [line for line in lines[1:] if line.split(",")[1] not in cold]
    (folder / "interactions.csv").write_text("\n".join([lines[0], *kept]) + "\n")
    return folder


def test_the_command_and_a_run_know_what_was_bought(trained, cold_shop, make_trainer, tmp_path):
    protocol = AttackProtocol(source_popularity="cold")
    summary = attack_images(
        cold_shop, trained.checkpoint, FGSM(), output=tmp_path / "command", protocol=protocol, **GOAL
    )
    features = tmp_path / "command" / "clean"
    data = InteractionTriplets(cold_shop, features, batch_size=32)
    attack = {"attack": FGSM(), "output": tmp_path / "run", "results": tmp_path / "cache", "protocol": protocol}
    inject = InjectPoisonedImages(trained.checkpoint, **GOAL, **attack)
    make_trainer(callbacks=[inject]).test(Popularity(top_k=[5]), data, verbose=False)
    counts = np.bincount(read_split(data.catalogue).items, minlength=len(data.catalogue))
    number = trained.table.category_names.index("Sandal")
    wanted = [data.catalogue.item_ids[i] for i in np.flatnonzero((trained.table.categories == number) & (counts == 0))]
    assert len(wanted) == summary.n_attacked > 0
    for name in ("command", "run"):
        with (tmp_path / name / "attacked_items.csv").open() as file:
            assert [row["item_id"] for row in csv.DictReader(file)] == wanted
        assert json.loads((tmp_path / name / "attack.json").read_text())["n_attacked"] == len(wanted)


def test_a_shop_without_purchases_is_told_so(trained, cold_shop, tmp_path):
    (cold_shop / "interactions.csv").unlink()
    message = r"protocol\.source_popularity: is cold, so the purchases of .* must be known, and .*; or let it be all"
    with pytest.raises(CatwalkError, match=message):
        attack_images(
            cold_shop,
            trained.checkpoint,
            FGSM(),
            output=tmp_path / "out",
            protocol=AttackProtocol(source_popularity="cold"),
            **GOAL,
        )
