"""What a protocol makes of a study's recommenders and attacks where the study states nothing, and who begins where."""

import copy
import csv
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from catwalk.attacks import CarliniWagner
from catwalk.errors import CatwalkError
from catwalk.poisoning.protocol import AS_PUBLISHED, AS_WRITTEN, CORRECTED, Protocol
from catwalk.results.store import StageCache
from catwalk.shop.splits import LastInFile
from catwalk.study import ACCURACY_ATTACK, Grid, Training
from catwalk.study.controls import Controls
from catwalk.study.metrics import Metrics
from catwalk.study.plan import Plan
from catwalk.study.shop import Shop
from catwalk.study.specifications import NamedAttack, accuracy_attack_of, attack_of, split_of
from catwalk.study.trainings import RecommenderTraining

EPOCHS = {"max_epochs": 6}


def trainings(shop, protocol, **recommenders):
    """Return the trainings of recommenders, which are ``(class, Training's arguments)``."""
    grid = Grid(
        dataset=shop,
        source="Sandal",
        target="Sneaker",
        extractors={"T": Training({})},
        attacks=[],
        recommenders={
            name: Training(**{"model": {"class_path": f"lightning_modules.{kind}"}} | settings)
            for name, (kind, settings) in recommenders.items()
        },
        seeds=[0],
        top_k=20,
    )
    found = {}
    for name in grid.recommenders:
        found[name] = RecommenderTraining.of(grid, Shop.read(shop), name, found, protocol)
    return found


def test_a_protocol_takes_the_place_of_defaults(shop):
    of = {"VBPR": ("VBPR", {}), "AMR": ("AMR", {"warm_start": "VBPR"}), "Random": ("Random", {})}
    published = trainings(shop, AS_PUBLISHED, **of)
    vbpr = published["VBPR"].model.instantiate()
    vbpr.build(5, 4, 3)
    optimizer = vbpr.configure_optimizers()
    assert type(optimizer) is torch.optim.Adagrad
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 1e-4, 1e-3]
    assert {group["initial_accumulator_value"] for group in optimizer.param_groups} == {0.1}
    assert (vbpr.settings.regularizer, vbpr.settings.reduction) == ("linear", "sum")
    assert vbpr.settings.shared_user_factors
    data = published["VBPR"].data.instantiate()
    assert (data.batch_size, data.drop_last, data.rule) == (512, True, LastInFile())
    assert published["VBPR"].trainer == {"max_epochs": 4000}
    amr = published["AMR"]
    assert amr.trainer == {"max_epochs": 2000}
    assert amr.model.instantiate().settings.perturbation == "per_item"
    assert amr.start == replace(published["VBPR"], name="VBPR half-way", trainer={"max_epochs": 2000})
    assert published["Random"].trainer is None
    corrected = trainings(shop, CORRECTED, **of)
    assert corrected["AMR"].start is corrected["VBPR"]
    assert corrected["VBPR"].trainer is None
    assert (corrected["VBPR"].data.instantiate().drop_last, corrected["VBPR"].data.instantiate().rule) == (False, None)


def test_what_a_study_states_goes_before(shop):
    model = {
        "class_path": "lightning_modules.VBPR",
        "init_args": {
            "factors": 8,
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}},
            "regularizer": "squared",
        },
    }
    stated = {"model": model, "trainer": EPOCHS, "data": {"batch_size": 16}}
    of = {"VBPR": ("VBPR", stated), "AMR": ("AMR", {"warm_start": "VBPR", "model": model | {"class_path": "AMR"}})}
    of["AMR"][1]["model"] = model | {"class_path": "lightning_modules.AMR"}
    published = trainings(shop, AS_PUBLISHED, **of)
    vbpr = published["VBPR"].model.instantiate()
    vbpr.build(5, 4, 3)
    optimizer = vbpr.configure_optimizers()
    # With its own optimizer it has its own rates, and with its own regulariser its own weights.
    assert type(optimizer) is torch.optim.SGD
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    default = trainings(shop, CORRECTED, V=("VBPR", {}))["V"].model.instantiate().settings
    assert replace(vbpr.settings, factors=64, reduction="mean", shared_user_factors=False) == default
    assert (published["VBPR"].trainer, published["VBPR"].data.instantiate().batch_size) == (EPOCHS, 16)
    assert published["VBPR"].data.instantiate().drop_last
    assert published["AMR"].start.trainer == {"max_epochs": 3}


def test_half_way_needs_somebody_to_begin_with(shop):
    with pytest.raises(CatwalkError, match=r"recommenders\.AMR\.warm_start is missing: .*\(VBPR stands before it\)"):
        trainings(shop, AS_PUBLISHED, VBPR=("VBPR", {}), AMR=("AMR", {}))
    half = Protocol(amr_start="vbpr_half_way")
    with pytest.raises(CatwalkError, match=r"recommenders\.VBPR\.trainer\.max_epochs: .* got None"):
        trainings(shop, half, VBPR=("VBPR", {}), AMR=("AMR", {"warm_start": "VBPR"}))
    one = trainings(shop, half, VBPR=("VBPR", {"trainer": {"max_epochs": 1}}), AMR=("AMR", {"warm_start": "VBPR"}))
    assert one["AMR"].start.trainer == {"max_epochs": 1}


def test_a_split_that_the_dataset_or_the_study_has_goes_before(shop, tmp_path):
    folder = tmp_path / "split"
    shutil.copytree(shop, folder, ignore=shutil.ignore_patterns(".cache"))
    (folder / "splits").mkdir()
    lines = (folder / "interactions.csv").read_text().splitlines(keepends=True)
    (folder / "splits" / "train.csv").write_text("".join(lines[:-1]))
    (folder / "splits" / "test.csv").write_text(lines[0] + lines[-1])
    assert trainings(folder, AS_PUBLISHED, VBPR=("VBPR", {}))["VBPR"].data.instantiate().rule is None
    grid = Grid(
        dataset=shop,
        source="Sandal",
        target="Sneaker",
        extractors={"T": Training({})},
        attacks=[],
        recommenders={"VBPR": Training({"class_path": "lightning_modules.VBPR"})},
        seeds=[0],
        top_k=20,
    )
    published = Shop.read(folder).under([AS_PUBLISHED])
    assert published.split is None
    plain = Shop.read(shop)
    assert plain.under([AS_PUBLISHED, CORRECTED]).split is plain.under([CORRECTED]).split is None
    under = plain.under([AS_PUBLISHED, replace(AS_PUBLISHED, name="other")])
    assert under.split is not None
    assert under.split.instantiate() == LastInFile()
    assert under.split_facts != plain.split_facts
    rule = split_of({"class_path": "catwalk.shop.splits.LeaveRandomOut", "init_args": {"seed": 3}})
    assert Shop.read(shop, rule).under([AS_PUBLISHED]).split is rule
    training = RecommenderTraining.of(grid, Shop.read(shop, rule), "VBPR", {}, AS_PUBLISHED)
    assert training.data.instantiate().rule == rule.instantiate()


def test_an_attack_has_the_protocols_defaults():
    def named(**arguments):
        specification = attack_of({"class_path": "catwalk.attacks.CarliniWagner", "init_args": arguments})
        return NamedAttack("C&W", specification, specification.instantiate())

    plain = named(iterations=300)
    assert plain.under(CORRECTED) is plain
    attack: CarliniWagner = plain.under(AS_WRITTEN).specification.instantiate()
    assert (attack.rounded, attack.initial_c, attack.iterations) == (False, 0.1, 300)
    stated: CarliniWagner = named(rounded=True, initial_c=1.0).under(AS_PUBLISHED).example
    assert (stated.rounded, stated.initial_c) == (True, 1.0)


def test_a_plan_trains_once_what_several_protocols_train_alike(study_settings, tmp_path):
    settings = copy.deepcopy(study_settings)
    amr = {"class_path": "lightning_modules.AMR", "init_args": {"factors": 4, "visual_factors": 4}}
    settings["recommenders"] = {
        "VBPR": settings["recommenders"]["VBPR"],
        "AMR": {"model": amr, "warm_start": "VBPR", "trainer": {"max_epochs": 2}},
    }
    settings["recommenders"]["VBPR"]["trainer"]["max_epochs"] = 6
    stated = {
        kind: {key: Training(**value) for key, value in settings[kind].items()}
        for kind in ("extractors", "recommenders")
    }
    cw = {"class_path": "catwalk.attacks.CarliniWagner", "init_args": {"iterations": 5}}

    def plan(*protocols):
        grid = Grid(
            Path(settings["dataset"]),
            *(settings["source"], settings["target"]),
            attacks=[cw],
            seeds=[0],
            top_k=20,
            protocols=list(protocols),
            controls=Controls(noise=(), other_seeds=False, evasion=False),
            **stated,
        )
        under = accuracy_attack_of(ACCURACY_ATTACK)
        return Plan.of(grid, Shop.read(grid.dataset), StageCache(tmp_path), under, None, Metrics((), grid.source))

    def trained(made):
        return [stage.description for stage in made.stages if stage.kind == "recommender"]

    one = plan(CORRECTED, Protocol(name="ideal", ncdcg_ideal="category"))
    names = [f"{name} on T, {attack}, seed 0" for attack in ("No attack", "C&W (5 × 5)") for name in ("VBPR", "AMR")]
    assert sorted(trained(one)) == sorted(names)
    mixed = Protocol(
        name="mixed", source_items="undefended", background_features="undefended", chr_categories="undefended"
    )
    assert {stage.key for stage in plan(CORRECTED, mixed).stages} == {stage.key for stage in plan(CORRECTED).stages}
    half = Protocol(name="half", amr_start="vbpr_half_way", carlini_wagner="written")
    both = plan(CORRECTED, half)
    assert len(set(trained(both))) == 2 * 2 + 2 * 3 - 1  # VBPR without attack is the same under both
    starts = {
        (run.protocol.name, stage.start.training.name, stage.start.training.trainer["max_epochs"])
        for run in both.runs
        if (stage := run.recommender) is not None and stage.start is not None
    }
    assert starts == {("corrected", "VBPR", 6), ("half", "VBPR half-way", 3)}
    attacks = {run.protocol.name: run.attack.settings["attack"]["init_args"] for run in both.runs if run.attack}
    assert {name: (each["initial_c"], each["rounded"]) for name, each in attacks.items()} == {
        "corrected": (0.01, True),
        "half": (0.1, False),
    }


@pytest.mark.slow
def test_a_study_runs_as_published(study_settings, run_study, tmp_path):
    settings = copy.deepcopy(study_settings) | {"name": "published", "seeds": [0]}
    network = copy.deepcopy(settings["extractors"]["T"])
    network["model"]["class_path"] = "lightning_modules.FreeAdversarialClassifier"
    settings["extractors"]["FAT"] = network
    settings["attacks"] = settings["attacks"][1:]
    vbpr = settings["recommenders"]["VBPR"]
    vbpr["data"] = {"batch_size": 64}
    amr = copy.deepcopy(vbpr) | {"warm_start": "VBPR"}
    amr["model"]["class_path"] = "lightning_modules.AMR"
    settings["recommenders"] = {"VBPR": vbpr, "AMR": amr}
    settings["controls"] = {"noise": [], "other_seeds": False, "evasion": True, "sham": True}
    settings["protocol"] = {field.name: getattr(AS_PUBLISHED, field.name) for field in fields(AS_PUBLISHED)}
    study = run_study(settings, tmp_path / "runs")
    assert run_study(settings, tmp_path / "runs").made == ()
    with (study.folder / "cells.csv").open(encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    rows = {(cell["extractor"], cell["recommender"], cell["attack"], cell["scenario"]): cell for cell in cells}
    assert len(rows) == len(cells) == 2 * 2 * 4
    for cell in cells:
        assert cell["protocol"] == "as published"
        assert cell["differences"] == AS_PUBLISHED.short_differences
    numbers = ("chr@20", "ncdcg@20", "hr@20", "auc")
    for recommender in ("VBPR", "AMR"):
        # Without mixing a sham changes nothing; what the defended network's rows do among others' can be seen.
        plain, sham = (rows["T", recommender, attack, ""] for attack in ("No attack", "Sham"))
        assert [plain[name] for name in numbers] == [sham[name] for name in numbers]
        plain, sham = (rows["FAT", recommender, attack, ""] for attack in ("No attack", "Sham"))
        assert plain["auc"] != sham["auc"]
        # The undefended network's items, whichever network is attacked.
        assert {rows[cnn, recommender, "PGD (ε = 32)", "poisoning"]["n_attacked"] for cnn in ("T", "FAT")} == {
            sham["n_attacked"]
        }
    notes = (study.folder / "table1.md").read_text("utf-8")
    assert "Protocol as published: attacked items are those that the undefended network sees as the source" in notes
