"""Effects of made-up cells: pairs, families, files; and attacks beside their shams."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catwalk.errors import CatwalkError
from catwalk.study.cells import Cell, write_cells
from catwalk.study.effects import Effect, Statistics, effects_of, read_effects, write_effects
from catwalk.study.mixing import CAUSES, Mixing, compare_with_shams, conclusion, mixing_table
from catwalk.study.results import StudyResults
from catwalk.study.statistics import paired_effect

SEEDS, USERS, TOP_K = (4, 1, 2), 80, 20
CLEAN, SHAM = "No attack", "Sham"
STATISTICS = Statistics(smallest_effect=0.05, confidence=0.95)


class Made:
    """Cells whose users have made-up places."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.matrices: dict[tuple[Any, ...], np.ndarray] = {}
        self.tables: dict[str, pa.Table] = {}

    def add(self, places: np.ndarray, attack: str, seeds: Iterable[int] = SEEDS, **labels: Any) -> None:
        """Add a cell for every row of places ``(S, U)``."""
        known = {"protocol": "corrected", "extractor": "T", "recommender": "VBPR", "epsilon": None, "control": None}
        known |= {"scenario": None if attack == CLEAN else "poisoning"} | labels
        for seed, row in zip(seeds, places, strict=True):
            name = f"users/{len(self.tables)}.parquet"
            self.tables[name] = pa.table({f"chr@{TOP_K}/Sandal": row.astype(np.int16)})
            about = {"dataset": "Shop", "differences": "", "source": "Sandal", "target": "Sneaker"}
            self.cells.append(Cell(**about, attack=attack, seed=seed, **known, chr=float(row.mean()), users=name))

    def users(self, cell: Cell) -> pa.Table:
        assert cell.users is not None
        return self.tables[cell.users]

    def effects(self, statistics: Statistics = STATISTICS) -> list[Effect]:
        return effects_of(self.cells, self.users, TOP_K, statistics)

    def shams(self, statistics: Statistics = STATISTICS, undefended: str | None = None) -> list[Mixing]:
        return compare_with_shams(self.cells, self.effects(statistics), self.users, TOP_K, statistics, undefended)


def places(seed: int, mean: float, more: float = 0.0) -> np.ndarray:
    """Return how many places a category has ``(S, U)``: the same users in every seed, with a little noise."""
    generator = np.random.default_rng(seed)
    users = generator.poisson(mean, USERS)
    return np.minimum(users + (generator.random((len(SEEDS), USERS)) < 0.1) + round(more), TOP_K)


def test_users_are_compared_where_the_seed_is_the_same() -> None:
    made = Made()
    clean, attacked = places(0, 2), places(1, 3)
    made.add(clean, CLEAN)
    made.add(attacked[::-1], "PGD", SEEDS[::-1])
    (effect,) = made.effects()
    order = np.argsort(SEEDS)
    assert effect.size == paired_effect(clean[order], attacked[order])
    assert effect.size.difference.mean == pytest.approx((attacked - clean).mean())
    assert effect.size.clean == pytest.approx(clean.mean())
    made.cells.reverse()
    assert made.effects() == [effect]


def test_other_users_are_not_compared() -> None:
    made = Made()
    made.add(places(0, 2), CLEAN)
    made.add(places(1, 2)[:, 1:], "PGD")
    with pytest.raises(CatwalkError, match="different users"):
        made.effects()


def holm_by_definition(p_values: list[float]) -> list[float]:
    """Return for each hypothesis the least level at which Holm's procedure rejects it: the largest of the steps."""
    ordered, count = sorted(p_values), len(p_values)
    return [
        min(1.0, max((count - place) * ordered[place] for place in range(ordered.index(value) + 1)))
        for value in p_values
    ]


def test_the_attacks_of_a_column_are_a_family_and_controls_are_none() -> None:
    made = Made()
    generator = np.random.default_rng(5)
    for number, (extractor, recommender) in enumerate(zip(("T", "T", "AT"), ("VBPR", "AMR", "VBPR"), strict=True)):
        labels = {"extractor": extractor, "recommender": recommender}
        clean = places(number, 3)
        made.add(clean, CLEAN, **labels)
        made.add(places(number + 50, 3), "No attack, other seeds", control="other seeds", scenario=None, **labels)
        for attack, scenario in product(("FGSM", "PGD", "C&W"), ("poisoning", "evasion")):
            noisy = np.maximum(clean + generator.integers(-2, 3, clean.shape), 0)
            made.add(noisy, attack, scenario=scenario, **labels)
        made.add(places(number + 90, 3), "Noise", control="noise", **labels)
    effects = made.effects()
    families: dict[tuple[Any, ...], list[Effect]] = {}
    for effect in effects:
        if effect.control is None:
            families.setdefault((effect.extractor, effect.recommender, effect.scenario), []).append(effect)
        else:
            assert effect.p_adjusted == effect.size.p_value
    assert [len(family) for family in families.values()] == [3] * 6
    for family in families.values():
        expected = holm_by_definition([effect.size.p_value for effect in family])
        assert [effect.p_adjusted for effect in family] == pytest.approx(expected)
    assert any(effect.p_adjusted > effect.size.p_value for family in families.values() for effect in family)


@pytest.fixture
def effects() -> list[Effect]:
    """Return effects of all kinds: with every verdict, of one seed, and of a metric that is 0 without attack."""
    made = Made()
    clean = places(0, 3)
    made.add(clean, CLEAN)
    made.add(clean, "=1+1")
    made.add(np.minimum(clean + 4, 20), '\'PGD (ε = 8), "x"', epsilon=8.0)
    made.add(np.maximum(clean - 2, 0), "-2", scenario="evasion")
    made.add(clean + np.array([[0], [3], [-2]]) * (clean > 2), "Noise", control="noise", epsilon=0.5)
    for recommender, count in (("zero", 3), ("one seed", 1)):
        before = np.zeros((count, USERS)) if recommender == "zero" else clean[:1]
        made.add(before, CLEAN, SEEDS[:count], recommender=recommender)
        after = np.minimum(before + np.arange(USERS) % 3, 20)
        made.add(after, "PGD", SEEDS[:count], recommender=recommender)
    return made.effects()


def test_effects_are_read_as_they_were_written(effects: list[Effect], tmp_path: Path) -> None:
    assert {effect.verdict for effect in effects} == {"pushed", "lowered", "no effect", "cannot tell"}
    assert {effect.size.relative is None for effect in effects} == {True, False}
    assert {effect.seeds_needed is None for effect in effects} == {True, False}
    write_effects(effects, tmp_path / "effects.csv")
    assert read_effects(tmp_path / "effects.csv") == effects
    write_effects([], tmp_path / "none.csv")
    assert read_effects(tmp_path / "none.csv") == []


@pytest.mark.parametrize(
    ("smallest_effect", "confidence", "verdict"), [(0.05, 0.95, "pushed"), (0.5, 0.95, "no effect")]
)
def test_the_smallest_effect_of_interest_is_a_share_of_no_attack(smallest_effect, confidence, verdict) -> None:
    made = Made()
    clean = np.full((3, USERS), 4)
    clean[:, ::2] = 6
    made.add(clean, CLEAN)
    made.add(clean + 1, "PGD")
    (effect,) = made.effects(Statistics(smallest_effect, confidence))
    assert effect.verdict == verdict  # one place is a fifth of 5


@pytest.fixture
def folder(effects: list[Effect], tmp_path: Path) -> Path:
    """Return a finished study's folder, as small as can be."""
    made = Made()
    made.add(places(0, 3), CLEAN)
    made.cells = [replace(made.cells[0], extractor="8", hr=0.25), *made.cells[1:]]
    (tmp_path / "users").mkdir()
    for name, table in made.tables.items():
        pq.write_table(table, tmp_path / name)
    write_cells(made.cells, TOP_K, tmp_path / "cells.csv")
    write_effects(effects, tmp_path / "effects.csv")
    (tmp_path / "manifest.json").write_text('{"study": "mine", "top_k": 20}')
    return tmp_path


def test_a_finished_study_is_read_as_it_was_written(folder: Path, effects: list[Effect]) -> None:
    study = StudyResults.read(folder)
    assert (study.name, study.top_k, study.effects) == ("mine", 20, effects)
    assert [cell["seed"] for cell in study.cells] == list(SEEDS)
    assert study.cells[0]["extractor"] == "8"  # a name, though it looks like a number
    assert (study.cells[0]["hr@20"], study.cells[0]["ndcg@20"]) == (0.25, None)
    counts = study.users(study.cells[1]).column(f"chr@{TOP_K}/Sandal").to_numpy()
    assert counts.tolist() == places(0, 3)[1].tolist()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_before_a_verdict(path: Path) -> None:
    path.write_text(path.read_text().rpartition(",pushed,")[0])


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("cells.csv", Path.unlink, "cells.csv is missing"),
        ("effects.csv", Path.unlink, "effects.csv is missing"),
        ("manifest.json", Path.unlink, "manifest.json is missing"),
        ("manifest.json", cut, "run the study again"),
        ("manifest.json", lambda path: path.write_text("[]"), "run the study again"),
        ("manifest.json", lambda path: path.write_text("{}"), "run the study again"),
        ("cells.csv", lambda path: path.write_text(""), "run the study again"),
        ("cells.csv", lambda path: path.write_bytes(b"\xff\xfe\0"), "run the study again"),
        ("cells.csv", lambda path: path.write_text(path.read_text().replace(",4,", ",four,")), "run the study again"),
        ("cells.csv", lambda path: path.write_text(path.read_text().rstrip() + ",1\n"), "run the study again"),
        ("cells.csv", lambda path: path.write_text("x" * 200_000), "run the study again"),
        (
            "effects.csv",
            cut_before_a_verdict,
            "run the study again",
        ),
        ("effects.csv", lambda path: path.write_text("protocol\ncorrected\n"), "run the study again"),
        ("effects.csv", lambda path: path.write_text("x" * 200_000), "run the study again"),
        ("users/0.parquet", Path.unlink, "0.parquet cannot be read"),
        ("users/0.parquet", cut, "0.parquet cannot be read"),
    ],
)
def test_what_is_no_finished_study_is_told_in_one_line(folder: Path, name: str, damage: Any, words: str) -> None:
    damage(folder / name)

    def read() -> None:
        study = StudyResults.read(folder)
        study.users(study.cells[0])

    with pytest.raises(CatwalkError, match=words) as raised:
        read()
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


def with_sham(sham: np.ndarray, attack: np.ndarray, clean: np.ndarray, **labels: Any) -> Made:
    made = Made()
    made.add(clean, CLEAN, **labels)
    made.add(sham, SHAM, control="sham", scenario=None, **labels)
    made.add(attack, "PGD", **labels)
    made.add(attack + 1, "PGD", scenario="evasion", **labels)
    made.add(clean, "Noise", control="noise", **labels)
    return made


FIVE = np.tile(np.arange(USERS) % 3 + 4, (3, 1))
"""Places without attack: the mean is about 5, and 5% of it about a quarter."""

FEW = (np.arange(3 * USERS).reshape(3, USERS) % 7 == 0).astype(int)
"""A place more for one user in seven."""

UNSURE = np.array([[4], [0], [-4]]) * (FIVE > 4)
"""A difference that depends on the seed."""

CASES = {
    "mixing": (FIVE + 2, FIVE + 2 + FEW),
    "attack": (FIVE, FIVE + 3),
    "both": (FIVE + 2, FIVE + 5),
    "at least mixing": (FIVE + 2, FIVE + 2 + UNSURE),
    "neither": (FIVE, FIVE + FEW),
    "cannot tell": (FIVE + UNSURE, FIVE + 3),
}


@pytest.mark.parametrize("cause", CASES)
def test_what_moves_the_metric_is_told_by_the_verdicts(cause: str) -> None:
    sham, attack = CASES[cause]
    made = with_sham(sham, attack, FIVE)
    (found,) = made.shams()
    assert found.cause == cause
    assert found.between.difference.mean == pytest.approx((attack - sham).mean())
    assert found.of_sham.size.difference.mean == pytest.approx((sham - FIVE).mean())
    assert found.of_attack.size.difference.mean == pytest.approx((attack - FIVE).mean())
    assert CAUSES[found.cause] in found.sentence
    assert f"attack less sham {(attack - sham).mean():+.3f} [" in found.sentence


def test_causes_are_all_that_are_told_apart() -> None:
    assert set(CASES) == set(CAUSES)


@pytest.mark.parametrize("clean", [np.ones_like(FIVE), np.zeros_like(FIVE)], ids=["one place", "none"])
def test_the_smallest_effect_between_attack_and_sham_is_that_of_no_attack(clean: np.ndarray) -> None:
    sham = clean + 10
    (found,) = with_sham(sham, sham + FEW, clean).shams()  # 1 / 7 is more than 5% of 1, and less than 5% of 11
    assert found.between_verdict == "pushed"
    wide = Statistics(smallest_effect=0.5, confidence=0.95)
    (found,) = with_sham(sham, sham + FEW, clean).shams(wide)
    assert found.between_verdict == "no effect"


def test_the_table_of_shams() -> None:
    made = Made()
    for name, (sham, attack) in CASES.items():
        other = with_sham(sham, attack, FIVE, protocol=name)
        renamed = {old: f"{name}/{old}" for old in other.tables}
        made.tables |= {renamed[old]: table for old, table in other.tables.items()}
        made.cells += [replace(cell, users=renamed[str(cell.users)]) for cell in other.cells]
    found = made.shams()
    table = mixing_table(found, "Sandal", TOP_K, ["A note."])
    assert [labels for labels, _ in table.rows] == [(name, "T", "VBPR", "PGD", name) for name in CASES]
    means = np.array([[value.mean for value in values if value is not None] for _, values in table.rows])
    expected = [
        [(sham - FIVE).mean(), (attack - FIVE).mean(), (attack - sham).mean()] for sham, attack in CASES.values()
    ]
    np.testing.assert_allclose(means, expected, atol=1e-12)
    assert table.best >= {(0, 0), (0, 1), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0), (5, 1)}
    assert table.best.isdisjoint({(0, 2), (1, 0), (3, 2), (4, 0), (4, 1), (4, 2), (5, 0)})
    assert "A note." in table.notes
    assert conclusion(found) in table.notes
    for cause in CAUSES:
        assert f"1 × {CAUSES[cause]}" in conclusion(found)
    assert "2 × " + CAUSES["attack"] in conclusion([found[1], found[1]])
    assert conclusion([]) == ""


def test_where_nothing_is_mixed_nothing_is_compared() -> None:
    made = Made()
    made.add(FIVE, CLEAN)
    made.add(FIVE + 1, "PGD")
    assert made.shams() == []
    # The undefended network's features are mixed with no others.
    mixed = with_sham(FIVE + 2, FIVE + 2, FIVE, extractor="AT")
    assert len(mixed.shams(undefended="T")) == 1
    assert mixed.shams(undefended="AT") == []
