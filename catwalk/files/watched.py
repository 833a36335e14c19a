"""Files that must stay as they are between the moment when they were fingerprinted and the end of what reads them."""

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from catwalk.errors import CatwalkError

TICK = 0.05
"""Seconds in which a file system may give two writes the same time; Linux has 0.01 at most."""


class FileState(NamedTuple):
    """What tells, without reading a file, whether it was written since.

    Attributes:
        size: Bytes.
        modified: Time of the last change of its content, in nanoseconds, which programs can set.
        changed: Time of the last change of its content or of what the file system knows of it, which they cannot.
    """

    size: int
    modified: int
    changed: int


def file_state(path: str | Path) -> FileState | None:
    """Return the state of a file; None where there is none."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return FileState(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def wait_for_other_times(states: Iterable[FileState]) -> None:
    """Wait, if files were written just now, until the next write would give them another time."""
    newest = max((state.changed for state in states), default=0)
    if 0 <= time.time_ns() - newest < TICK * 1e9:
        time.sleep(TICK)


class WatchedFiles:
    """The states of some files, taken before they were read.

    A result is kept under the fingerprint of what it was made of. Whoever takes the fingerprint first takes the states,
    and whoever made a result of the files asks afterwards whether they have stayed as they were: if so, what was read
    is what was fingerprinted.

    Args:
        listing: Says which files, by full path; what it lists must not change either. Who wants to pickle it, as for
            another process, gives what can be pickled: no lambda.
    """

    def __init__(self, listing: Callable[[], Iterable[str | Path]]) -> None:
        self._listing = listing
        self._states = self._look()
        wait_for_other_times(state for state in self._states.values() if state is not None)

    def _look(self) -> dict[str, FileState | None]:
        # By text: to make a Path takes longer than to ask for the state, and there may be a hundred thousand.
        return {os.fspath(path): file_state(path) for path in self._listing()}

    @property
    def states(self) -> dict[Path, FileState | None]:
        """The state of each file, as it was taken; None of one that was not there."""
        return {Path(path): state for path, state in self._states.items()}

    def written(self) -> Path | None:
        """Return a file that was written, removed or added since the states were taken; None if there is none."""
        now = self._look()
        if now == self._states:
            return None
        different = {path for path, _ in now.items() ^ self._states.items()}
        return Path(min(different))

    def require_unchanged(self, what: str) -> None:
        """Refuse a result if a file was written, removed or added.

        Args:
            what: What is being made, for the message.

        Raises:
            CatwalkError: If so.
        """
        path = self.written()
        if path is not None:
            raise CatwalkError(
                f"{path} was written, added or removed while this ran, so {what} would not be of what its key says: "
                "nothing of it is kept; run the same command again once the files stay as they are"
            )


def watch(*paths: Path) -> WatchedFiles:
    """Watch single files."""
    return WatchedFiles(partial(tuple, paths))


def watch_named(folder: Path, names: Iterable[str]) -> WatchedFiles:
    """Watch files of a folder by their paths below it."""
    return WatchedFiles(partial(_named, folder, tuple(names)))


def watch_folder(folder: Path, *patterns: str) -> WatchedFiles:
    """Watch the files of a folder that match patterns, and those that come to match them."""
    return WatchedFiles(partial(_matching, folder, patterns))


def _named(folder: Path, names: tuple[str, ...]) -> list[str]:
    return [os.path.join(folder, name) for name in names]


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]
