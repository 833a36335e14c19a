"""The command line: ``catwalk fit|validate|test|predict`` (LightningCLI), ``data``, ``study`` and the others."""

import contextlib
import errno
import os
import signal
import sys
import tempfile
import textwrap
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from catwalk.cli import commands
from catwalk.cli.configs import find_shipped_configs
from catwalk.cli.working_folder import working_folder_last
from catwalk.errors import CatwalkError
from catwalk.files.atomic import as_os_error
from catwalk.terminal import screen_text
from catwalk.terminal.peers import OtherProcessError
from catwalk.terminal.screen_text import printable
from catwalk.terminal.stopping import Stopped, sigterm_raises, stopped_by

OVERVIEW = """\
usage: catwalk [-h] [--version] COMMAND ...

What adversarially poisoned product images do to visual recommenders, and what defends them.

make a dataset folder
  data       import or generate a shop (items, images, purchases), or show what one holds

the whole experiment
  study      run a grid of networks × attacks × recommenders × seeds and print its tables; `study compare` two of them
  report     make a finished study's plots and its report again, one page to read without a network
  results    what studies and attacks have left on disk: list it, verify it, remove what no study uses

images alone
  defend     put a trained network behind input operations, such as JPEG compression; nothing is trained
  attack     attack a category's images and measure what a CNN takes them for; no purchases, no recommender;
             `attack curve` tells which ε suffices for which share of them, and `attack verify` judges images that
             others have attacked: budget, success, distances
  detect     judge detectors of poisoned uploads by the images of attacks

before it, for fair metrics
  tune       search for a recommender's best hyper-parameters on the validation items

one step of it (LightningCLI; every option can stand in a YAML file, and several --config stack)
  fit        train a CNN on product images, or a recommender on purchases
  validate   measure it on the validation split
  test       measure it on the test split
  predict    write what it computes: the features of every item, the recommendations of every user

`catwalk COMMAND --help` explains a command. `--config configs/…` finds the configurations that come with Catwalk
from any folder; `catwalk study init DATASET` writes the first one of your own. A class of your own is named as
module.Class, where module.py is in this folder. Exit codes: 0 done, 2 something that you can mend (one line says
what), 1 a bug of ours, 3 the verdicts of two studies differ (`study compare`) or an image is not within its budget
(`attack verify`), 130 stopped by Ctrl-C, 143 stopped by SIGTERM; the line then says how to go on."""

GO_ON = {
    **dict.fromkeys(commands.LIGHTNING_COMMANDS, "run the same command again"),
    **dict.fromkeys(
        ("attack", "data", "defend", "detect", "report", "results"),
        "nothing is left half-done: run the same command again",
    ),
    "study": "the same command goes on with what is left to do",
    "tune": "the same command goes on with the trial that it was at",
}
"""Advice after a command was stopped, where the command does not say more."""

DISK_TROUBLE: set[int] = {
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "ENOTDIR", "EISDIR", "ENOENT", "ENAMETOOLONG"),
        *("ELOOP", "EIO", "EMFILE", "ENFILE", "EBUSY", "ESTALE", "ENODEV", "ENXIO", "ENOLCK", "ETIMEDOUT", "EILSEQ"),
        "EEXIST",
    )
}
"""Errors of files, folders and disks that a user can mend."""

REMEDIES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room within your quota of that disk",
    errno.EMFILE: "allow more open files, as with `ulimit -n 4096`",
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: What follows ``catwalk`` on the command line; the process's own arguments by default.

    Raises:
        SystemExit: With code 2 and one line on stderr for what the user can mend; with code 130 after Ctrl-C and 143
            after SIGTERM, and a line that says how to go on; quietly with code 141 where nobody reads the output.
    """
    screen_text.protect()
    arguments = list(sys.argv[1:] if args is None else args)
    with sigterm_raises() as sigterm_came:
        try:
            with working_folder_last():
                _dispatch(arguments)
            if sys.stdout is not None:
                sys.stdout.flush()
        except BaseException as error:
            if isinstance(error, OtherProcessError):  # for which a launcher may have sent SIGTERM
                _fail(str(error), error.code)
            number = signal.SIGTERM if sigterm_came() else stopped_by(error)
            if number is not None:
                _stop(number, arguments, error.advice if isinstance(error, Stopped) else "")
            _report(error)
            raise
        if sigterm_came():  # somebody has swallowed it
            _stop(signal.SIGTERM, arguments, "")


def _report(error: BaseException) -> None:
    """End with one line, if an error is something that the user can mend."""
    from catwalk.configuration.messages import one_line

    if isinstance(error, CatwalkError):
        _fail(str(error))
    if isinstance(error, ArgumentError):
        _fail(one_line(str(error)))
    # As of `catwalk … | head`, where rich exits with code 1.
    broken = error.__context__ if isinstance(error, SystemExit) else error
    if isinstance(broken, BrokenPipeError) and broken.filename is None:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE)
    refused = as_os_error(error)
    number = None if refused is None else refused.errno
    if refused is not None and number in DISK_TROUBLE and (refused.filename or number != errno.ENOENT):
        place = refused.filename if refused.filename is not None else _likely_place(number)
        remedy = REMEDIES.get(number)
        _fail(f"{place}: {refused.strerror}{f'; {remedy}, and run the command again' if remedy else ''}")


def _likely_place(number: int) -> str:
    """Return where something went wrong that names no file: a folder whose disk is full, or the current one."""
    here = str(Path.cwd())
    if number == errno.ENOSPC:
        for folder in (here, tempfile.gettempdir(), str(Path.home())):
            with contextlib.suppress(OSError):
                if os.statvfs(folder).f_bavail == 0:
                    return folder
    return here


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(OVERVIEW)
        if not arguments:
            raise SystemExit(2)
        return
    with _never_silent(arguments[0]):
        commands.run(arguments[0], find_shipped_configs(arguments[1:]))


@contextlib.contextmanager
def _never_silent(command: str) -> Iterator[None]:
    """Write a line every so often into a log, whatever a command does that has no bar of its own."""
    from rich.console import Console
    from rich.markup import escape

    from catwalk.terminal.progress import Progress

    if os.environ.get("LOCAL_RANK", "0") != "0":  # the first of several processes speaks for all
        yield
        return
    # Beside what the command shows otherwise: an importer's bars are on stderr.
    with Progress(console=Console(stderr=command == "data"), disable=True) as progress:
        progress.add_task(f"catwalk {escape(command)}", total=None)
        yield


def _fail(message: str, code: int = 2) -> NoReturn:
    """End with one line and an exit code."""
    line = " ".join(printable(message).split())
    print(f"catwalk: error: {textwrap.shorten(line, 2000, placeholder=' …')}", file=sys.stderr)
    raise SystemExit(code)


def _stop(number: int, arguments: Sequence[str], advice: str) -> NoReturn:
    """End after a signal."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has it ignored
    advice = advice or GO_ON.get(arguments[0] if arguments else "", "")
    if int(os.environ.get("LOCAL_RANK", "0") or 0) == 0:  # of a run's processes one speaks
        print(f"catwalk: stopped{f'; {advice}' if advice else ''}", file=sys.stderr)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
