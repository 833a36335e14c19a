"""A store of results behind a URL, for machines that share no folder."""

import json
import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from catwalk.errors import CatwalkError
from catwalk.results.record import RECORD_FILE, Record, damage_of_record

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
"""Packages that bring fsspec's file systems, by the scheme of their URLs."""


class RemoteStore:
    """Results behind a URL of fsspec, laid out as in a folder: ``KIND/KEY/stage.json`` and the files that it names.

    A result is there when its record is, which is written last. Whoever reads its files compares them with the record.
    Keys and passwords are those of fsspec's file system: of the environment or of its own files, never of the URL.

    Args:
        url: The folder, such as ``s3://bucket/catwalk``. It need not exist.

    Raises:
        CatwalkError: If no file system is known for the URL, or it cannot be had.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._system, self._root = _file_system(url)

    def __reduce__(self) -> "tuple[Callable[[str], RemoteStore], tuple[str]]":
        """Let another process connect by itself."""
        return RemoteStore, (self.url,)

    def record(self, stage: str, key: str) -> Record | None:
        """Return the record of a result; None where there is none, or none that is whole.

        Args:
            stage: What kind of result.
            key: Its key.

        Raises:
            CatwalkError: If the store does not answer.
        """
        with self._asking(f"reading {stage}/{key}/{RECORD_FILE}"):
            try:
                content = self._system.cat_file(self._path(stage, key, RECORD_FILE))
            except FileNotFoundError:
                return None
        try:
            record = json.loads(content)
        except (ValueError, RecursionError):
            return None
        if not isinstance(record, dict) or damage_of_record(record, stage, key) is not None:
            return None
        return record if all(map(_is_below, record["files"])) else None

    def pull(self, stage: str, key: str, record: Record, folder: Path) -> None:
        """Bring a result; whether its files are as they were written, the caller finds out.

        Args:
            stage: What kind of result.
            key: Its key.
            record: Its record.
            folder: An empty folder of this machine; gets the files and the record. What is missing in the store is
                missing there.

        Raises:
            CatwalkError: If the store does not answer.
        """
        names = [*sorted(record["files"]), RECORD_FILE]
        for parent in {(folder / name).parent for name in names}:
            parent.mkdir(parents=True, exist_ok=True)
        far, near = [self._path(stage, key, name) for name in names], [str(folder / name) for name in names]
        with self._asking(f"reading {stage}/{key}"):
            try:
                self._system.get(far, near)
            except FileNotFoundError:
                for there, here in zip(far, near, strict=True):
                    with suppress(FileNotFoundError):
                        self._system.get_file(there, here)

    def push(self, stage: str, key: str, record: Record, folder: Path, *, again: bool = False) -> None:
        """Write a result: its files, and then its record.

        Args:
            stage: What kind of result.
            key: Its key.
            record: Its record.
            folder: Where it is on this machine.
            again: Whether it takes the place of one that is damaged there, whose record is removed first.

        Raises:
            CatwalkError: If the store does not take it.
        """
        names = sorted(record["files"])
        far, near = [self._path(stage, key, name) for name in names], [str(folder / name) for name in names]
        last = self._path(stage, key, RECORD_FILE)
        with self._asking(f"writing {stage}/{key}"):
            if again:
                with suppress(FileNotFoundError):
                    self._system.rm_file(last)
            for parent in {posixpath.dirname(place) for place in [*far, last]}:
                self._system.makedirs(parent, exist_ok=True)
            if names:
                self._system.put(near, far)
            self._system.pipe_file(last, (folder / RECORD_FILE).read_bytes())

    def _path(self, stage: str, key: str, name: str) -> str:
        return posixpath.join(self._root, stage, key, name)

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Make one line of what a file system refuses, each in its own way.

        Raises:
            CatwalkError: With that line.
        """
        try:
            yield
        except Exception as error:
            raise CatwalkError(
                f"store: {self.url}: {what} failed: {_cause(error)}; run the same command again once the store answers"
            ) from error


def _file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    import fsspec  # a tenth of a second, which stores in folders need not wait for

    try:
        system, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = PACKAGES.get(url.partition("://")[0])
        advice = f"run `pip install {package}`" if package else str(error)
        raise CatwalkError(f"store: {url} needs a package that is not installed; {advice}") from error
    except ValueError as error:
        raise CatwalkError(
            f"store: must be a URL that fsspec knows, such as s3://bucket/folder, got {url!r}: {error}"
        ) from error
    except Exception as error:
        raise CatwalkError(f"store: {url} cannot be reached: {_cause(error)}") from error
    return system, root.rstrip("/")


def _is_below(name: str) -> bool:
    """Return whether the name of a file leads to a place in the folder that it is taken from."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _cause(error: Exception) -> str:
    """Return an error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
