"""Results on disk under the hash of everything that they depend on."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from catwalk.partial_folders import partial_folder, remove_leftovers

RECORD_FILE = "stage.json"


class StageCache:
    """A folder of stage results, each written once, whole, and never changed.

    A result is made in a folder aside, flushed to the disk and renamed into its place, so that what stands there is
    complete, whenever a run was killed.

    Args:
        folder: Where the results live.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._partial = folder / ".partial"

    def path(self, stage: str, key: str) -> Path:
        """Return the folder of a result, whether it exists yet or not."""
        return self.folder / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Return whether a result is there."""
        return (self.path(stage, key) / RECORD_FILE).is_file()

    def write(self, stage: str, key: str, make: Callable[[Path], Mapping[str, Any]]) -> None:
        """Let ``make`` fill a folder, add what it returns as ``stage.json``, and put the folder in its place."""
        target = self.path(stage, key)
        with partial_folder(self._partial) as partial:
            record = make(partial)
            (partial / RECORD_FILE).write_text(json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
            for path in [*partial.rglob("*"), partial]:
                _flush(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.rename(target)
            except OSError:
                if not self.has(stage, key):  # else another run was faster, with the same result
                    raise
            _flush(target.parent)

    def read(self, stage: str, key: str) -> dict[str, Any]:
        """Return the ``stage.json`` of a result."""
        return json.loads((self.path(stage, key) / RECORD_FILE).read_text())

    def remove_leftovers(self) -> None:
        """Remove what killed runs left half-done."""
        remove_leftovers(self._partial)


def _flush(path: Path) -> None:
    """Make sure that a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
