"""The commands: each parses what follows it on the command line, and calls what does the work."""

import contextlib
import inspect
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from catwalk import __version__
from catwalk.errors import CatwalkError, MissingColumnError

LIGHTNING_COMMANDS = ("fit", "validate", "test", "predict")

OTHER_COMMANDS = ("attack", "data", "defend", "detect", "report", "results", "study", "tune")

VERDICTS_DIFFER = 3
"""Exit code of ``catwalk study compare`` where the two studies have another verdict on an effect."""

NOT_AS_CLAIMED = 3
"""Exit code of ``catwalk attack verify`` where an image exceeds its budget or leaves its mask."""

SWITCHES = {"--dry-run": "--dry_run=true"}
"""Options of a study that may stand without a value."""


def run(command: str, rest: list[str]) -> None:
    """Run a command.

    Args:
        command: Its name.
        rest: What follows it on the command line.

    Raises:
        CatwalkError: If there is none of that name, or it cannot do what it is asked for.
    """
    if command == "--version":
        print(f"catwalk {__version__}")
    elif command in LIGHTNING_COMMANDS:
        _run_lightning([command, *rest])
    elif command == "data":
        _run_importer(rest)
    elif command == "study":
        _run_study(rest)
    elif command == "report":
        _run_report(rest)
    elif command == "tune":
        _run_tune(rest)
    elif command == "attack":
        _run_attack(rest)
    elif command == "defend":
        _run_defend(rest)
    elif command == "detect":
        _run_detect(rest)
    elif command == "results":
        _run_results(rest)
    else:
        from catwalk.configuration.names import closest

        similar = closest(
            command,
            [*LIGHTNING_COMMANDS, *OTHER_COMMANDS, "--help", "--version"],
        )[:1]
        hint = f"did you mean `catwalk {similar[0]}`? " if similar else ""
        raise CatwalkError(f"there is no command {command!r}; {hint}`catwalk --help` lists them")


def _run_lightning(arguments: list[str]) -> None:
    from catwalk.cli.lightning import CatwalkCLI
    from catwalk.cli.parser import known_options

    with _process_arguments(arguments), _told_in_a_line(known_options):
        CatwalkCLI()


def _run_importer(arguments: list[str]) -> None:
    from catwalk.importers import IMPORTERS
    from catwalk.overview import show

    functions: dict[str, Callable[..., None]] = {**IMPORTERS, "show": show}
    arguments = list(arguments)
    if arguments and "." in arguments[0] and not arguments[0].startswith("-"):
        path, arguments[0] = arguments[0], arguments[0].rpartition(".")[2]
        functions[arguments[0]] = _own_importer(path)
    name, values = _chosen(
        "data",
        functions,
        "importers, and show",
        "Write a dataset folder (items.csv, interactions.csv, images and dataset.json), or show what one holds. "
        "`catwalk data my_shop.write SOURCE DEST` runs the importer write of your own file my_shop.py.",
        arguments,
    )
    try:
        functions[name](**values)
    except MissingColumnError as error:
        raise CatwalkError(f"{error}{_column_option(error, functions[name], values)}") from error


def _run_results(arguments: list[str]) -> None:
    from catwalk.cli.results import clean, show, verify

    functions = {function.__name__: function for function in (show, verify, clean)}
    name, values = _chosen(
        "results",
        functions,
        "show, verify and clean",
        "The results that studies, fit and attack have left: list them, compare all hashes, remove what no study uses.",
        arguments,
    )
    functions[name](**values)


def _chosen(
    command: str, functions: Mapping[str, Callable[..., None]], title: str, description: str, arguments: list[str]
) -> tuple[str, dict[str, Any]]:
    """Return which function of a command the arguments name, and what they give it."""
    from catwalk.configuration.parsers import CatwalkParser, instantiate

    parser = CatwalkParser(
        prog=f"catwalk {command}", usage=f"catwalk {command} COMMAND [OPTION ...]", description=description
    )
    commands = parser.add_subcommands(dest="command", title=title, description=f"catwalk {command} COMMAND --help")
    for name, function in functions.items():
        summary = (function.__doc__ or "").strip().splitlines()[0]
        subparser = CatwalkParser(description=summary)
        subparser.add_function_arguments(function, as_group=False, as_positional=True)
        commands.add_subcommand(name, subparser, help=summary)
        subparser.prog = f"catwalk {command} {name}"
        required = [each.name for each in inspect.signature(function).parameters.values() if each.default is each.empty]
        subparser.usage = " ".join([subparser.prog, *map(str.upper, required), "[OPTION ...]"])
    if not arguments:
        raise CatwalkError(f"command is missing; it is one of {', '.join(functions)}")
    chosen = functions.get(arguments[0])
    with _told_in_a_line(lambda: _options_of(chosen) if chosen is not None else []):
        settings = parser.parse_args(_as_declared(arguments, functions.values()))
    return settings.command, instantiate(parser, settings)[settings.command].as_dict()


def _own_importer(path: str) -> Callable[..., None]:
    """Return an importer of the user's own by its import path."""
    from catwalk.configuration.import_object import import_object

    function = import_object(path, "command")
    if not inspect.isfunction(function):
        raise CatwalkError(f"command: {path} is no function; an importer is one that writes a dataset folder")
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.annotation is inspect.Parameter.empty:
            raise CatwalkError(f"command: {path}: its parameter {name} has no type; write it as `{name}: Path`")
    return function


def _options_of(importer: Callable[..., object]) -> list[str]:
    """Return the options of an importer; what has no default stands on the line without a name."""
    parameters = inspect.signature(importer).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is not inspect.Parameter.empty]


def _column_option(error: MissingColumnError, importer: Callable[..., None], values: Mapping[str, object]) -> str:
    """Return the end of a message about a missing column: which option of the importer says what it is called."""
    options = [name for name, value in values.items() if value == error.column]
    if error.path == values.get("purchases") and options == ["item"]:
        return "; say by --purchased_item what it is called there"  # which `item` stands in for
    if not options:
        return ""
    is_default = inspect.signature(importer).parameters[options[0]].default == error.column
    return f"; say by --{options[0]} what it is called there" if is_default else f"; --{options[0]} names it"


def _as_declared(arguments: Sequence[str], functions: Iterable[Callable[..., None]]) -> list[str]:
    """Return the arguments with underscores in the names of options, and "true" after a flag that stands alone."""
    parameters = [item for function in functions for item in inspect.signature(function).parameters.values()]
    flags = {f"--{parameter.name}" for parameter in parameters if parameter.annotation is bool}
    found: list[str] = []
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option.startswith("--"):
            option = "--" + option[2:].replace("-", "_")
        found.append(option + equals + value)
        following = [value.lower() for value in arguments[place + 1 : place + 2]]
        if option in flags and not equals and following not in (["true"], ["false"]):
            found.append("true")
    return found


def _run_study(arguments: list[str]) -> None:
    if arguments[:1] == ["init"]:
        _init_study(arguments[1:])
        return
    if arguments[:1] == ["compare"]:
        _compare_studies(arguments[1:])
        return
    from catwalk.study import run_study

    arguments = [SWITCHES.get(argument, argument) for argument in arguments]
    _run_configured(
        "study",
        run_study,
        "Run a grid of networks × attacks × recommenders × seeds, write and print its tables. For example: "
        "catwalk study --config configs/study/synthetic.yaml. For a shop of your own, `catwalk study init DATASET` "
        "writes such a file, with every key explained.",
        arguments,
    )


def _init_study(arguments: list[str]) -> None:
    from catwalk.study.init import init_study

    if not arguments:
        raise CatwalkError("dataset is missing: catwalk study init DATASET, a folder that `catwalk data` wrote")
    _run_function("study init", "DATASET [--output FILE]", init_study, arguments)


def _run_report(arguments: list[str]) -> None:
    from catwalk.study.report import report

    if not arguments:
        raise CatwalkError("study is missing: catwalk report STUDY, a folder that `catwalk study` wrote, as runs/demo")
    _run_function("report", "STUDY [--store FOLDER] [--dataset FOLDER]", report, arguments)


def _run_function(
    command: str, usage: str, function: Callable[..., Any], arguments: list[str], configured: bool = False
) -> Any:
    """Return what a function returns whose arguments without a default stand on the line without a name.

    Where it is ``configured``, the others may stand in YAML files.
    """
    from catwalk.configuration.parsers import CatwalkParser

    parser = CatwalkParser(
        prog=f"catwalk {command}",
        usage=f"catwalk {command} {usage}",
        description=(function.__doc__ or "").splitlines()[0],
    )
    if configured:
        parser.add_argument("--config", action="config", help="A YAML file with options; several stack.")
    parser.add_function_arguments(function, as_group=False, as_positional=True)
    with _told_in_a_line(lambda: _options_of(function), arguments):
        settings = parser.parse_args(arguments)
    settings.pop("config", None)
    return function(**_made(parser, settings))


def _compare_studies(arguments: list[str]) -> None:
    from catwalk.study.compare import compare_studies

    if not arguments:
        raise CatwalkError("first is missing: catwalk study compare FIRST SECOND, folders that `catwalk study` wrote")
    if not _run_function("study compare", "FIRST SECOND [--csv FILE]", compare_studies, arguments):
        raise SystemExit(VERDICTS_DIFFER)


def _run_tune(arguments: list[str]) -> None:
    from catwalk.tuning import run_search

    _run_configured(
        "tune",
        run_search,
        "Search for a recommender's best hyper-parameters on the validation items; run it again to go on. For example: "
        "catwalk tune --config configs/tune/vbpr.yaml --dataset data/synthetic",
        arguments,
    )


def _verify_images(arguments: list[str]) -> None:
    from catwalk.cli.verify import verify

    if not arguments:
        raise CatwalkError(
            "folder is missing: catwalk attack verify FOLDER DATASET, a folder of attacked images, and the clean shop's"
        )
    if not _run_function("attack verify", "FOLDER DATASET [--epsilon 8] [OPTION ...]", verify, arguments):
        raise SystemExit(NOT_AS_CLAIMED)


def _run_attack(arguments: list[str]) -> None:
    if arguments[:1] == ["curve"]:
        _draw_curve(arguments[1:])
        return
    if arguments[:1] == ["verify"]:
        _verify_images(arguments[1:])
        return
    from catwalk.poisoning.attack_images import attack_images

    _run_configured(
        "attack",
        attack_images,
        "Attack the images of a category, write them as a shop would receive them, and print what a CNN takes them "
        "for. For example: catwalk attack --config configs/images/pgd8.yaml --source Sandal --target Bag",
        arguments,
    )


def _run_defend(arguments: list[str]) -> None:
    from catwalk.cli.defend import defend

    if not arguments:
        raise CatwalkError(
            "checkpoint is missing: catwalk defend CHECKPOINT OUTPUT --config configs/processing/jpeg75.yaml"
        )
    usage = "CHECKPOINT OUTPUT [--config FILE ...] [--operations LIST]"
    _run_function("defend", usage, defend, arguments, configured=True)


def _run_detect(arguments: list[str]) -> None:
    from catwalk.detection.command import detect

    _run_configured(
        "detect",
        detect,
        "Judge detectors of poisoned uploads by the images of attacks, and print how many they find at how many false "
        "alarms. For example: catwalk detect --config configs/detect/demo.yaml --attacked '[runs/images/pgd8]'",
        arguments,
    )


def _draw_curve(arguments: list[str]) -> None:
    from catwalk.cli.attack_curve import curve

    if not arguments:
        raise CatwalkError("folder is missing: catwalk attack curve FOLDER, which `catwalk attack` wrote")
    _run_function("attack curve", "FOLDER [--beside FOLDERS] [--output FILE]", curve, arguments)


def _run_configured(command: str, function: Callable[..., object], description: str, arguments: list[str]) -> None:
    """Call a function whose arguments may stand in YAML files."""
    from catwalk.configuration import notices as known_notices
    from catwalk.configuration.parsers import CatwalkParser

    parser = CatwalkParser(
        prog=f"catwalk {command}",
        usage=f"catwalk {command} [--config FILE ...] [OPTION ...]",
        description=description,
    )
    parser.add_argument("--config", action="config", help="A YAML file with options; several stack.")
    parser.add_function_arguments(function, as_group=False)
    with _told_in_a_line(lambda: list(inspect.signature(function).parameters), arguments):
        settings = parser.parse_args(arguments)
    settings.pop("config")
    known_notices.hide()
    function(**_made(parser, settings))


def _made(parser: Any, settings: Any) -> dict[str, Any]:
    """Return the arguments that a parser makes of settings, and say in one line what a class refuses."""
    from catwalk.configuration.messages import one_line
    from catwalk.configuration.parsers import instantiate

    try:
        return vars(instantiate(parser, settings))
    except ValueError as error:
        if not str(error).startswith("Does not validate against any of the Union subtypes"):
            raise
        raise CatwalkError(one_line(str(error))) from error  # jsonargparse wraps what a class raises in a list


@contextlib.contextmanager
def _told_in_a_line(options: Callable[[], list[str]], arguments: Sequence[str] = ()) -> Iterator[None]:
    """Make one line of what a parser refuses.

    Args:
        options: Returns the names of the options that the command has.
        arguments: What stands on the command line.

    Raises:
        CatwalkError: With that line.
    """
    try:
        yield
    except ArgumentError as error:
        from catwalk.configuration.messages import one_line

        raise CatwalkError(one_line(str(error), options=options(), arguments=arguments)) from error


@contextlib.contextmanager
def _process_arguments(arguments: list[str]) -> Iterator[None]:
    """Let the process's own arguments be these: DDP starts its other processes with them."""
    saved = sys.argv
    sys.argv = [saved[0], *arguments]
    try:
        yield
    finally:
        sys.argv = saved
