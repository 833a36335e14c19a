"""Files that are whole whenever they are there: written aside in their own folder, flushed, and renamed."""

import errno
import io
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from catwalk.files.partial_folders import is_leftover, own_name

MARK = ".partial"
"""End of the name of an unfinished file."""

CANNOT_FLUSH = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}
"""Errors of disks that cannot be told to flush a file."""

_cleaned: set[Path] = set()
_cleaning = threading.Lock()


@contextmanager
def written_aside(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Give the path of a new file in the folder of ``path``, which takes its place when the block ends without error.

    Until then, and for good after an error or a kill, ``path`` is what it was. The file has the permissions that an
    ordinary new file would have, or those of the one that it replaces; a symbolic link stays, and what it leads to is
    replaced. The name aside has no suffix of ``path``. What killed runs of this machine left in the folder is removed.

    Args:
        path: The file to write; its folder is made if need be. What is there and is no file, such as a pipe or a
            device, is handed out itself.
        durable: Whether to flush the file. Not where a whole folder is made aside, which is flushed as one.

    Raises:
        OSError: With ``path`` as its file name: whatever keeps the file from being written, also where the writer says
            so in another way (PyTorch, safetensors), or names no file or the one aside; and for a folder or a
            write-protected file in the place. Errors that name another file stay as they are.
    """
    path = Path(path)
    final = Path(os.path.realpath(path))
    aside: Path | None = None
    try:
        status = _status(final)
        if status is not None and not stat.S_ISREG(status.st_mode):
            if stat.S_ISDIR(status.st_mode):
                raise _os_error(errno.EISDIR, path)
            yield path
            return
        if status is not None:  # a write-protected file is not replaced either
            os.close(os.open(final, os.O_WRONLY))
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(final.parent)
        aside = final.with_name(f".{own_name()}{MARK}")
        # So that umask and the folder's own rules say who may read it.
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            mode = stat.S_IMODE(os.fstat(handle).st_mode if status is None else status.st_mode)
        finally:
            os.close(handle)
        yield aside
        if stat.S_IMODE(aside.stat().st_mode) != mode:
            with suppress(OSError):  # on disks without permissions
                aside.chmod(mode)
        if status is not None and (status.st_uid, status.st_gid) != (aside.stat().st_uid, aside.stat().st_gid):
            with suppress(OSError):
                os.chown(aside, status.st_uid, status.st_gid)
        if durable:
            flush(aside)
        aside.replace(final)
    except Exception as error:
        cause = as_os_error(error)
        if cause is None or cause.filename not in (None, str(aside), str(final)):
            raise
        assert cause.errno is not None
        raise _os_error(cause.errno, path) from error
    finally:
        if aside is not None:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
    if durable:
        with suppress(OSError):  # the file itself is there
            flush(final.parent)


@contextmanager
def open_text(path: str | Path) -> Iterator[TextIO]:
    r"""Open a UTF-8 file like :func:`written_aside`; line endings are written as they are given."""
    with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        yield file


@contextmanager
def open_bytes(path: str | Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a binary file like :func:`written_aside`."""
    with written_aside(path, durable=durable) as aside, aside.open("wb") as file:
        yield file


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file like :func:`written_aside`, with the line endings of the text."""
    write_bytes(path, text.encode())


def write_bytes(
    path: str | Path, content: "bytes | bytearray | memoryview | io.BytesIO", *, durable: bool = True
) -> None:
    """Write a file like :func:`written_aside`.

    Args:
        path: The file.
        content: What it is to hold; of a buffer all, wherever it stands.
        durable: See there.
    """
    with open_bytes(path, durable=durable) as file:
        file.write(content.getbuffer() if isinstance(content, io.BytesIO) else content)


def flush(path: Path) -> None:
    """Bring a file, or a folder's list of names, from the system's memory to the disk, where the disk knows how to.

    Raises:
        OSError: If the disk is full or broken, which some disks say only now.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in CANNOT_FLUSH:
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(handle)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files that killed runs left in a folder, once in the life of this process."""
    with _cleaning:
        if folder in _cleaned:
            return
        _cleaned.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(MARK) and is_leftover(entry.name.removesuffix(MARK)[1:]):
                with suppress(OSError):
                    os.unlink(entry.path)


def _os_error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


def as_os_error(error: BaseException) -> OSError | None:
    """Return what the system refused, if that is what an error tells of: libraries say so in ways of their own.

    Returns:
        An OSError with a number; None where the error is none of a file or a disk.
    """
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return error
    if found := re.search(r"\(os error (\d+)\)", text):  # libraries in Rust, such as safetensors
        return OSError(int(found[1]), os.strerror(int(found[1])))
    if any(words in text for words in ("inline_container", "PytorchStreamWriter", "iostream error")):  # torch.save
        if isinstance(error.__context__, OSError) and error.__context__.errno is not None:
            return error.__context__
        return OSError(errno.EIO, os.strerror(errno.EIO))  # it does not say why
    if isinstance(error, OSError) and "when writing image file" in text:  # Pillow, likewise
        return OSError(errno.EIO, os.strerror(errno.EIO))
    return None
