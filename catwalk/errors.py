"""The one exception for what a user can mend."""

from collections.abc import Sequence
from pathlib import Path


class CatwalkError(Exception):
    """Something in the user's data, options or files is wrong, and the message says what and how to mend it.

    The command line prints the message on one line, without a traceback, and exits with code 2. Everything else that
    is raised is a bug of ours and keeps its traceback.
    """


class MissingColumnError(CatwalkError):
    """A table lacks a column.

    Args:
        path: The table.
        column: The column.
        found: The columns that it has, as far as they are known.
    """

    def __init__(self, path: Path, column: str, found: Sequence[str] = ()) -> None:
        super().__init__(f"{path} lacks the column {column!r}" + (f"; it has {', '.join(found)}" if found else ""))
        self.path = path
        self.column = column


class DivergedError(CatwalkError, ValueError):
    """A training has diverged: a loss or a score is NaN or infinite."""


class TooLargeError(CatwalkError):
    """Something takes more memory than the machine has left."""
