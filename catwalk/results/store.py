"""Results on disk under the hash of everything that they depend on, believed by their content alone."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from catwalk.errors import CatwalkError
from catwalk.files.atomic import flush, write_text
from catwalk.files.locks import locked
from catwalk.files.partial_folders import partial_folder, remove_leftovers
from catwalk.files.watched import FileState, WatchedFiles, watch
from catwalk.results.reasons import why_again
from catwalk.results.record import (
    RECORD_FILE,
    STORAGE,
    Origin,
    Record,
    damage_of_files,
    damage_of_record,
    read_record,
    write_record,
)
from catwalk.results.remote import RemoteStore

STORE = Path("runs/cache")
"""Where results are kept unless another place is given: that of studies which write to ``runs``."""

DAMAGED, PARTIAL, LOCKS, VERIFIED = "damaged", ".partial", ".locks", ".verified"
"""Folders of a store that hold no results."""

Tell = Callable[[str], None]


def say_nothing(line: str) -> None:
    """Tell nobody."""


class Result(NamedTuple):
    """A result that was found whole and as it was written.

    Attributes:
        record: Its metrics.
        files: Its files, as they were when they were checked.
        sha256: The hash of its record, and so of them.
    """

    record: dict[str, Any]
    files: WatchedFiles
    sha256: str


class Entry(NamedTuple):
    """A result that is in the store, sound or not.

    Attributes:
        folder: Where it is.
        record: What it says of itself.
        written: When it was, in seconds since 1970.
    """

    folder: Path
    record: Record
    written: float


class NewResult:
    """A result that is being made.

    Attributes:
        folder: Receives its files.
        metrics: What its record is to say of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values: dict[str, Any] = {}


class StageCache:
    """A folder of results, each written once, whole, and never changed.

    A result is made in a folder aside, flushed to the disk and renamed into its place, so that what stands there is
    complete, whenever a run was killed. ``stage.json`` has the size and the SHA-256 of every file and of itself; they
    are compared before a result is taken. What is damaged or incomplete is set aside in ``damaged/``, and made again.
    A file whose hash was compared before, and whose size and times are still those, is not read again.

    Args:
        folder: Where the results live.
        tell: Called with a line about each result that was set aside, is waited for, or is made again because one of
            its inputs has changed.
        verify: Whether to compare the hashes of all files that are taken, whatever was compared before.
        read_only: Whether to leave everything as it is: what is damaged counts as not there.
        remote: Another store, of which this one is the mirror on this machine: what is missing here is brought from
            there, and what is made here is written there.

    A cache can be pickled; in another process it tells nobody, unless somebody there sets its ``tell``.
    """

    def __init__(
        self,
        folder: Path,
        tell: Tell = say_nothing,
        verify: bool = False,
        read_only: bool = False,
        remote: RemoteStore | None = None,
    ) -> None:
        self.folder = folder
        self._read_only = read_only
        self._remote = remote
        self._partial = folder / PARTIAL
        self.tell: Tell = tell
        self._verify = verify
        self._taken: dict[tuple[str, str], Result] = {}
        self._damaged: set[tuple[str, str]] = set()
        self._damaged_there: set[tuple[str, str]] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind who listens here."""
        return {**vars(self), "tell": say_nothing}

    def path(self, stage: str, key: str) -> Path:
        """Return the folder of a result, whether it exists yet or not."""
        return self.folder / stage / key

    def take(self, stage: str, key: str, description: str | None = None) -> Result | None:
        """Return a result, whose files are checked the first time; None where there is none that is sound.

        Args:
            stage: What kind of result.
            key: Its key.
            description: What to call it where it is damaged.
        """
        result, damage = self._look(stage, key)
        if result is None and not self._read_only and (damage is not None or self._there(stage, key) is not None):
            # Not while another run is about to put it right.
            with self._alone(stage, key, description):
                result = self._settled(stage, key, description)
        return result

    def _settled(self, stage: str, key: str, description: str | None) -> Result | None:
        """Return a result that nobody else is at: one that is damaged is set aside, one that is missing is brought."""
        result, damage = self._look(stage, key)
        if damage is not None:
            self._set_aside(stage, key, damage, description)
        if result is None and self._bring(stage, key):
            result, damage = self._look(stage, key)
            if damage is not None:
                self._damaged_there.add((stage, key))
                self._set_aside(stage, key, damage, description)
        return result

    def _there(self, stage: str, key: str) -> Record | None:
        """Return the record of a result in the other store, if there is one, and it was not found to be damaged."""
        if self._remote is None or (stage, key) in self._damaged_there:
            return None
        return self._remote.record(stage, key)

    def _bring(self, stage: str, key: str) -> bool:
        """Bring a result from the other store; return whether there is one."""
        record = self._there(stage, key)
        if record is None:
            return False
        assert self._remote is not None
        with partial_folder(self._partial) as partial:
            self._remote.pull(stage, key, record, partial)
            for path in [*partial.rglob("*"), partial]:
                flush(path)
            self._put(partial, stage, key)
        return True

    def _put(self, partial: Path, stage: str, key: str) -> None:
        """Put a folder that is complete in its place."""
        target = self.path(stage, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(target)
        flush(target.parent)

    def share(self, stage: str, key: str) -> None:
        """Write a result that is here to the other store, if there is one that has it not; the first one stays there.

        Raises:
            CatwalkError: If that store does not take it.
        """
        if self._remote is not None and self._there(stage, key) is None:
            record = read_record(self.path(stage, key))
            if record is not None:
                again = (stage, key) in self._damaged_there
                self._remote.push(stage, key, record, self.path(stage, key), again=again)
                self._damaged_there.discard((stage, key))

    def damage(self, stage: str, key: str) -> str | None:
        """Return what is wrong with a result; None if it is sound or is not there. Nothing is moved."""
        return self._look(stage, key)[1]

    def _look(self, stage: str, key: str) -> tuple[Result | None, str | None]:
        """Return a result if it is sound, and what is wrong with it if it is not."""
        taken, folder = self._taken.get((stage, key)), self.path(stage, key)
        if taken is not None or not os.path.lexists(folder):
            return taken, None
        record = read_record(folder)
        damage = damage_of_record(record, stage, key)
        if record is None or damage is not None:
            return None, damage
        # Other files may come to stand beside them, such as features in another type.
        files = watch(*(folder / name for name in [RECORD_FILE, *record["files"]]))
        damage = damage_of_files(folder, record["files"], self._verified(stage, key, record))
        if damage is not None:
            return None, damage
        self._note_verified(stage, key, record, files)
        result = Result({name: value for name, value in record.items() if name not in STORAGE}, files, record["sha256"])
        self._taken[stage, key] = result
        return result, None

    def _verified(self, stage: str, key: str, record: Record) -> dict[str, FileState] | None:
        """Return the states in which the files of a result had the hashes of its record, by name."""
        if self._verify:
            return None
        try:
            noted = json.loads(self._note(stage, key).read_text(encoding="utf-8"))
            states = {name: FileState(*state) for name, state in noted["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return states if noted["record"] == record["sha256"] else None

    def _note_verified(self, stage: str, key: str, record: Record, files: WatchedFiles) -> None:
        """Note the states of a result's files, whose hashes have just been compared."""
        folder, states = self.path(stage, key), files.states
        if self._read_only:
            return
        noted = {name: states[folder / name] for name in record["files"]}
        text = json.dumps({"record": record["sha256"], "files": noted}) + "\n"
        place = self._note(stage, key)
        with suppress(OSError):  # a store that may only be read is checked anew every time
            if files.written() is None and not (place.is_file() and place.read_text(encoding="utf-8") == text):
                write_text(place, text)

    def _note(self, stage: str, key: str) -> Path:
        return self.folder / VERIFIED / f"{stage}-{key}.json"

    def has(self, stage: str, key: str) -> bool:
        """Return whether a result is there, whole and as it was written."""
        return self.take(stage, key) is not None

    def read(self, stage: str, key: str) -> dict[str, Any]:
        """Return what a result's ``stage.json`` says of it.

        Raises:
            CatwalkError: If there is no sound result.
        """
        return self._required(stage, key).record

    def digest(self, stage: str, key: str) -> str:
        """Return the SHA-256 of what a result's ``stage.json`` says, the hashes of its files included.

        Raises:
            CatwalkError: If there is no sound result.
        """
        return self._required(stage, key).sha256

    def _required(self, stage: str, key: str) -> Result:
        result = self.take(stage, key)
        if result is None:
            raise CatwalkError(f"{self.path(stage, key)} has gone or was damaged meanwhile: run the same command again")
        return result

    def write(
        self,
        stage: str,
        key: str,
        make: Callable[[Path], Mapping[str, Any]],
        description: str | None = None,
        origin: Origin | None = None,
    ) -> bool:
        """Let ``make`` fill a folder, add what it returns to ``stage.json``, and put the folder in its place.

        Args:
            stage: What kind of result.
            key: Its key.
            make: Fills a folder and returns the metrics.
            description: See :meth:`making`.
            origin: See there.

        Returns:
            Whether it was made here.
        """
        with self.making(stage, key, description, origin) as new:
            if new is not None:
                new.values |= make(new.folder)
        return new is not None

    @contextmanager
    def making(
        self,
        stage: str,
        key: str,
        description: str | None = None,
        origin: Origin | None = None,
        *,
        wait: bool = True,
    ) -> Iterator[NewResult | None]:
        """Give a result to be made, which is put in its place when the block ends without error.

        Of several runs that would make the same at once, on one machine, the others wait for the first and take what it
        has made.

        Args:
            stage: What kind of result.
            key: Its key.
            description: What to call it on the screen.
            origin: What it is made of, by which a later run knows why it is made again.
            wait: Whether to wait for another run that is making it.

        Yields:
            The result to make; None where it is there, whole, by now.

        Raises:
            LockedError: If another run is making it, and ``wait`` is False.
        """
        with self._alone(stage, key, description, wait=wait):
            if self._settled(stage, key, description) is not None:
                self.share(stage, key)
                yield None
                return
            if origin is not None and (stage, key) not in self._damaged:
                self._tell_why(stage, description or f"{stage} {key}", origin)
            with partial_folder(self._partial) as partial:
                new = NewResult(partial)
                yield new
                record = {**new.values, "stage": stage, "key": key}
                if origin is not None:
                    record |= {"title": origin.title, **vars(origin.inputs)}
                write_record(partial, record)
                self._put(partial, stage, key)
            self.share(stage, key)

    def _tell_why(self, stage: str, what: str, origin: Origin) -> None:
        """Tell which inputs have changed since an earlier result was made, if there is one."""
        before = origin.before or self._latest(stage, origin.title)
        if before is not None:
            self.tell(f"{what}: again, because {why_again(before, origin.inputs)}")

    def _latest(self, stage: str, title: str) -> Record | None:
        """Return the record of the latest result with a title; None if there is none."""
        found = [entry for entry in self.entries(stage) if entry.record.get("title") == title]
        return max(found, key=lambda entry: entry.written).record if found else None

    def entries(self, stage: str) -> Iterator[Entry]:
        """Yield all results of a kind whose records are as they were written; their files are not looked at."""
        for folder in sorted((self.folder / stage).glob("*")):
            record = read_record(folder)
            if record is not None and damage_of_record(record, stage, folder.name) is None:
                with suppress(OSError):  # it has been set aside meanwhile
                    yield Entry(folder, record, (folder / RECORD_FILE).stat().st_mtime)

    @contextmanager
    def _alone(self, stage: str, key: str, description: str | None, *, wait: bool = True) -> Iterator[None]:
        """Keep other runs out of a result, and wait for one that is in it; a failure leaves no new folders."""
        locks = self.folder / LOCKS
        created = [place for place in (locks, *locks.parents) if not place.exists()]

        def waiting(holder: str) -> None:
            self.tell(f"{description or f'{stage} {key}'}: waits for {holder}, which is making it")

        try:
            with locked(locks / f"{stage}-{key}", waiting=waiting, wait=wait):
                yield
        except BaseException:
            with suppress(OSError):  # a folder that holds something by now
                for place in created:
                    place.rmdir()
            raise

    def _set_aside(self, stage: str, key: str, damage: str, description: str | None) -> None:
        folder, number = self.path(stage, key), 1
        while os.path.lexists(place := self.folder / DAMAGED / f"{stage}-{key}-{number}"):
            number += 1
        place.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(place)
        self._damaged.add((stage, key))
        what = description or f"{stage} {key}"
        self.tell(f"{what}: {damage} in {folder}; it is set aside in {place} and made again")

    @contextmanager
    def aside(self) -> Iterator[Path]:
        """Give a folder for what a run needs as long as it lasts; a killed run's is removed by a later one."""
        created = [place for place in (self._partial, *self._partial.parents) if not place.exists()]
        try:
            with partial_folder(self._partial) as folder:
                yield folder
        finally:
            with suppress(OSError):  # a folder that holds something by now
                for place in created:
                    place.rmdir()

    def remove_leftovers(self) -> None:
        """Remove what killed runs left half-done."""
        remove_leftovers(self._partial)
