"""One result of a study, made once and kept."""

import abc
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from catwalk.errors import CatwalkError, DivergedError, TooLargeError
from catwalk.files.watched import WatchedFiles
from catwalk.results.keys import Inputs, inputs_of
from catwalk.results.record import Origin
from catwalk.results.store import StageCache
from catwalk.study.memory import peak_memory
from catwalk.study.progress import StudyProgress
from catwalk.study.trainer import quiet_lightning


class Stage(abc.ABC):
    """One result of a study, made once and kept in the cache.

    Attributes:
        kind: Folder of the cache, and what kind of result it is.
        description: What the user is shown.
        title: What the result is among those of its kind and dataset, whatever it is made of; the description, unless
            that says more.
        settings: What the result depends on, as plain values; with the code of ``modules`` they make its key.
        modules: Names of the modules that make it.
        inputs: The stages whose results it reads.
        files: Other files that it reads, watched since before their contents entered its settings.
    """

    kind: str
    description: str
    title: str | None = None
    settings: dict[str, Any]
    modules: tuple[str, ...]
    inputs: "tuple[Stage, ...]" = ()
    files: tuple[WatchedFiles, ...] = ()

    def __init__(self, cache: StageCache) -> None:
        self.cache = cache

    @cached_property
    def planned(self) -> Inputs:
        """What the result depends on, as far as it is known before anything runs: keys of what is still to be made."""
        return inputs_of(self.settings, self.modules)

    @property
    def key(self) -> str:
        """What tells the stage from others in the plan of a study, and enters the keys of what is made of it."""
        return self.planned.key

    @property
    def stored(self) -> Inputs:
        """What the result depends on, as the store has it; where that is more than the plan knows, inputs come first.

        Whoever makes such a result in another way than by a study says the same of it.
        """
        return self.planned

    @property
    def place(self) -> str:
        """Where the result stands in the cache."""
        return f"{self.kind}/{self.stored.key}"

    @property
    def folder(self) -> Path:
        """The folder with the result."""
        return self.cache.path(self.kind, self.stored.key)

    @cached_property
    def record(self) -> dict[str, Any]:
        """What was measured, and the seconds and the memory that it took."""
        return self.cache.read(self.kind, self.stored.key)

    @property
    def digest(self) -> str:
        """The hash of the record, and so of the result."""
        return self.cache.digest(self.kind, self.stored.key)

    @property
    def is_done(self) -> bool:
        """Whether the result is there, whole and as it was written."""
        return self.cache.take(self.kind, self.stored.key, self.description) is not None

    @property
    def dataset(self) -> str:
        """Name of the dataset that it is of."""
        return self.inputs[0].dataset

    @property
    def title_in_store(self) -> str:
        """What the store's records call the result, whatever it was made of."""
        return f"{self.dataset}: {self.title or self.description}"

    def run(self, progress: StudyProgress) -> float:
        """Make the result, unless it is there or another run makes it first.

        Returns:
            The seconds that it took whoever made it.

        Raises:
            CatwalkError: If a file that it reads was written meanwhile; nothing is kept then.
        """

        def timed(folder: Path) -> Mapping[str, Any]:
            start = self.now()
            self._require_unchanged()
            try:
                with peak_memory() as peak:
                    values = self.make(folder, progress)
            except (MisconfigurationException, DivergedError, TooLargeError) as error:  # of settings that do not work
                raise CatwalkError(f"{self.description}: {error}") from error
            self._require_unchanged()
            return {**values, "seconds": round(self.now() - start, 3), **vars(peak)}

        with progress.stage(self.description), quiet_lightning():
            origin = Origin(self.title_in_store, self.stored)
            self.cache.write(self.kind, self.stored.key, timed, self.description, origin)
        seconds: float = self.record["seconds"]
        progress.done(self.description, self.outcome, seconds)
        return seconds

    def now(self) -> float:
        """Return the time by which it is measured how long the result takes, in seconds."""
        return time.perf_counter()

    def _require_unchanged(self) -> None:
        """Raise a CatwalkError unless all that the result is made of is as it was when it entered the key."""
        for files in self.files:
            files.require_unchanged(self.description)
        for stage in self.inputs:
            stage.require_sound()

    def require_sound(self) -> None:
        """Raise a CatwalkError if the result, or one that it was made of, was written since it was checked."""
        result = self.cache.take(self.kind, self.stored.key, self.description)
        if result is None:
            raise CatwalkError(f"{self.description}: the result in {self.folder} has gone; run the same command again")
        result.files.require_unchanged(self.description)
        for stage in self.inputs:
            stage.require_sound()

    @abc.abstractmethod
    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Fill the folder and return the metrics."""

    @property
    @abc.abstractmethod
    def outcome(self) -> str:
        """The metrics that a user wants to see when the stage is done."""
