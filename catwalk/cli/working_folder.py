"""The working folder as a place for a user's own modules."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The folder that holds our packages, the one that has been imported from: a checkout, or ``site-packages``."""


@contextlib.contextmanager
def working_folder_last() -> Iterator[None]:
    """Let modules in the working folder be imported, behind everybody else's.

    A console script does not look there at all. ``PYTHONPATH=.`` and ``python -m`` look there first, where a folder of
    that name hides our ``callbacks`` or ``datamodules``. Processes that are started meanwhile get the same path, or
    make their own in the same way.
    """
    saved = list(sys.path)
    here = Path.cwd()
    if here != ROOT:  # in the checkout itself the path is right
        sys.path[:] = [entry for entry in sys.path if not _is_same(entry, here)]
        # An editable install is found by a hook that asks behind the path: on it, our packages go before the folder's.
        if not any(_is_same(entry, ROOT) for entry in sys.path):
            sys.path.append(str(ROOT))
        sys.path.append(str(here))
    try:
        yield
    finally:
        sys.path[:] = saved


def _is_same(entry: str, folder: Path) -> bool:
    """Return whether an entry of the path, "" for the working folder, is a folder."""
    return Path(entry or ".").resolve() == folder.resolve()
