"""A lock among processes: one at a time does what must be done once, and the others wait for it."""

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from catwalk.files.partial_folders import is_running, start_of, this_machine

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

PAUSE = 0.1
"""Seconds between two looks at a lock that is taken."""

UNWRITTEN = 60.0
"""Seconds after which a lock that says nothing of its holder is taken for one of a process that was killed."""

TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


class LockedError(Exception):
    """Another process holds a lock; the message says which."""


@contextlib.contextmanager
def locked(path: Path, *, waiting: Callable[[str], None] | None = None, wait: bool = True) -> Iterator[None]:
    """Hold a lock, which one process at a time can, for as long as the block lasts.

    A process that ends, however it ends, holds its locks no longer. On a disk that knows no locks (``flock``), the lock
    is a file that is there or not; there, one that another machine left must be removed by hand. The lock is not
    reentrant: who holds it must not ask for it again.

    Args:
        path: The lock: a file of its own beside what it protects, which is made, with its folder, and removed.
        waiting: Called once if another process holds the lock, with words that say which, such as ``process 4711``.
        wait: Whether to wait for it then.

    Raises:
        LockedError: If another process holds it, and ``wait`` is False.
        OSError: If the file cannot be written.
    """
    told = False
    while (release := _take_in_folder(path)) is None:
        holder = _holder(path)
        if not wait:
            raise LockedError(holder)
        if waiting is not None and not told:
            waiting(holder)
        told = True
        time.sleep(PAUSE)
    try:
        yield
    finally:
        release()


def _take_in_folder(path: Path) -> Callable[[], None] | None:
    """Take a lock whose folder is made if need be, and may be removed by whoever finds it empty."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            return _take(path)


def _take(path: Path) -> Callable[[], None] | None:
    """Take a lock if it is free, and return what releases it."""
    if fcntl is None:
        return _take_by_file(_by_file(path))
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno in TAKEN:
            return None
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return _take_by_file(_by_file(path))
    try:
        if not _is_at(handle, path):  # its holder has just removed it, and another may be there by now
            os.close(handle)
            return _take(path)
        with contextlib.suppress(OSError):  # a full disk: it is only for messages
            os.ftruncate(handle, 0)
            os.pwrite(handle, _signature().encode(), 0)
    except BaseException:
        os.close(handle)
        raise

    def release() -> None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # before others can take it
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # for children that have the file open as well
        os.close(handle)

    return release


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _by_file(path: Path) -> Path:
    """Return the file whose presence is the lock, on disks that know no locks."""
    return path.with_name(f"{path.name}.held")


def _take_by_file(path: Path) -> Callable[[], None] | None:
    """Take a lock that is the presence of a file, if it is free, or if its holder is known to run no more."""
    signature = _signature()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        if not _is_stale(path):
            return None
        _remove_stale(path)
        return None if path.exists() else _take_by_file(path)
    try:
        os.write(handle, signature.encode())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)

    def release() -> None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)

    return release


def _remove_stale(path: Path) -> None:
    """Remove a lock whose holder runs no more: one process at a time, and never one that was taken since."""
    release = _take_by_file(path.with_name(f"{path.name}.stale"))
    if release is not None:
        try:
            if _is_stale(path):
                path.unlink(missing_ok=True)
        finally:
            release()


def _is_stale(path: Path) -> bool:
    """Return whether a process of this machine holds a lock that runs no more."""
    try:
        text, age = path.read_text(), time.time() - path.stat().st_mtime
    except (OSError, UnicodeDecodeError):
        return False
    try:
        machine, process, start, _ = text.split()
        return machine == this_machine() and not is_running(int(process), int(start))
    except ValueError:  # its holder has not written it yet, or was killed before
        return age > UNWRITTEN


def _signature() -> str:
    """Return what a holder writes into its lock: machine, process, when that began, and random digits."""
    return f"{this_machine()} {os.getpid()} {start_of(os.getpid())} {secrets.token_hex(8)}"


def _holder(path: Path) -> str:
    """Return words for who holds a lock."""
    for place in (_by_file(path), path):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            machine, process, *_ = [*place.read_text().split(), "", ""]
            if machine and machine != this_machine():
                return f"process {process} of the machine {machine} (remove {place} if it does not run any more)"
            if process:
                return f"process {process}"
    return "another process"
