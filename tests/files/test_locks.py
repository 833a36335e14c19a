"""Locks among processes, on disks with and without ``flock``."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from catwalk.files import locks
from catwalk.files.locks import LockedError, locked

COUNT = """
import sys, time
from pathlib import Path
from catwalk.files import locks
if sys.argv[1] != "flock":
    def refuse(handle, operation):
        raise OSError(int(sys.argv[1]), "refused")
    locks.fcntl.flock = refuse
locks.PAUSE = 0.001
counter = Path(sys.argv[2])
for _ in range(20):
    with locks.locked(counter.with_name("lock")):
        number = int(counter.read_text())
        time.sleep(0.0005)
        counter.write_text(str(number + 1))
"""

KINDS = ["flock", str(errno.ENOLCK), str(errno.EOPNOTSUPP), str(errno.ENOSYS)]


def refuse_with(monkeypatch, kind):
    """Be on a disk that answers ``flock`` with an error; ``none`` is a system without it."""
    if kind == "none":
        monkeypatch.setattr(locks, "fcntl", None)
    elif kind != "flock":

        def refuse(handle, operation):
            raise OSError(int(kind), os.strerror(int(kind)))

        monkeypatch.setattr(locks.fcntl, "flock", refuse)


@pytest.fixture(params=[*KINDS, "none"])
def disk(request, monkeypatch):
    monkeypatch.setattr(locks, "PAUSE", 0.001)
    refuse_with(monkeypatch, request.param)
    return request.param


@pytest.mark.parametrize("kind", KINDS[:2])
def test_processes_count_one_at_a_time(tmp_path, kind):
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", COUNT, kind, str(counter)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert counter.read_text() == "60"
    assert list(tmp_path.iterdir()) == [counter]


def test_a_lock_is_taken_once_and_leaves_nothing(tmp_path, disk):
    path = tmp_path / "new" / "lock"
    for _ in range(2):
        with locked(path):
            with pytest.raises(LockedError, match=rf"^process {os.getpid()}$"), locked(path, wait=False):
                pass
            with locked(path.with_name("other"), wait=False):
                pass
        assert not list(path.parent.iterdir())


def test_an_error_releases(tmp_path, disk):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "lock"):
        raise KeyboardInterrupt
    with locked(tmp_path / "lock", wait=False):
        pass


def test_who_waits_is_told_once_for_whom(tmp_path, disk, monkeypatch):
    told, pauses = [], []
    holder = locked(tmp_path / "lock")
    holder.__enter__()

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            holder.__exit__(None, None, None)

    monkeypatch.setattr(time, "sleep", pause)
    with locked(tmp_path / "lock", waiting=told.append):
        assert told == [f"process {os.getpid()}"]
    with locked(tmp_path / "lock", waiting=told.append):
        assert len(told) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from catwalk.files import locks
if sys.argv[1] != "flock":
    def refuse(handle, operation):
        raise OSError(int(sys.argv[1]), "refused")
    locks.fcntl.flock = refuse
with locks.locked(Path(sys.argv[2])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_killed_process_holds_nothing(tmp_path, kind, monkeypatch):
    assert subprocess.run([sys.executable, "-c", KILLED, kind, tmp_path / "lock"]).returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir())
    refuse_with(monkeypatch, kind)
    with locked(tmp_path / "lock", wait=False):  # at the first look
        pass
    assert not list(tmp_path.iterdir())


def held_by(path: Path, machine: str, process: int, start: int) -> None:
    path.with_name(f"{path.name}.held").write_text(f"{machine} {process} {start} 0123456789abcdef")


def test_a_number_that_another_process_has_by_now(tmp_path, disk):
    if disk == "flock":
        pytest.skip("the system knows")
    held_by(tmp_path / "lock", locks.this_machine(), os.getpid(), locks.start_of(os.getpid()) - 1)
    with locked(tmp_path / "lock"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_of_another_machine_stays_and_is_named(tmp_path, disk):
    if disk == "flock":
        pytest.skip("the system knows")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    held_by(tmp_path / "lock", "elsewhere", dead.pid, 0)
    words = rf"process {dead.pid} of the machine elsewhere \(remove .*lock\.held if"
    with pytest.raises(LockedError, match=words), locked(tmp_path / "lock", wait=False):
        pass


@pytest.mark.parametrize(("age", "is_free"), [(0, False), (3600, True)])
def test_a_lock_that_says_nothing(tmp_path, monkeypatch, age, is_free):
    """Its holder is about to write it, or was killed in the moment before."""
    refuse_with(monkeypatch, "none")
    path = tmp_path / "lock.held"
    path.touch()
    os.utime(path, (time.time() - age,) * 2)
    taken = locks._take(tmp_path / "lock")
    assert (taken is not None) == is_free


def test_a_lock_that_nobody_can_write(tmp_path, disk):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file" / "lock"):
        pass
