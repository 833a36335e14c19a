"""Planning: settings are read once, however many cells a study has, and stages are shared."""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from catwalk.configuration.specification import Specification
from catwalk.poisoning.protocol import Protocol
from catwalk.results.store import StageCache
from catwalk.shop.splits import RatioSplit, SplitRule
from catwalk.study import ACCURACY_ATTACK, trainings
from catwalk.study.controls import Controls
from catwalk.study.grid import Grid, Training
from catwalk.study.metrics import Metrics
from catwalk.study.plan import Plan
from catwalk.study.shop import Shop
from catwalk.study.specifications import TRIPLETS, accuracy_attack_of, data_of, modules_of, recommender_of
from catwalk.study.stages.mixed_features import MixedFeaturesStage
from catwalk.study.variants import varied

NOTHING = Metrics((), "Sandal")

NO_CONTROLS = Controls(noise=(), other_seeds=False, evasion=False)


@pytest.fixture
def grid_of(settings: dict, shop: Path) -> Callable[[int], Grid]:
    """Return a function that makes a grid of so many seeds, with an attack that knows the recommender."""
    settings["attacks"].append({"class_path": "catwalk.attacks.RankAttack", "init_args": {"epsilon": 32}})
    names = {"extractors", "recommenders"}
    amr = {**settings["recommenders"]["VBPR"], "warm_start": "VBPR"}
    amr["model"] = {**amr["model"], "class_path": "lightning_modules.AMR"}
    settings["recommenders"]["AMR"] = amr
    stated = {name: {key: Training(**value) for key, value in settings[name].items()} for name in names}
    attacks = settings["attacks"]

    def make(seeds: int, controls: Controls = NO_CONTROLS, protocol: Protocol = Protocol()) -> Grid:  # noqa: B008
        return Grid(
            *(shop, "Sandal", "Sneaker"),
            attacks=attacks,
            seeds=[*range(seeds)],
            top_k=20,
            protocols=[protocol],
            controls=controls,
            **stated,
        )

    return make


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Return how often settings were parsed, objects and Trainers made."""
    counts: Counter = Counter()

    def count(owner: object, name: str, what: str) -> None:
        original = getattr(owner, name)

        def counting(*arguments: object, **settings: object) -> object:
            counts[what] += 1
            return original(*arguments, **settings)

        monkeypatch.setattr(owner, name, counting)

    count(ArgumentParser, "parse_object", "parses")
    count(Specification, "instantiate", "objects")
    count(trainings, "make_trainer", "trainers")
    return counts


def test_parses_grow_with_distinct_settings_and_not_with_cells(
    grid_of: Callable[[int], Grid], shop: Path, tmp_path: Path, counted: Counter
) -> None:
    dataset, cache = Shop.read(shop), StageCache(tmp_path)

    def plan(seeds: int) -> tuple[Plan, Counter]:
        counted.clear()
        planned = Plan.of(grid_of(seeds), dataset, cache, accuracy_attack_of(ACCURACY_ATTACK), None, NOTHING)
        assert len(planned.stages) == len({(stage.kind, stage.key) for stage in planned.stages})
        return planned, counted.copy()

    few, counts = plan(2)
    many, counts_of_many = plan(20)
    # Of each recommender: no attack and two; VBPR and AMR also the one that knows them, BPR-MF has no image to attack.
    assert [len(few.runs), len(many.runs)] == [11 * 2, 11 * 20]
    assert counts == counts_of_many
    assert counts["trainers"] == 1 + 3
    # A seed: VBPR and AMR clean, under two attacks and the one that knows AMR; VBPR under the one that knows it;
    # BPR-MF; the lists of all; both attacks that know, and their looks.
    assert len(many.stages) - len(few.stages) == 18 * (4 + 4 + 1 + 1 + (4 + 4 + 1) + 2 + 2)


def test_stages_of_cells_are_the_same_objects(grid_of: Callable[[int], Grid], shop: Path, tmp_path: Path) -> None:
    plan = Plan.of(
        grid_of(1), Shop.read(shop), StageCache(tmp_path), accuracy_attack_of(ACCURACY_ATTACK), None, NOTHING
    )
    cells = {(run.labels["recommender"], run.labels["attack"]): run for run in plan.runs}
    for attack in ("No attack", "FGSM (ε = 32)", "PGD (ε = 32)"):
        started = cells["AMR", attack].recommender
        assert started is not None
        assert started.start is cells["VBPR", attack].recommender
    assert len({cells["BPR-MF", attack].recommender for attack in ("No attack", "PGD (ε = 32)")}) == 1
    aimed = cells["AMR", "Rank attack (ε = 32)"]
    assert aimed.recommender is not None
    assert aimed.recommender.start is not cells["VBPR", "Rank attack (ε = 32)"].recommender
    assert aimed.recommender.start is not None
    assert aimed.recommender.start.source is aimed.attack


class Half(RatioSplit):
    """A rule that is not among ours."""


def test_arguments_that_are_given_later_need_no_parse(shop: Path, counted: Counter) -> None:
    split = {"class_path": f"{__name__}.Half", "init_args": {"test_share": 0.5}}
    data = data_of({"negatives": "popularity", "split": split}, TRIPLETS, "data", dataset=str(shop))
    counted.clear()
    given = data.with_arguments(features=Path("elsewhere"), seed=7)
    assert counted["parses"] == 0
    made = [specification.instantiate() for specification in (given, data)]
    assert [(each.features, each.seed, each.negatives) for each in made] == [
        (Path("elsewhere"), 7, "popularity"),
        (None, 0, "popularity"),
    ]
    assert isinstance(made[0].rule, SplitRule)
    assert given.settings == {**data.settings, "init_args": {**data.settings["init_args"], **given.given}}


def test_classes_within_arguments_count_among_the_modules(shop: Path) -> None:
    split = {"class_path": f"{__name__}.Half"}
    data = data_of({"split": split}, TRIPLETS, "data", dataset=str(shop))
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    model = recommender_of({"class_path": "lightning_modules.VBPR", "init_args": {"optimizer": sgd}}, "VBPR", 20)
    modules = ("datamodules.interaction_triplets", __name__, "lightning_modules.vbpr", "catwalk.study.plan")
    assert modules_of(data, model, Plan) == modules


def test_another_budget_concerns_its_attack_its_noise_and_what_is_made_of_them(
    grid_of: Callable[..., Grid], shop: Path, tmp_path: Path
) -> None:
    dataset, under = Shop.read(shop), accuracy_attack_of(ACCURACY_ATTACK)

    def planned() -> Plan:
        grid = grid_of(2, Controls(sham=True))
        return Plan.of(grid, dataset, StageCache(tmp_path), under, None, NOTHING)

    before = {(stage.kind, stage.key): stage.description for stage in planned().stages}
    settings = grid_of(1).attacks
    settings[1]["init_args"]["epsilon"] = 16
    after = {(stage.kind, stage.key): stage.description for stage in planned().stages}
    gone, new = ([text for key, text in a.items() if key not in b] for a, b in ((before, after), (after, before)))
    assert all("PGD (ε = 32)" in text for text in gone)
    # The noise of 32 stays, for other attacks have that budget.
    assert all("PGD (ε = 16)" in text or "Noise (ε = 16)" in text for text in new)
    of_images, trained, shown = 1 + 1, 2 * 2, 2 * 2 * 2  # VBPR and AMR, two seeds, poisoning and evasion
    assert len(gone) == of_images + trained + shown
    assert len(new) == 2 * len(gone)


def test_the_manifest_has_every_stage_by_its_own_name(
    grid_of: Callable[..., Grid], settings: dict, shop: Path, tmp_path: Path
) -> None:
    grid = grid_of(1, Controls(sham=True))
    settings["extractors"]["FAT"] = copy.deepcopy(settings["extractors"]["T"])
    settings["extractors"]["FAT"]["seed"] = 1
    vary = {"source_items": ["network", "undefended"], "feature_scale": ["clean", "own_matrix"], "clip": [True, False]}
    grid = replace(
        grid,
        extractors={name: Training(**value) for name, value in settings["extractors"].items()},
        protocols=varied(Protocol(), vary),
    )
    under = accuracy_attack_of(ACCURACY_ATTACK)
    plan = Plan.of(grid, Shop.read(shop), StageCache(tmp_path), under, None, NOTHING)
    assert list(plan.keys.values()) == [stage.key for stage in plan.stages]
    assert len(set(plan.keys.values())) == len(plan.stages)
    assert len({stage.description for stage in plan.stages}) < len(plan.stages)


def test_evasion_shows_the_same_features_whoever_tells_the_categories(
    grid_of: Callable[..., Grid], settings: dict, shop: Path, tmp_path: Path
) -> None:
    settings["extractors"]["FAT"] = copy.deepcopy(settings["extractors"]["T"])
    settings["extractors"]["FAT"]["seed"] = 1
    vary = {"chr_categories": ["network", "undefended"]}
    grid = replace(
        grid_of(1, Controls()),
        extractors={name: Training(**value) for name, value in settings["extractors"].items()},
        protocols=varied(Protocol(feature_scale="own_matrix", background_features="undefended"), vary),
    )
    plan = Plan.of(grid, Shop.read(shop), StageCache(tmp_path), accuracy_attack_of(ACCURACY_ATTACK), None, NOTHING)
    shown: dict[str, list[dict]] = {protocol.name: [] for protocol in grid.protocols}
    for run in plan.runs:
        if run.scenario == "evasion":
            assert run.recommendations is not None
            images = run.recommendations.images
            assert isinstance(images, MixedFeaturesStage)
            assert images.background is run.features  # its own network's, divided as the matrix says, as when poisoned
            shown[run.protocol.name].append({**images.settings, "categories": None})
    by_network, by_undefended = shown.values()
    assert by_network == by_undefended
    assert {features["scale"] for features in by_network} == {"own_matrix"}


def test_what_looks_at_no_images_is_trained_once_for_all_networks(
    grid_of: Callable[[int], Grid], shop: Path, tmp_path: Path
) -> None:
    grid = grid_of(2)
    another = replace(grid.extractors["T"], seed=1)
    grid = replace(grid, extractors={**grid.extractors, "another": another})
    under = accuracy_attack_of(ACCURACY_ATTACK)
    plan = Plan.of(grid, Shop.read(shop), StageCache(tmp_path), under, None, NOTHING)
    cells = [run for run in plan.runs if run.recommender is not None and run.recommender.name == "BPR-MF"]
    assert {run.classifier.name for run in cells} == {"T", "another"}
    assert len({run.recommender.key for run in cells}) == 2, "one for each seed"
    assert len({run.recommendations.key for run in cells}) == 4, "but categories are a network's own"
