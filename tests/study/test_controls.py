"""What stands beside a study's attacks: noise, other seeds, evasion, shams; each recomputed from files of the study."""

import csv
import json
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from catwalk.networks.features import FeatureTable
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.splits import read_split
from catwalk.study.controls import noise_beside
from catwalk.study.results import StudyResults
from catwalk.study.specifications import NamedAttack, attack_of

CLEAN, OTHER, SHAM = "No attack", "No attack, other seeds", "Sham"
RANK, NOISE, NOTHING = "Rank attack (ε = 64)", "Noise (ε = 64)", "PGD-L2 (ε = 0)"
OWN, MIXED = (f"background_features {by}, chr_categories undefended" for by in ("network", "undefended"))
COLUMN = "chr@20/Sandal"

Row = dict[str, Any]


@pytest.fixture(scope="module")
def study(controlled) -> StudyResults:
    return StudyResults.read(controlled.folder)


Find = Callable[..., list[Row]]


@pytest.fixture(scope="module")
def find(study: StudyResults) -> Find:
    """Return a function that finds cells by their columns."""

    def found(**values: Any) -> list[Row]:
        rows = [cell for cell in study.cells if all(cell[name] == value for name, value in values.items())]
        assert rows, values
        return rows

    return found


def record(controlled, cell: Row) -> dict[str, Any]:
    """Return what the lists of a cell depend on."""
    folder = controlled.output / "cache" / "recommendations" / Path(cell["users"]).stem
    settings: dict[str, Any] = json.loads((folder / "stage.json").read_text())["settings"]
    return settings


def test_the_grid_has_every_control_of_every_network_and_protocol(controlled, study: StudyResults) -> None:
    of_one = [(CLEAN, None, None, seed) for seed in (0, 1)]
    of_one += [(OTHER, None, "other seeds", seed) for seed in (2, 3)]
    of_one += [(SHAM, None, "sham", seed) for seed in (0, 1)]
    for attack, scenario, seed in product((RANK, NOISE, NOTHING), ("poisoning", "evasion"), (0, 1)):
        of_one.append((attack, scenario, "noise" if attack == NOISE else None, seed))
    expected = {(protocol, name, *cell) for protocol, name, cell in product((OWN, MIXED), ("T", "FAT"), of_one)}
    labels = ("protocol", "extractor", "attack", "scenario", "control", "seed")
    cells = [tuple(cell[name] for name in labels) for cell in study.cells]
    assert set(cells) == expected
    assert len(cells) == len(expected)
    # No noise stands beside a budget that is not L∞, whose own is that of the attack.
    assert {cell["epsilon"] for cell in study.cells if cell["control"] == "noise"} == {64}
    by_protocol = {cell["protocol"]: cell["differences"] for cell in study.cells}
    assert by_protocol[OWN] == "chr_categories=undefended"
    assert by_protocol[MIXED] == "background_features=undefended, chr_categories=undefended"
    tables = {path.stem for path in controlled.folder.glob("*.csv")} - {"cells", "effects"}
    assert tables == {"table1", "evasion", "shams", "table2", "networks"}
    assert (controlled.folder / "report" / "index.html").stat().st_size > 10_000
    assert list((controlled.folder / "plots").glob("*.svg"))


def test_nothing_is_trained_for_evasion_and_what_is_the_same_is_trained_once(controlled, find: Find) -> None:
    of_clean, of_seeds, of_attacks, of_shams = 2, 2, 3 * 2, 2
    own = of_clean + of_seeds + of_attacks  # its sham is trained on clean features
    assert controlled.made.count("recommender") == 2 * own + of_attacks + of_shams
    assert controlled.made.count("classifier") == controlled.made.count("features") == 2
    assert controlled.made.count("attack") == 2 * (2 + 1 + 1)  # there is a rank attack for each seed
    checked = 0
    for cell in find(scenario="evasion"):
        about = {name: cell[name] for name in ("protocol", "extractor", "seed")}
        (clean,) = find(attack=CLEAN, **about)
        (poisoned,) = find(attack=cell["attack"], scenario="poisoning", **about)
        before, after, trained = (record(controlled, each) for each in (clean, cell, poisoned))
        assert after["recommender"] == before["recommender"] != trained["recommender"]
        assert after["features"] != before["features"]
        if cell["protocol"] == OWN or cell["extractor"] == "T":  # shown what a poisoned one was trained on
            assert after["features"] == trained["features"]
        checked += 1
    assert checked == 2 * 2 * 3 * 2


def test_the_noise_floor_is_of_other_seeds(study: StudyResults, find: Find, controlled) -> None:
    for protocol, name in product((OWN, MIXED), ("T", "FAT")):
        floor = find(attack=OTHER, protocol=protocol, extractor=name)
        own = find(attack=CLEAN, protocol=protocol, extractor=name)
        trained = {record(controlled, cell)["recommender"] for cell in floor + own}
        assert len(trained) == 4
        assert len({tuple(study.users(cell).column(COLUMN).to_pylist()) for cell in floor + own}) == 4


def test_shams_of_one_network_are_no_attack(study: StudyResults, find: Find) -> None:
    for protocol, name in ((OWN, "T"), (MIXED, "T"), (OWN, "FAT")):
        about = {"protocol": protocol, "extractor": name}
        for seed in (0, 1):
            (sham,), (clean,) = (find(attack=attack, seed=seed, **about) for attack in (SHAM, CLEAN))
            assert study.users(sham).equals(study.users(clean))
        (effect,) = (each for each in study.effects if each.control == "sham" and about.items() <= vars(each).items())
        assert effect.size.difference.low == effect.size.difference.mean == effect.size.difference.high == 0
        assert effect.verdict == "no effect"


class Shop:
    """The shop of the study, and what NumPy makes of its recommenders."""

    def __init__(self, controlled, folder: Path) -> None:
        self.cache = controlled.output / "cache"
        self.catalogue = Catalogue.read(folder)
        self.split = read_split(self.catalogue)
        tables = [
            FeatureTable.read(path.parent, self.catalogue) for path in self.cache.glob("features/*/predictions.csv")
        ]
        manifest = json.loads((controlled.folder / "manifest.json").read_text())
        places = {name: manifest["stages"][f"Features of 90 items by {name}"] for name in ("T", "FAT")}
        self.tables = {name: FeatureTable.read(self.cache / place, self.catalogue) for name, place in places.items()}
        assert len(tables) == 2

    def images(self, name: str) -> np.ndarray:
        """Return a network's clean features with 1 as their largest value."""
        features = self.tables[name].features.double().numpy()
        return features / np.abs(features).max()

    def counts(self, key: str, images: np.ndarray) -> list[int]:
        """Return how many of what T takes for a sandal is in every user's list of 20, by VBPR's formula."""
        state = torch.load(self.cache / "recommender" / key / "recommender.ckpt", weights_only=True)["state_dict"]
        weights = {name.removeprefix("model."): value.double().numpy() for name, value in state.items()}
        scores = weights["users.weight"] @ weights["items.weight"].T
        scores += weights["visual_users.weight"] @ (images @ weights["projection"]).T
        if "item_biases.weight" in weights:
            scores += weights["item_biases.weight"][:, 0]
        if "visual_bias" in weights:
            scores += (images @ weights["visual_bias"])[:, 0]
        scores[self.split.users, self.split.items] = -np.inf
        table = self.tables["T"]
        is_sandal = table.categories == table.category_names.index("Sandal")
        return [int(is_sandal[row.argsort(kind="stable")[:20]].sum()) for row in -scores]


@pytest.fixture(scope="module")
def numpy_shop(controlled, shop: Path) -> Shop:
    return Shop(controlled, shop)


def test_a_mixed_sham_is_clean_features_of_one_network_among_those_of_another(
    controlled, study: StudyResults, find: Find, numpy_shop: Shop
) -> None:
    table = numpy_shop.tables["FAT"]
    rows = table.categories == table.category_names.index("Sandal")
    assert 5 < rows.sum() < 60
    mixed = np.where(rows[:, None], numpy_shop.images("FAT"), numpy_shop.images("T"))
    for seed in (0, 1):
        (sham,) = find(attack=SHAM, protocol=MIXED, extractor="FAT", seed=seed)
        (clean,) = find(attack=CLEAN, protocol=MIXED, extractor="FAT", seed=seed)
        (nothing,) = find(attack=NOTHING, protocol=MIXED, extractor="FAT", scenario="poisoning", seed=seed)
        assert sham["n_attacked"] == rows.sum()
        for cell, images in ((sham, mixed), (clean, numpy_shop.images("FAT"))):
            counts = study.users(cell).column(COLUMN).to_pylist()
            assert counts == numpy_shop.counts(record(controlled, cell)["recommender"], images)
        # An attack that changes no pixel leaves nothing but the mixing.
        assert study.users(sham).column(COLUMN) == study.users(nothing).column(COLUMN)
        assert study.users(sham).column(COLUMN) != study.users(clean).column(COLUMN)


def test_evasion_is_the_clean_recommender_on_the_attacked_images(
    controlled, study: StudyResults, find: Find, numpy_shop: Shop
) -> None:
    attacks = {}
    for path in numpy_shop.cache.glob("attack/*/attack.json"):
        attack = json.loads(path.read_text())
        attacks.setdefault(attack["attack"], []).append(path.parent)
    scale = np.abs(numpy_shop.tables["T"].features.double().numpy()).max()
    noisy = [FeatureTable.read(folder, numpy_shop.catalogue) for folder in attacks[NOISE]]
    (poisoned,) = (table for table in noisy if table.network == numpy_shop.tables["T"].network)
    for seed in (0, 1):
        (cell,) = find(attack=NOISE, scenario="evasion", protocol=OWN, extractor="T", seed=seed)
        (clean,) = find(attack=CLEAN, protocol=OWN, extractor="T", seed=seed)
        key = record(controlled, clean)["recommender"]
        counts = study.users(cell).column(COLUMN).to_pylist()
        assert counts == numpy_shop.counts(key, poisoned.features.double().numpy() / scale)


def test_effects_are_those_of_the_users(study: StudyResults, find: Find) -> None:
    labels = ("protocol", "extractor", "recommender", "attack", "scenario", "control")
    for effect in study.effects:
        about = {name: getattr(effect, name) for name in labels}
        clean = find(attack=CLEAN, protocol=effect.protocol, extractor=effect.extractor)
        before, after = (
            np.array([study.users(cell).column(COLUMN).to_pylist() for cell in sorted(cells, key=lambda c: c["seed"])])
            for cells in (clean, find(**about))
        )
        assert effect.size.clean == pytest.approx(before.mean())
        assert effect.size.attacked == pytest.approx(after.mean())
        assert effect.size.difference.mean == pytest.approx((after - before).mean(), abs=1e-12)
        assert np.mean([cell["chr@20"] for cell in find(**about)]) == pytest.approx(after.mean())
        assert (effect.size.seeds, effect.size.users) == (2, 200)
    assert len(study.effects) == 2 * 2 * (2 + 3 * 2)


def test_an_attack_that_changes_nothing_has_no_effect_and_a_rank_attack_pushes(controlled, study: StudyResults) -> None:
    effects = {(each.protocol, each.extractor, each.attack, each.scenario): each for each in study.effects}
    for protocol, name in ((OWN, "T"), (MIXED, "T"), (OWN, "FAT")):
        for scenario in ("poisoning", "evasion"):
            nothing = effects[protocol, name, NOTHING, scenario]
            assert nothing.verdict == "no effect"
            assert nothing.size.difference.low <= 0 <= nothing.size.difference.high
    pushed = {key for key, effect in effects.items() if effect.verdict == "pushed"}
    assert (OWN, "T", RANK, "poisoning") in pushed
    # Bold in Table 1 and in that of evasion is what was pushed.
    for stem, scenario in (("table1", "poisoning"), ("evasion", "evasion")):
        bold = set()
        for line in (controlled.folder / f"{stem}.md").read_text().splitlines():
            cells = [text.strip() for text in line.strip("|").split(" | ")]
            for name, text in zip(("T", "FAT"), cells[3:], strict=False):
                if text.startswith("**"):
                    bold.add((cells[0].replace("\\", ""), name, cells[2].replace("\\", ""), scenario))
        assert bold == {key for key in pushed if key[3] == scenario}


def test_a_table_has_the_change_and_its_interval_in_columns(controlled, study: StudyResults) -> None:
    effects = {(each.protocol, each.extractor, each.attack): each for each in study.effects if each.is_headline}
    with (controlled.folder / "table1.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = 0
    for row, name in product(rows, ("T", "FAT")):
        effect = effects.get((row["protocol"], name, row["attack"]))
        if effect is not None:
            change = effect.size.difference
            bounds = [float(row[f"{name} CHR@20 {column}"]) for column in ("change", "change low", "change high")]
            assert bounds == [change.mean, change.low, change.high]
            assert row[f"{name} CHR@20 verdict"] == effect.verdict
            found += 1
    assert found == len(effects) == 2 * 2 * 2


def test_per_user_rows_are_of_the_same_users_in_every_cell(controlled, study: StudyResults, numpy_shop: Shop) -> None:
    files = {cell["users"] for cell in study.cells}
    assert {f"users/{path.name}" for path in (controlled.folder / "users").iterdir()} == files
    for name in files:
        users = pq.read_table(controlled.folder / name, columns=["user_id"]).column("user_id").to_pylist()
        assert users == list(numpy_shop.split.user_ids)


def named(class_path: str, **arguments: Any) -> NamedAttack:
    specification = attack_of({"class_path": f"catwalk.attacks.{class_path}", "init_args": arguments})
    example = specification.instantiate()
    return NamedAttack(example.name, specification, example)


def test_noise_stands_behind_the_last_attack_of_its_budget() -> None:
    attacks = [
        *(named("FGSM", epsilon=8), named("PGD", epsilon=16), named("PGD", epsilon=8, targeted=False)),
        *(named("PGD", epsilon=8, norm="l2"), named("CarliniWagner")),
    ]
    assert noise_beside(attacks, []) == attacks
    found = noise_beside(attacks, ["sign", "uniform"])
    names = [attack.name for attack in attacks]
    noises = {budget: [f"Noise (ε = {budget})", f"Noise, uniform (ε = {budget})"] for budget in (8, 16)}
    assert [attack.name for attack in found] == [*names[:2], *noises[16], names[2], *noises[8], *names[3:]]
    # What counts as success is what counts for the attack.
    targeted = [attack.example.targeted for attack in found if attack.name.startswith("Noise")]
    assert targeted == [True, True, False, False]
    assert {attack.example.threat_model.norm for attack in found if attack.name.startswith("Noise")} == {"linf"}


def test_noise_beside_an_attack_with_a_mask_stays_in_the_same_region() -> None:
    mask = {"class_path": "catwalk.attacks.masks.Border", "init_args": {"width": 2}}
    attacks = [named("PGD", epsilon=8), named("PGD", epsilon=8, mask=mask)]
    _, whole, masked, noise = noise_beside(attacks, ["sign"])
    assert (whole.name, masked.name, noise.name) == (
        "Noise (ε = 8)",
        "PGD (ε = 8, border 2)",
        "Noise (ε = 8, border 2)",
    )
    images = torch.full((2, 3, 9, 9), 0.5)
    noisy = noise.specification.instantiate()(
        torch.nn.Flatten(), images, torch.tensor([0, 1]), keys=torch.arange(2)
    ).images
    changed = (noisy != images).any(dim=1)
    assert changed[:, 2:-2, 2:-2].sum() == 0
    assert changed.sum() == 2 * (81 - 25)


def test_noise_that_a_study_names_itself_stands_once_where_it_names_it() -> None:
    noise, fgsm = named("RandomNoise", epsilon=8, seed=3), named("FGSM", epsilon=8)
    for attacks in ([noise, fgsm], [fgsm, noise]):
        assert noise_beside(attacks, ["sign"]) == attacks
        found = [attack.name for attack in noise_beside(attacks, ["sign", "uniform"])]
        assert sorted(found) == sorted([noise.name, fgsm.name, "Noise, uniform (ε = 8)"])
    alone = noise_beside([noise], ["sign", "uniform"])
    assert [attack.name for attack in alone] == [noise.name]


def test_a_study_with_shams_ends_with_a_report_that_has_them_beside_the_attacks(controlled) -> None:
    text = (controlled.folder / "report" / "index.html").read_text("utf-8")
    plots = {path.stem for path in (controlled.folder / "plots").iterdir()}
    assert {"ablation", "lpips-effect", "ranks", "robustness"} <= plots
    assert "Attacks beside their shams" in text
    knowing = [title for title in re.findall("<h3>(.*?)</h3>", text) if "knowing VBPR" in title]
    assert len(knowing) == 2  # one for each network, whatever the seeds and the protocols
    protocols = re.findall(r'<option value="(background_features[^"]*)">', text)
    assert len(protocols) == 2
    table = text[text.index('<table id="effects">') :]
    headings = re.findall(r'class="sort">(.*?)<span', table[: table.index("</thead>")])
    assert "protocol" in headings
