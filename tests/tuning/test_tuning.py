"""Where a search puts what it draws, and what it draws it from."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from catwalk.errors import CatwalkError
from catwalk.shop.splits import RatioSplit
from catwalk.tuning.training import SearchedTraining

ADAGRAD = {"class_path": "torch.optim.Adagrad", "init_args": {"lr": 0.5}}


def training(shop: Path, **init_args: Any) -> SearchedTraining:
    model = {"class_path": "lightning_modules.BPRMF", "init_args": init_args}
    return SearchedTraining(model, {"batch_size": 32}, {"accelerator": "cpu"}, shop, None, 5)


def test_parameters_go_to_their_places_and_leave_the_statement_alone(shop: Path) -> None:
    stated = training(shop, factors=3, optimizer=ADAGRAD)
    parameters = {
        "model.regularization": 0.25,
        "model.optimizer.lr": 0.125,
        "model.learning_rates.P": 0.01,
        "model.learning_rates.Q": 0.02,
        "data.batch_size": 64,
    }
    assert stated.configuration(parameters) == {
        "model": {
            "class_path": "lightning_modules.BPRMF",
            "init_args": {
                "factors": 3,
                "optimizer": {"class_path": "torch.optim.Adagrad", "init_args": {"lr": 0.125}},
                "regularization": 0.25,
                "learning_rates": {"P": 0.01, "Q": 0.02},
            },
        },
        "data": {
            "class_path": "datamodules.InteractionTriplets",
            "init_args": {"dataset": str(shop), "seed": 5, "batch_size": 64},
        },
    }
    assert ADAGRAD == {"class_path": "torch.optim.Adagrad", "init_args": {"lr": 0.5}}
    assert stated.data == {"batch_size": 32}
    assert stated.model["init_args"] == {"factors": 3, "optimizer": ADAGRAD}


def test_a_split_goes_to_the_data_of_every_trial(shop: Path) -> None:
    split = {"class_path": "catwalk.shop.splits.RatioSplit", "init_args": {"test_share": 0.5}}
    stated = dataclasses.replace(training(shop), split=split)
    assert stated.configuration({})["data"]["init_args"]["split"] == split
    assert stated.specifications({})["data"].instantiate().rule == RatioSplit(0.5)
    (drawn,) = stated.distributions({"model.factors": {"choices": [2]}})  # for which the shop is read
    assert drawn == "model.factors"
    search = {"model.factors": {"choices": [2]}}
    assert stated.identity(search) != training(shop).identity(search)
    by_date = {"class_path": "catwalk.shop.splits.DateSplit", "init_args": {"test_from": 1}}
    with pytest.raises(CatwalkError, match=r"DateSplit\.validation_from: give it"):
        dataclasses.replace(training(shop), split=by_date).distributions(search)
    with pytest.raises(CatwalkError, match=r"data\.split: leave it out, it is an argument of the search"):
        SearchedTraining({}, {"split": split}, {}, shop, None, 5)


def test_the_data_module_of_a_trial_holds_out_the_validation_items(shop: Path) -> None:
    data = training(shop).specifications({"data.batch_size": 7})["data"].instantiate()
    assert (data.validation, data.batch_size, data.seed) == (True, 7, 5)


@pytest.mark.parametrize(
    ("path", "limits", "expected"),
    [
        ("model.factors", {"low": 2, "high": 8}, IntDistribution(2, 8)),
        ("model.factors", {"low": 2, "high": 8, "log": True}, IntDistribution(2, 8, log=True)),
        ("model.regularization", {"low": 0, "high": 1}, FloatDistribution(0.0, 1.0)),
        ("model.item_regularization", {"low": 0, "high": 1}, FloatDistribution(0.0, 1.0)),
        ("model.regularization", {"low": 1e-3, "high": 1, "log": True}, FloatDistribution(1e-3, 1.0, log=True)),
        ("model.optimizer.lr", {"low": 1, "high": 2}, FloatDistribution(1.0, 2.0)),
        ("model.learning_rates.P", {"low": 0, "high": 1}, FloatDistribution(0.0, 1.0)),
        ("data.batch_size", {"low": 16, "high": 64, "log": False}, IntDistribution(16, 64)),
        ("model.factors", {"choices": [2, 64]}, CategoricalDistribution([2, 64])),
        ("model.item_bias", {"choices": [True, False]}, CategoricalDistribution([True, False])),
        ("model.item_regularization", {"choices": [None, 0.5]}, CategoricalDistribution([None, 0.5])),
        ("model.regularizer", {"choices": ["squared", "linear"]}, CategoricalDistribution(["squared", "linear"])),
    ],
)
def test_a_range_takes_the_type_of_its_argument(
    shop: Path, path: str, limits: dict[str, Any], expected: BaseDistribution
) -> None:
    (drawn,) = training(shop, optimizer=ADAGRAD).distributions({path: limits}).items()
    assert drawn == (path, expected)
    assert type(getattr(drawn[1], "low", None)) is type(getattr(expected, "low", None))
