"""Folders in which results are made aside, until they are whole, and what killed runs leave of them."""

import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def partial_folder(parent: Path) -> Iterator[Path]:
    """Give a new folder of this process's own, in which a result is made until it can be moved into its place.

    What is left there in the end is removed; after an error, so is what did not exist before.

    Args:
        parent: A folder for such folders alone, beside what is to be put in place, such as ``output/.partial``.

    Raises:
        OSError: What a disk refuses within the new folder names the folder in which ``parent`` is.
    """
    folder = parent / own_name()
    created = [place for place in (parent, *parent.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True)
    except FileNotFoundError:  # another run has just removed the parent, which was empty
        folder.mkdir(parents=True)
    try:
        yield folder
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # a folder that holds something by now
            for place in created:
                place.rmdir()
        if (
            isinstance(error, OSError)
            and error.errno is not None
            and str(error.filename).startswith(f"{folder}{os.sep}")
        ):
            raise OSError(error.errno, error.strerror, str(parent.parent)) from error
        raise
    shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(parent: Path) -> None:
    """Remove what killed runs left half-done, and nothing else."""
    for folder in parent.glob("*"):
        if is_leftover(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def own_name() -> str:
    """Return a name that no other process and no other call gives: machine, process, its start, and random digits."""
    process = os.getpid()
    return f"{this_machine()}-{process}-{start_of(process):016x}{secrets.token_hex(8)}"


def is_leftover(name: str) -> bool:
    """Return whether :func:`own_name` gave a name in a process of this machine that does not run any more."""
    found = re.fullmatch(re.escape(this_machine()) + r"-(\d{1,9})-([0-9a-f]{16})[0-9a-f]{16}", name)
    return found is not None and not is_running(int(found[1]), int(found[2], 16))


def this_machine() -> str:
    """Return this machine's name: a folder may be shared by several, and process numbers are each machine's own."""
    return platform.node().replace("-", "_").replace(os.sep, "_") or "localhost"


def is_running(process: int, start: int = 0) -> bool:
    """Return whether a process of this machine runs, and is the one that began at ``start`` where that is not 0."""
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, and is another user's
        pass
    return not start or start_of(process) in (0, start)


def start_of(process: int) -> int:
    """Return when a process of this machine began, by which two of one number differ; 0 where nobody says."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
