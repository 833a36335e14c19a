"""Messages of jsonargparse as one line, from parsers made here."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
from jsonargparse import ArgumentError, ArgumentParser
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.loggers import Logger
from torch.utils.data import Dataset

import lightning_modules
from callbacks import InjectPoisonedImages
from catwalk.attacks import Attack
from catwalk.configuration.messages import one_line
from catwalk.shop.splits import SplitRule
from catwalk.study.grid import Training

VBPR = "lightning_modules.VBPR"


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
        (20, Sequence[int], "argument: expected list, such as [20], got 20"),
        (28, tuple[int, int], "argument: expected list of values, got 28"),
        (28, tuple[int, int] | None, "argument: expected list of 2 (int, int), such as [28, 28], got 28"),
        ([28], tuple[int, int] | None, "argument: expected list of 2 (int, int), such as [28, 28], got [28]"),
        ("28,32", tuple[int, int] | None, "argument: expected list of 2 (int, int), such as [28, 32], got 28,32"),
        ("x", dict[str, int], "argument: expected dict such as {name: value}, got x"),
        (["a"], str | Path | None, "argument: expected str or path, got ['a']"),
        ("", int, "argument: expected int, got nothing"),
    ],
)
def test_a_value_of_another_type(value: object, kind: object, line: str) -> None:
    assert one_line(message({"argument": value}, argument=kind)) == line


def test_the_innermost_problem_is_told_with_its_place() -> None:
    pgd = {"class_path": "catwalk.attacks.PGD", "init_args": {"iterations": "x"}}
    text = message({"attack": pgd}, attack=Attack)
    assert one_line(text) == "attack.iterations: expected int, got x"
    assert one_line(text, "attacks") == "attacks.iterations: expected int, got x"
    callback = {"class_path": "callbacks.InjectPoisonedImages", "init_args": {"attack": pgd, "source": "a"}}
    text = message({"callback": callback}, callback=InjectPoisonedImages | None)
    assert one_line(text).startswith("callback.attack.iterations: expected int, got x")


@pytest.mark.parametrize(
    ("class_path", "option", "meant"),
    [
        ("lightning_modules.VBPR", "factor", "factors"),  # of BPRMF
        ("lightning_modules.VBPR", "regularisation", "regularization"),  # of PairwiseRecommender
        ("lightning_modules.VBPR", "topk", "top_k"),  # of Recommender
        ("lightning_modules.AMR", "visual_factor", "visual_factors"),  # of VBPR
        ("lightning_modules.AdversarialClassifier", "freeze_upto", "freeze_up_to"),  # of ProductClassifier
    ],
)
def test_options_of_the_parents_are_known(class_path: str, option: str, meant: str) -> None:
    text = message({"model": {"class_path": class_path, "init_args": {option: 1}}}, model=LightningModule)
    line = one_line(text)
    assert line.startswith(f"model: {class_path}: there is no option {option}; did you mean {meant}? There are ")
    given = set(line.partition("There are ")[2].split(", "))
    kind = getattr(lightning_modules, class_path.rpartition(".")[2])
    named = {name for parent in kind.__mro__ for name in inspect.signature(parent.__init__).parameters}
    assert {meant, "top_k" if "top_k" in named else "backbone"} <= given <= named


@pytest.mark.parametrize(
    ("name", "base", "given", "line"),
    [
        ("logger", Logger, "WandB", "logger: there is no class WandB; did you mean WandbLogger?"),
        ("logger", Logger, "csv", "logger: there is no class csv; did you mean CSVLogger?"),
        ("model", LightningModule, "VBRP", "model: there is no class VBRP; did you mean VBPR?"),
        ("callbacks", list[Callback] | Callback, "EarlyStoping", "did you mean EarlyStopping?"),
        ("split", SplitRule, "DateSplitt", "split: there is no class DateSplitt; did you mean DateSplit?"),
        ("split", SplitRule, "Nonsense", "there are DateSplit, LastInFile, LeaveLastOut, LeaveRandomOut, RatioSplit;"),
        ("logger", Logger, "Nonsense", "such as pytorch_lightning.loggers.CSVLogger"),
        ("other", Dataset, "Nonsense", "such as package.module.Class"),
        ("model", LightningModule, "datamodules.ProductImages", "no LightningModule, unlike lightning_modules.VBPR"),
        ("model", LightningModule, 3, "model: expected a class, such as lightning_modules.VBPR, got 3"),
        ("model", LightningModule | None, {"class_path": VBPR, "factors": 3}, "factors must stand in init_args"),
        ("model", LightningModule, {"class_path": VBPR, "init_args": None}, "init_args is empty"),
    ],
)
def test_a_class_that_does_not_fit(name: str, base: object, given: object, line: str) -> None:
    assert line in one_line(message({name: given}, **{name: base}))


OPTIONS = ["model", "data", "trainer.max_epochs", "trainer.min_epochs", "model.optimizer", "data.batch_size", "config"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("unrecognized arguments: --optimizer SGD", "there is no option --optimizer; did you mean --model.optimizer?"),
        ("unrecognized arguments: --max-epochs=3", "did you mean --trainer.max_epochs?"),
        ("unrecognized arguments: --epochs", "did you mean --trainer.max_epochs or --trainer.min_epochs?"),
        ("unrecognized arguments: --bogus 1", "there is no option --bogus; --help lists them"),
        ("unrecognized arguments: a.yaml b.yaml", "a.yaml stands alone: each configuration has a --config of its own"),
        ("unrecognized arguments: extra", "extra is one word too many"),
        ("Subcommand 'fit' does not accept option 'modle.class_path'", "modle.class_path; did you mean model?"),
        ("Subcommand 'fit' does not accept option 'fit.model.class_path'", "at the top of a file, without fit"),
        ("Subcommand 'fit' does not accept option 'search.lr.low'", "search belongs to `catwalk tune`"),
        (
            "Parser key \"trainer\":\nUnable to load config '3'\n  - Parser",
            "trainer: expected options and their values, got 3",
        ),
        ("argument -c/--config: expected one argument", "--config: a value is missing behind it"),
        ("ambiguous option: --seed could match --seeds, --seeds+", "there is no option --seed; did you mean --seeds?"),
        ("ambiguous option: --a could match --b.help, --b", "there is no option --a; did you mean --b?"),
        (
            "--model.help: Expected a dot import path string: VBRP",
            "--model.help: there is no class VBRP; did you mean",
        ),
    ],
)
def test_an_option_that_a_command_does_not_have(text: str, line: str) -> None:
    assert line in one_line(text, options=OPTIONS)


def test_an_unknown_option_of_a_class_comes_with_those_that_there_are() -> None:
    fgsm = {"class_path": "catwalk.attacks.FGSM", "init_args": {"epsilom": 8}}
    line = one_line(message({"attack": fgsm}, attack=Attack))
    options = "epsilon, targeted, mask, batch_size, precision, compiled"
    expected = f"attack: catwalk.attacks.FGSM: there is no option epsilom; did you mean epsilon? There are {options}"
    assert line == expected


def test_a_class_that_there_is_not_comes_with_those_that_there_are() -> None:
    line = one_line(message({"attack": {"class_path": "catwalk.attacks.FSGM"}}, attack=Attack))
    assert line.startswith("attack: there is no catwalk.attacks.FSGM; did you mean FGSM? There are ")
    assert "FGSM, FMN" in line
    assert "Result" not in line  # no attack


def test_any_other_message_only_loses_its_line_breaks() -> None:
    assert one_line("something\n  else: went\n\nwrong") == "something else: went wrong"


def test_a_moment_that_is_missing_comes_with_an_example() -> None:
    line = one_line(message({"split": {"class_path": "catwalk.shop.splits.DateSplit"}}, split=SplitRule))
    assert line.startswith("split: catwalk.shop.splits.DateSplit: test_from missing; give the first moment ")


@pytest.mark.parametrize("kind", [dict[str, Training], dict[str, Training] | None])
@pytest.mark.parametrize(
    ("option", "entry"), [("VBPR.model.factors", "VBPR.model"), ("BPR-MF.trainer.max_epochs", "BPR-MF.trainer")]
)
def test_entries_that_are_given_one_by_one_keep_their_name(kind: object, option: str, entry: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--recommenders", type=kind)
    arguments = ["--recommenders", '{"VBPR": {"model": {}}, "BPR-MF": {"model": {}}}', f"--recommenders.{option}", "3"]
    with pytest.raises(ArgumentError) as info:
        parser.parse_args(arguments)
    line = one_line(str(info.value), arguments=arguments)
    assert line.startswith(f"recommenders.{entry}: expected dict such as {{name: value}}"), line
    assert line.endswith("; its entries are given in a --config, not one by one on the line")
