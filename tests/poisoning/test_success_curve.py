"""Success curves: the smallest ε of each item, counted by hand, and folders that have none."""

import csv
import json
import math

import numpy as np
import pytest

from catwalk.attacks import DDN, FMN, PGD
from catwalk.errors import CatwalkError
from catwalk.poisoning.poison import poison
from catwalk.poisoning.success_curve import SuccessCurve, read_success_curve

CURVE = SuccessCurve("FMN (100)", "linf", list("abcde"), np.array([4.0, math.inf, 0.0, 4.0, 9.0]))


def test_shares_count_the_items_within() -> None:
    counted = [sum(epsilon <= limit for epsilon in CURVE.epsilons) / 5 for limit in range(12)]
    assert CURVE.shares(range(12)).tolist() == counted
    assert (counted[0], counted[3], counted[4], counted[-1]) == (0.2, 0.2, 0.6, 0.8)


@pytest.mark.parametrize(("share", "epsilon"), [(0.01, 0), (0.2, 0), (0.21, 4), (0.6, 4), (0.8, 9), (1.0, math.inf)])
def test_epsilon_for_a_share(share: float, epsilon: float) -> None:
    assert CURVE.epsilon_for(share) == epsilon
    assert epsilon == math.inf or CURVE.shares([epsilon])[0] >= share


@pytest.mark.parametrize("attack", [DDN(iterations=15), FMN("linf", iterations=15)], ids=["l2", "linf"])
def test_reads_what_an_attack_wrote(trained, tmp_path, attack) -> None:
    poison(trained.classifier, attack, trained.catalogue, trained.table, tmp_path, source="Sandal", target="Sneaker")
    curve = read_success_curve(tmp_path)
    summary = json.loads((tmp_path / "attack.json").read_text())
    with (tmp_path / "attacked_items.csv").open() as file:
        rows = list(csv.DictReader(file))
    column = "linf_levels" if attack.threat_model.norm == "linf" else "l2_levels"
    assert (curve.attack, curve.norm) == (attack.name, attack.threat_model.norm)
    assert list(curve.item_ids) == [row["item_id"] for row in rows]
    largest = max(float(row[column]) for row in rows)
    assert curve.shares([largest])[0] == pytest.approx(summary["sr"])
    finite = [float(row[column]) for row in rows if row["success"] == "True"]
    assert sorted(curve.epsilons[np.isfinite(curve.epsilons)]) == sorted(finite)


def test_an_attack_with_a_budget_has_no_curve(trained, tmp_path) -> None:
    attack = PGD(iterations=1)
    poison(trained.classifier, attack, trained.catalogue, trained.table, tmp_path, source="Sandal", target="Sneaker")
    with pytest.raises(CatwalkError, match=r"PGD \(ε = 8\) has a budget, .* DDN, FMN or CarliniWagner"):
        read_success_curve(tmp_path)
    (tmp_path / "attacked_items.csv").unlink()
    with pytest.raises(CatwalkError, match=r"holds no attacked_items\.csv: give the folder"):
        read_success_curve(tmp_path)


def test_a_damaged_table_is_told(trained, tmp_path) -> None:
    attack = DDN(iterations=2)
    poison(trained.classifier, attack, trained.catalogue, trained.table, tmp_path, source="Sandal", target="Sneaker")
    path = tmp_path / "attacked_items.csv"
    path.write_text(path.read_text().replace("False", "maybe").replace("True", "maybe"))
    with pytest.raises(CatwalkError, match=r"attacked_items\.csv is damaged, attack again"):
        read_success_curve(tmp_path)
