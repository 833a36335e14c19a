"""Folders in which results are made aside, until they are whole, and what killed runs leave of them."""

import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def partial_folder(parent: Path) -> Iterator[Path]:
    """Give a new folder of this process's own, in which a result is made until it can be moved into its place.

    What is left there in the end is removed; after an error, so is what did not exist before.
    """
    folder = parent / f"{_host()}-{os.getpid()}-{uuid.uuid4().hex}"
    created = [place for place in (parent, *parent.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True)
    except FileNotFoundError:  # another run has just removed the parent, which was empty
        folder.mkdir(parents=True)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # a folder that holds something by now
            for place in created:
                place.rmdir()
        raise
    shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(parent: Path) -> None:
    """Remove what killed runs left half-done, and nothing else."""
    pattern = re.compile(re.escape(_host()) + r"-(\d{1,9})-[0-9a-f]{32}")
    for folder in parent.glob("*"):
        name = pattern.fullmatch(folder.name)
        if name and not _is_running(int(name[1])):
            shutil.rmtree(folder, ignore_errors=True)


def _host() -> str:
    """Return this machine's name: a folder may be shared by several, and process numbers are each machine's own."""
    return platform.node().replace("-", "_") or "localhost"


def _is_running(process: int) -> bool:
    """Return whether a process of this machine runs."""
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, and is another user's
        return True
    return True
