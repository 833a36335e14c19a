"""Items that the undefended network chooses, and a defended one attacks."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from callbacks import InjectPoisonedImages
from catwalk.attacks import FGSM
from catwalk.errors import CatwalkError
from catwalk.poisoning.attack_images import attack_images
from catwalk.poisoning.attack_inputs import attack_inputs
from catwalk.poisoning.poison import items_to_attack, poison
from catwalk.poisoning.protocol import AttackProtocol, Protocol

BY_UNDEFENDED = AttackProtocol(source_items="undefended")
GOAL = {"source": "Sandal", "target": "Sneaker"}


@pytest.fixture
def undefended(trained):
    """What another network sees: the first ten items as sandals, and whatever else."""
    table = trained.table
    categories = np.full(len(trained.catalogue), table.category_names.index("Bag"))
    categories[:10] = table.category_names.index("Sandal")
    return replace(table, categories=categories, network="another")


def test_the_undefended_networks_items_are_attacked(trained, undefended, tmp_path):
    items = items_to_attack(trained.table, trained.catalogue, "Sandal", "undefended", undefended)
    assert items.tolist() == list(range(10))
    attack = FGSM(epsilon=8)
    poison(
        trained.classifier,
        attack,
        trained.catalogue,
        trained.table,
        tmp_path / "python",
        **GOAL,
        protocol=BY_UNDEFENDED,
        undefended=undefended,
    )
    undefended.write(tmp_path / "undefended", trained.catalogue)
    arguments = {"protocol": BY_UNDEFENDED, "undefended": tmp_path / "undefended", **GOAL}
    attack_images(trained.catalogue.folder, trained.checkpoint, attack, output=tmp_path / "command", **arguments)
    for name in ("python", "command"):
        with (tmp_path / name / "attacked_items.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["item_id"] for row in rows] == list(trained.catalogue.item_ids[:10])
        # It is the network under attack that says what was reached, and what was seen before.
        names = trained.table.category_names
        assert [row["category_before"] for row in rows] == [names[c] for c in trained.table.categories[:10]]
        share = float((trained.table.categories[:10] == names.index("Sneaker")).mean())
        assert json.loads((tmp_path / name / "attack.json").read_text())["sr_clean"] == pytest.approx(share)


def test_without_its_features_it_cannot_choose(trained, undefended, tmp_path):
    message = r"^protocol\.source_items is undefended, .*\(poison\.undefended of a run\), or let source_items be"
    with pytest.raises(CatwalkError, match=message):
        items_to_attack(trained.table, trained.catalogue, "Sandal", "undefended")
    with pytest.raises(CatwalkError, match=message):
        attack_images(
            trained.catalogue.folder, trained.checkpoint, FGSM(), output=tmp_path / "o", protocol=BY_UNDEFENDED, **GOAL
        )
    with pytest.raises(CatwalkError, match=message):
        InjectPoisonedImages(trained.checkpoint, FGSM(), protocol=BY_UNDEFENDED, **GOAL)
    assert list(tmp_path.iterdir()) == []
    place = (trained.table, trained.catalogue, "Sandal", "undefended")
    of_another = replace(undefended, catalogue="another")
    with pytest.raises(CatwalkError, match="are of another catalogue than those of the network under attack"):
        items_to_attack(*place, of_another)
    blind = replace(undefended, categories=np.full_like(undefended.categories, undefended.categories[-1]))
    with pytest.raises(CatwalkError, match=r"in category 'Sandal' by the undefended network, which sees most .*Bag"):
        items_to_attack(*place, blind)


def test_an_attack_is_told_from_others_by_them_only_where_they_count(trained, undefended, tmp_path):
    trained.table.write(tmp_path / "clean", trained.catalogue)
    undefended.write(tmp_path / "one", trained.catalogue)
    flipped = replace(undefended, categories=undefended.categories[::-1].copy())
    flipped.write(tmp_path / "other", trained.catalogue)

    def key(protocol, undefended=None):
        inputs = attack_inputs(
            trained.checkpoint,
            FGSM(),
            trained.catalogue,
            tmp_path / "clean",
            **GOAL,
            protocol=protocol,
            purchases=None,
            undefended=undefended,
        )
        assert inputs is not None
        return inputs.key

    keys = [key(BY_UNDEFENDED, tmp_path / name) for name in ("one", "other")]
    plain = key(AttackProtocol())
    assert len({*keys, plain}) == 3
    assert key(AttackProtocol(), tmp_path / "one") == plain
    # What comes after the attack does not enter.
    assert key(Protocol(name="x", background_features="undefended", feature_scale="own_matrix")) == plain
    with pytest.raises(CatwalkError, match="source_items is undefended"):
        key(BY_UNDEFENDED)
