"""What is said of why a result is made again."""

import pytest

from catwalk.results.keys import Inputs
from catwalk.results.reasons import why_again
from catwalk.results.record import Record

SETTINGS = {
    "model": {"class_path": "mine.Net", "init_args": {"width": 8, "weights": "0f1e", "classifier": 3}},
    "trainer": {"max_epochs": 2},
    "seed": 0,
    "catalogue": "ab12",
    "features": "cd34",
    "classifier": "ef56",
}
CODE = {"catwalk.networks.network": "1", "catwalk.networks.features": "2", "mine": "3"}


def inputs(settings: dict | None = None, code: dict | None = None, torch: str = "2.9") -> Inputs:
    return Inputs({**SETTINGS, **(settings or {})}, {**CODE, **(code or {})}, torch)


def arguments(**changed: object) -> dict:
    return {"model": {**SETTINGS["model"], "init_args": {**SETTINGS["model"]["init_args"], **changed}}}


BEFORE: Record = {"settings": SETTINGS, "code": CODE, "torch": "2.9", "title": "Shop: CNN T"}

CASES = {
    "a module": (inputs(code={"catwalk.networks.features": "9"}), "catwalk/networks/features.py changed"),
    "an argument": (inputs(arguments(width=9)), "setting width changed"),
    "an argument of a name that stands for a content elsewhere": (
        inputs(arguments(classifier=4)),
        "setting classifier changed",
    ),
    "a new argument": (inputs({"trainer": {"max_epochs": 2, "precision": 16}}), "setting precision changed"),
    "an argument that is gone": (inputs({"trainer": {}}), "setting max_epochs changed"),
    "a scalar": (inputs({"seed": 1}), "setting seed changed"),
    "the catalogue": (inputs({"catalogue": "99"}), "the catalogue changed"),
    "an input alone": (inputs({"classifier": "99"}), "the CNN changed"),
    "an input that follows from what is named": (
        inputs({"classifier": "99", "features": "99", "catalogue": "99"}),
        "the catalogue changed",
    ),
    "code and the inputs that follow from it": (
        inputs({"classifier": "99"}, {"catwalk.networks.network": "9"}),
        "catwalk/networks/network.py changed",
    ),
    "two": (inputs({"seed": 1, "catalogue": "99"}), "setting seed and the catalogue changed"),
    "five": (
        inputs({"seed": 1, "catalogue": "99", "trainer": {"max_epochs": 3}}, {"mine": "9"}, "3.0"),
        "mine.py, PyTorch's version, setting max_epochs and 2 more changed",
    ),
    "another class, with its own modules and arguments": (
        inputs({"model": {"class_path": "mine.Other", "init_args": {"depth": 3}}}, {"mine.other": "4"}),
        "the class of model changed",
    ),
    "a module that is imported now": (inputs(code={"mine.more": "4"}), "mine/more.py changed"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_input_that_changed_is_named(case: str) -> None:
    now, words = CASES[case]
    assert why_again(BEFORE, now) == words


def test_a_record_that_says_nothing_of_its_inputs() -> None:
    assert why_again({}, Inputs({}, {}, "2.9")) == "PyTorch's version changed"
