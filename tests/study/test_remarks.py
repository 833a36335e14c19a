"""What a study's tables say of networks that know little of the source category."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from catwalk.poisoning.protocol import AS_PUBLISHED, AS_WRITTEN, CORRECTED
from catwalk.study import remarks

REMEDY = "; protocol.source_items: dataset attacks those that the dataset labels so."


def remarks_of(
    monkeypatch: pytest.MonkeyPatch,
    both: int,
    missed: int,
    others: int,
    source_items: str,
    near_chance: str | None,
    own: str = "T",
) -> str:
    """Return the remarks on a network that sees the source in ``both`` of its items and in ``others``."""
    labelled, seen = (np.array(column) for column in ([1] * (both + missed) + [0] * others, [0] * both + [1] * missed))
    seen = np.concatenate([seen, np.zeros(others, dtype=np.int64)])  # of the network the source is number 0
    catalogue = SimpleNamespace(categories=labelled, category_names=("Bag", "Sandal"))
    training = SimpleNamespace(category_names=("Sandal", "Bag"), is_trained_here=True)
    classifier = SimpleNamespace(name="T", training=training)
    features = SimpleNamespace(table=SimpleNamespace(categories=seen))
    protocols = [SimpleNamespace(source_items=source_items)]
    grid = SimpleNamespace(source="Sandal", protocols=protocols, extractors={own: None})
    monkeypatch.setattr(remarks, "_on_accuracy", lambda *_: near_chance)
    return remarks.remarks_on_networks(SimpleNamespace(catalogue=catalogue), grid, [(classifier, features)])


@pytest.mark.parametrize(
    ("both", "missed", "others", "expected"),
    [
        (29, 11, 41, "Of the 70 items that CNN T sees as Sandal the dataset labels 41 otherwise."),
        (3, 7, 1, "CNN T sees Sandal in only 3 of the 10 items that the dataset labels so."),
        (0, 10, 0, "CNN T sees Sandal in none of the 10 items that the dataset labels so."),
        (
            1,
            2,
            1_500,
            "CNN T sees Sandal in only 1 of the 3 items that the dataset labels so. "
            "Of the 1,501 items that CNN T sees as Sandal the dataset labels 1,500 otherwise.",
        ),
        (5, 5, 5, ""),
        (0, 0, 0, ""),
    ],
)
def test_each_way_to_disagree_has_its_own_sentence(
    monkeypatch: pytest.MonkeyPatch, both: int, missed: int, others: int, expected: str
) -> None:
    assert remarks_of(monkeypatch, both, missed, others, "dataset", None) == expected
    told = remarks_of(monkeypatch, both, missed, others, "network", None)
    assert told == (expected.removesuffix(".") + REMEDY if expected else "")


def test_what_nobody_labels_so_has_no_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    told = remarks_of(monkeypatch, 0, 0, 2, "network", None)
    assert told == "Of the 2 items that CNN T sees as Sandal the dataset labels 2 otherwise."


def test_of_a_network_behind_operations_nothing_is_said_of_the_items_that_another_chooses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert remarks_of(monkeypatch, 0, 10, 0, "network", None, own="another") == ""


def test_a_network_near_chance_that_sees_nothing_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert remarks_of(monkeypatch, 0, 10, 0, "network", "Near chance.") == "Near chance."
    told = remarks_of(monkeypatch, 1, 9, 0, "network", "Near chance.")
    assert told == "Near chance. CNN T sees Sandal in only 1 of the 10 items that the dataset labels so" + REMEDY


@pytest.mark.parametrize(
    ("made_by", "protocols", "said"),
    [
        ({"core": 5, "one_pass": False}, [CORRECTED, AS_WRITTEN], None),
        ({"core": 5, "one_pass": True}, [AS_PUBLISHED], None),
        ({"core": 1, "one_pass": False}, [AS_PUBLISHED], None),
        (None, [AS_PUBLISHED], None),
        ({"importer": "synthetic"}, [AS_PUBLISHED], None),
        (
            {"core": 5, "one_pass": False},
            [CORRECTED, AS_PUBLISHED],
            "fewer than 5 purchases left out again and again until nothing changed, and not as protocol as published "
            "has it (core: one_pass)",
        ),
        ({"core": 10, "one_pass": True}, [CORRECTED], "out in one pass, and not as protocol corrected has it"),
    ],
)
def test_a_dataset_that_was_made_otherwise_is_told_of(
    tmp_path: Path, made_by: dict, protocols: list, said: str
) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"made_by": made_by}))
    shop = SimpleNamespace(catalogue=SimpleNamespace(folder=tmp_path, name="Amazon Men"))
    sentences = list(remarks.on_core(shop, protocols))
    assert len(sentences) == (said is not None)
    assert all(said in sentence and sentence.startswith("Amazon Men was made with") for sentence in sentences)
