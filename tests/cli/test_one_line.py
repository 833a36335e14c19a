"""Messages of jsonargparse as one line, from parsers made here."""

from collections.abc import Sequence
from typing import Literal

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from callbacks import InjectPoisonedImages
from catwalk.attacks import Attack
from catwalk.one_line import one_line


def message(values: dict, **types: object) -> str:
    """Return what a parser with arguments of some types says to some values."""
    parser = ArgumentParser(exit_on_error=False)
    for name, kind in types.items():
        parser.add_argument(f"--{name}", type=kind)
    with pytest.raises(ArgumentError) as info:
        parser.parse_object(values)
    return str(info.value)


@pytest.mark.parametrize(
    ("value", "kind", "line"),
    [
        ("x", int, "argument: expected int, got x"),
        ("x", int | None, "argument: expected int, got x"),
        ("x", int | bool, "argument: expected int or bool, got x"),
        (1.5, Literal["a", "b"], "argument: expected one of a, b, got 1.5"),
        ("x", Sequence[int], "argument: expected list, got x"),
    ],
)
def test_a_value_of_another_type(value: object, kind: object, line: str) -> None:
    assert one_line(message({"argument": value}, argument=kind)) == line


def test_the_innermost_problem_is_told_with_its_place() -> None:
    pgd = {"class_path": "catwalk.attacks.PGD", "init_args": {"epsilon": "x"}}
    text = message({"attack": pgd}, attack=Attack)
    assert one_line(text) == "attack.epsilon: expected float, got x"
    assert one_line(text, "attacks") == "attacks.epsilon: expected float, got x"
    callback = {"class_path": "callbacks.InjectPoisonedImages", "init_args": {"attack": pgd, "source": "a"}}
    text = message({"callback": callback}, callback=InjectPoisonedImages | None)
    assert one_line(text).startswith("callback.attack.epsilon: expected float, got x")


def test_an_unknown_option_of_a_class_comes_with_those_that_there_are() -> None:
    fgsm = {"class_path": "catwalk.attacks.FGSM", "init_args": {"epsilom": 8}}
    line = one_line(message({"attack": fgsm}, attack=Attack))
    options = "epsilon, targeted, batch_size, precision, compiled"
    assert line == f"attack: catwalk.attacks.FGSM: there is no option epsilom; there are {options}"


def test_a_class_that_there_is_not_comes_with_those_that_there_are() -> None:
    line = one_line(message({"attack": {"class_path": "catwalk.attacks.FSGM"}}, attack=Attack))
    assert line.startswith("attack: there is no catwalk.attacks.FSGM; there are ")
    assert "FGSM, PGD" in line
    assert "Result" not in line  # no attack


def test_any_other_message_only_loses_its_line_breaks() -> None:
    assert one_line("something\n  else: went\n\nwrong") == "something else: went wrong"
