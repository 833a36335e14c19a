"""The command line: ``catwalk fit|validate|test|predict`` (LightningCLI), ``catwalk data`` and ``catwalk study``."""

import contextlib
import sys
import textwrap
from argparse import ArgumentError
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NoReturn

from catwalk import __version__
from catwalk.errors import CatwalkError

OVERVIEW = """\
usage: catwalk [-h] [--version] COMMAND ...

What adversarially poisoned product images do to visual recommenders, and what defends them.

make a dataset folder
  data       import or generate a shop: items, images, purchases

the whole experiment
  study      run a grid of networks × attacks × recommenders × seeds and print its tables

one step of it (LightningCLI; every option can stand in a YAML file, and several --config stack)
  fit        train a CNN on product images, or a recommender on purchases
  validate   measure it on the validation split
  test       measure it on the test split
  predict    write what it computes: the features of every item, the recommendations of every user

`catwalk COMMAND --help` explains a command. `--config configs/…` finds the configurations that come with Catwalk
from any folder. Exit codes: 0 done, 2 something that you can mend (one line says what), 1 a bug of ours."""

LIGHTNING_COMMANDS = ("fit", "validate", "test", "predict")


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: What follows ``catwalk`` on the command line; the process's own arguments by default.

    Raises:
        SystemExit: With code 2 and one line on stderr for what the user can mend.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    try:
        _dispatch(arguments)
    except (CatwalkError, ArgumentError) as error:
        _fail(str(error))


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(OVERVIEW)
        if not arguments:
            raise SystemExit(2)
        return
    command, rest = arguments[0], find_shipped_configs(arguments[1:])
    if command == "--version":
        print(f"catwalk {__version__}")
    elif command in LIGHTNING_COMMANDS:
        _run_lightning([command, *rest])
    elif command == "data":
        _run_importer(rest)
    elif command == "study":
        _run_study(rest)
    else:
        raise CatwalkError(f"there is no command {command!r}; `catwalk --help` lists them")


def _run_lightning(arguments: list[str]) -> None:
    from catwalk.lightning_cli import CatwalkCLI

    with _process_arguments(arguments):
        CatwalkCLI()


def _run_importer(arguments: list[str]) -> None:
    from jsonargparse import ArgumentParser

    from datamodules.importers import IMPORTERS

    parser = ArgumentParser(
        prog="catwalk data",
        description="Write a dataset folder: items.csv, interactions.csv, images and dataset.json.",
        exit_on_error=False,
    )
    commands = parser.add_subcommands(dest="importer")
    for name, importer in IMPORTERS.items():
        summary = (importer.__doc__ or "").strip().splitlines()[0]
        subparser = ArgumentParser(description=summary, exit_on_error=False)
        subparser.add_function_arguments(importer, as_positional=True)
        commands.add_subcommand(name, subparser, help=summary)
    settings = parser.parse_args(arguments)
    IMPORTERS[settings.importer](**parser.instantiate_classes(settings)[settings.importer].as_dict())


def _run_study(arguments: list[str]) -> None:
    from jsonargparse import ArgumentParser

    from catwalk.study import run_study

    parser = ArgumentParser(
        prog="catwalk study",
        description="Run a grid of networks × attacks × recommenders × seeds, write and print its tables.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="A study's YAML file; several stack.")
    parser.add_function_arguments(run_study)
    settings = parser.parse_args(arguments)
    settings.pop("config")
    run_study(**vars(parser.instantiate_classes(settings)))


def find_shipped_configs(arguments: Sequence[str]) -> list[str]:
    """Replace ``--config configs/…`` by the file that comes with Catwalk, where there is none in this folder."""
    found = []
    for position, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if equals and option in ("-c", "--config"):
            found.append(f"{option}={_shipped(value)}")
        elif position and arguments[position - 1] in ("-c", "--config"):
            found.append(_shipped(argument))
        else:
            found.append(argument)
    return found


def _shipped(path: str) -> str:
    parts = Path(path).parts
    if Path(path).exists() or parts[:1] != ("configs",):
        return path
    shipped = Path(str(files("configs"))).joinpath(*parts[1:])
    return str(shipped) if shipped.is_file() else path


@contextlib.contextmanager
def _process_arguments(arguments: list[str]):  # type: ignore[no-untyped-def]
    """Let the process's own arguments be these: DDP starts its other processes with them."""
    saved = sys.argv
    sys.argv = [saved[0], *arguments]
    try:
        yield
    finally:
        sys.argv = saved


def _fail(message: str) -> NoReturn:
    """End with one line and exit code 2."""
    line = " ".join(message.split())
    print(f"catwalk: error: {textwrap.shorten(line, 2000, placeholder=' …')}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
