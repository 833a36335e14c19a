"""Help that reads well and starts fast."""

import re
import subprocess
import sys

import pytest

import catwalk
from catwalk.cli.parser import HELP
from catwalk.configuration.parsers import readable

COMMANDS = [
    ["fit"],
    ["validate"],
    ["test"],
    ["predict"],
    ["study"],
    ["report"],
    ["tune"],
    ["data"],
    ["data", "synthetic"],
    ["data", "show"],
]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["data", "--help"], ["data", "synthetic", "--help"]])
def test_what_needs_no_pytorch_does_not_import_it(arguments: list[str]) -> None:
    code = f"""
import sys
from catwalk.cli.main import main
try:
    main({arguments})
except SystemExit as error:
    assert error.code == 0, error.code
assert not {{"torch", "pytorch_lightning", "wandb"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_overview_names_every_command(run) -> None:
    outcome = run("--help")
    assert (outcome.code, outcome.err) == (0, "")
    for command in ("data", "study", "report", "tune", *HELP):
        assert re.search(rf"^  {command} +\w", outcome.out, re.MULTILINE), command
    assert run("--version").out == f"catwalk {catwalk.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(run, command: list[str]) -> None:
    outcome = run(*command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    first = outcome.out.splitlines()[0]
    assert first.startswith(f"usage: catwalk {' '.join(command)} ")
    assert len(outcome.out.partition("\n\n")[0].splitlines()) <= 5  # the usage is no list of every option
    for noise in ("<class", "default: null", "``", ":class:", ":func:"):
        assert noise not in outcome.out


@pytest.mark.parametrize(
    ("option", "name", "word"),
    [
        ("--model.help", "VBPR", "visual_factors"),
        ("--data.help", "InteractionTriplets", "batch_size"),
        ("--trainer.callbacks.help", "InjectPoisonedImages", "classifier"),
        ("--poison.attack.help", "PGD", "iterations"),
    ],
)
def test_a_class_explains_itself(run, option: str, name: str, word: str) -> None:
    outcome = run("fit", f"{option}={name}")
    assert (outcome.code, outcome.err) == (0, "")
    assert word in outcome.out


def test_readable_keeps_what_people_can_use() -> None:
    text = "(type: <class\n   'pathlib.Path'>, default: null) Union[int, null] Path | null, default: 3 ``x``"
    text += " :class:`~a.b.C`"
    assert readable(text) == "(type: Path) int Path, default: 3 `x` C"
