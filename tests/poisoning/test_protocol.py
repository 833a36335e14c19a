"""Protocols: their three forms, their files, what they say of themselves and what they hand on."""

from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from catwalk.attacks import PGD, CarliniWagner
from catwalk.errors import CatwalkError
from catwalk.poisoning.protocol import (
    AS_PUBLISHED,
    AS_WRITTEN,
    CORRECTED,
    MEANINGS,
    NUMBERS,
    AttackProtocol,
    Protocol,
)
from lightning_modules import AMR, APR, BPRMF, VBPR, Popularity

NAMED = {"as_published": AS_PUBLISHED, "as_written": AS_WRITTEN, "corrected": CORRECTED}
ADAGRAD = {
    "class_path": "torch.optim.Adagrad",
    "init_args": {"lr": 0.01, "initial_accumulator_value": 0.1, "eps": 0.0},
}


@pytest.mark.parametrize("name", NAMED)
def test_a_file_states_every_field(name):
    stated = yaml.safe_load(Path(str(files("configs")), "protocol", f"{name}.yaml").read_text("utf-8"))["protocol"]
    assert stated.keys() == {field.name for field in fields(Protocol)}
    assert Protocol(**stated) == NAMED[name]
    assert stated["name"] == name.replace("_", " ")


def test_differences_are_told_field_by_field():
    assert (CORRECTED.differences(), CORRECTED.describe(), CORRECTED.short_differences) == ([], [], "")
    assert replace(CORRECTED, name="another").describe() == []
    mixed = Protocol(clip=False, factors=8)
    assert [(each.field, each.value, each.default) for each in mixed.differences()] == [
        ("clip", False, True),
        ("factors", 8, None),
    ]
    assert mixed.describe() == [
        "attacks leave [0, 1] while they run",
        "recommenders have 8 factors where the study states none",
    ]
    assert mixed.short_differences == "clip=False, factors=8"
    different = {each.field for each in AS_PUBLISHED.differences()}
    assert different == {field.name for field in fields(Protocol)} - {"name", "chr_categories", "source_popularity"}
    assert all(AS_WRITTEN.describe())


def test_every_choice_has_its_words():
    from typing import get_args, get_type_hints

    hints = get_type_hints(Protocol)
    for field in fields(Protocol):
        if field.name == "name":
            continue
        choices = {True, False} if hints[field.name] is bool else set(get_args(hints[field.name]))
        if field.name in NUMBERS:
            assert field.default is None
        else:
            assert MEANINGS[field.name].keys() == choices - {field.default}, field.name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "product"}, r"^protocol\.loss must be one of mean, sum, got 'product'"),
        ({"source_items": "me"}, r"^protocol\.source_items must be one of network, undefended, dataset, got 'me'"),
        ({"factors": 0}, r"^protocol\.factors must be at least 1, got 0"),
        ({"amr_weight": -1.0}, r"^protocol\.amr_weight must be at least 0"),
    ],
)
def test_impossible_values_are_refused(settings, message):
    with pytest.raises(CatwalkError, match=message):
        Protocol(**settings)


def test_recommenders_get_what_they_take():
    for model in (VBPR, AMR, BPRMF, APR, Popularity):
        assert CORRECTED.recommender_arguments(model) == {}
        assert CORRECTED.trainer_arguments(model) == {}
    assert CORRECTED.data_arguments() == {}
    of_users = {
        "factors": 64,
        "reduction": "sum",
        "regularizer": "linear",
        "regularization": 0.1,
        "item_regularization": 0.001,
        "optimizer": ADAGRAD,
    }
    of_images = {"shared_user_factors": True, "projection_regularization": 0.0}
    rates = {"P": 0.01, "Q": 1e-4, "E": 1e-3}
    expected = {
        BPRMF: of_users | {"learning_rates": {"P": 0.01, "Q": 1e-4}},
        APR: of_users | {"learning_rates": {"P": 0.01, "Q": 1e-4}},
        VBPR: of_users | of_images | {"learning_rates": rates},
        AMR: of_users
        | of_images
        | {"learning_rates": rates, "epsilon": 1.0, "adversarial_weight": 0.1, "perturbation": "per_item"},
        Popularity: {},
    }
    assert {model: AS_PUBLISHED.recommender_arguments(model) for model in expected} == expected
    assert AS_PUBLISHED.data_arguments() == {"batch_size": 512, "drop_last": True}
    assert [AS_PUBLISHED.trainer_arguments(model) for model in (VBPR, AMR)] == [
        {"max_epochs": 4000},
        {"max_epochs": 2000},
    ]
    assert [AS_PUBLISHED.begins_half_way(model) for model in (VBPR, AMR, APR)] == [False, True, False]
    assert AS_WRITTEN.recommender_arguments(VBPR) == {"reduction": "sum", "optimizer": ADAGRAD, "learning_rates": rates}


@pytest.mark.parametrize("model", [VBPR, AMR])
def test_the_recommenders_files_are_of_the_same_protocol(model):
    name = f"{model.__name__.lower()}_as_published.yaml"
    stated = yaml.safe_load(Path(str(files("configs")), "recommender", name).read_text("utf-8"))
    arguments = stated["model"]["init_args"]
    assert ("warm_start" in arguments) == AS_PUBLISHED.begins_half_way(model)
    arguments.pop("warm_start", None)
    assert arguments == AS_PUBLISHED.recommender_arguments(model)
    assert stated["data"]["init_args"].items() >= AS_PUBLISHED.data_arguments().items()
    assert stated["trainer"]["max_epochs"] == AS_PUBLISHED.trainer_arguments(model)["max_epochs"]


def test_attacks_and_purchases_get_what_they_take():
    for protocol, expected in (
        (CORRECTED, {}),
        (AS_PUBLISHED, {"rounded": False, "initial_c": 0.01}),
        (AS_WRITTEN, {"rounded": False, "initial_c": 0.1}),
    ):
        assert protocol.attack_arguments(CarliniWagner) == expected
        CarliniWagner(**expected)
        assert protocol.attack_arguments(PGD) == {}
    assert (CORRECTED.split_rule, AS_WRITTEN.split_rule) == (None, None)
    assert AS_PUBLISHED.split_rule == {"class_path": "catwalk.shop.splits.LastInFile"}


def test_an_attack_depends_on_its_own_fields_alone():
    assert AS_PUBLISHED.of_attack == {
        "source_items": "undefended",
        "epsilon_space": "normalised",
        "clip": False,
        "quantise": "truncate",
        "source_popularity": "all",
    }
    assert AttackProtocol().of_attack == CORRECTED.of_attack


def test_the_page_has_every_field_as_in_the_code():
    page = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text("utf-8")
    section = page.split("## Every field\n", 1)[1].split("\n#", 1)[0]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:5]] for line in section.splitlines() if line[:3] == "| `"]
    assert sorted(row[0] for row in rows) == sorted(field.name for field in fields(Protocol) if field.name != "name")
    for name, *values in rows:
        stated = [yaml.safe_load(value) for value in values]
        assert stated == [getattr(protocol, name) for protocol in NAMED.values()], name
