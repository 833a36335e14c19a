"""Files written aside: whole or as they were, and whatever keeps them from being written names them."""

import errno
import io
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
from PIL import Image

from catwalk.files import atomic as atomic_files
from catwalk.files.atomic import open_bytes, open_text, write_bytes, write_text, written_aside

ROOM = 1000
BIG = np.random.default_rng(0).integers(0, 256, 100_000, dtype=np.uint8)


def with_safetensors(path):
    with written_aside(path) as aside:
        safetensors.torch.save_file({"features": torch.from_numpy(BIG)}, aside)


def with_torch(path):
    with written_aside(path) as aside:
        torch.save(torch.from_numpy(BIG), aside)


def with_torch_into_a_file(path):
    with open_bytes(path) as file:
        torch.save(torch.from_numpy(BIG), file)


def with_pyarrow(path):
    with written_aside(path) as aside:
        pa.parquet.write_table(pa.table({"levels": BIG}), aside)


def with_pillow(path):
    with open_bytes(path) as file:
        Image.fromarray(BIG.reshape(100, 1000)).save(file, format="PNG")


def with_rows(path):
    with open_text(path) as file:
        file.writelines(f"{level}\n" for level in BIG)


def with_buffer(path):
    buffer = io.BytesIO(BIG.tobytes())
    buffer.seek(0, io.SEEK_END)
    write_bytes(path, buffer)


WRITERS = [
    with_safetensors,
    with_torch,
    with_torch_into_a_file,
    with_pyarrow,
    with_pillow,
    with_rows,
    with_buffer,
    lambda path: write_text(path, "é\r\n" * 10_000),
    lambda path: write_bytes(path, BIG.tobytes()),
]


@pytest.fixture
def little_room(request):
    """Let files grow to a thousand bytes and no further; Python and the libraries see that as they see a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def set_limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, limits[1]))

    yield set_limit
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("earlier", [None, b"of an earlier run"])
def test_what_has_no_room_leaves_the_earlier_file_and_is_named(tmp_path, little_room, write, earlier):
    path = tmp_path / "result.csv"
    if earlier is not None:
        path.write_bytes(earlier)
    little_room()
    with pytest.raises(OSError, match=r"result\.csv") as caught:
        write(path)
    assert caught.value.filename == str(path)
    assert caught.value.errno in (errno.EFBIG, errno.EIO)
    assert {other.name: other.read_bytes() for other in tmp_path.iterdir()} == ({path.name: earlier} if earlier else {})


@pytest.mark.parametrize("write", WRITERS)
def test_what_has_room_is_there_and_nothing_else(tmp_path, write):
    path = tmp_path / "new" / "result.csv"
    write(path)
    assert path.stat().st_size > ROOM
    assert list(path.parent.iterdir()) == [path]


def test_texts_keep_their_line_endings_and_buffers_are_written_from_their_beginning(tmp_path):
    write_text(tmp_path / "text", "é\r\nb\n")
    with_buffer(tmp_path / "buffer")
    assert (tmp_path / "text").read_bytes() == "é\r\nb\n".encode()
    assert (tmp_path / "buffer").read_bytes() == BIG.tobytes()


def fail_in_the_middle(path, error):
    with open_text(path) as file:
        file.write("half a line")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no cells"), OSError("encoder error -2")])
def test_other_errors_stay_as_they_are_and_leave_nothing(tmp_path, error):
    with pytest.raises(type(error)) as caught:
        fail_in_the_middle(tmp_path / "cells.csv", error)
    assert caught.value is error
    assert not list(tmp_path.iterdir())


def test_an_error_about_another_file_names_that(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, open_text(tmp_path / "cells.csv"):
        (tmp_path / "other.csv").read_text()
    assert caught.value.filename == str(tmp_path / "other.csv")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_what_a_disk_says_only_when_it_is_told_to_flush(tmp_path, monkeypatch, number):
    path = tmp_path / "cells.csv"
    path.write_text("earlier")

    def refuse(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=r"cells\.csv") as caught:
        write_text(path, "later")
    assert caught.value.errno == number
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_disk_that_cannot_flush(tmp_path, monkeypatch, number):
    def refuse(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    write_text(tmp_path / "cells.csv", "later")
    assert (tmp_path / "cells.csv").read_text() == "later"


def test_it_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(os.fstat(handle).st_mode), fsync(handle)))
    monkeypatch.setattr(Path, "replace", lambda path, target: (done.append(target), replace(path, target)))
    write_text(tmp_path / "cells.csv", "a")
    assert [stat.S_ISREG(done[0]), done[1], stat.S_ISDIR(done[2])] == [True, (tmp_path / "cells.csv").resolve(), True]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
@pytest.mark.parametrize("write", [with_safetensors, with_rows])
def test_permissions_are_those_of_an_ordinary_file_or_of_the_earlier_one(tmp_path, umask, write):
    path = tmp_path / "file"
    earlier = os.umask(umask)
    try:
        write(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
        path.chmod(0o640)
        write(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    finally:
        os.umask(earlier)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_write_protected_file_stays(tmp_path):
    path = tmp_path / "file"
    path.write_text("earlier")
    path.chmod(0o444)
    with pytest.raises(PermissionError, match="file"):
        write_text(path, "later")
    assert path.read_text() == "earlier"


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_stays_and_leads_to_the_new_file(tmp_path, exists):
    target, link = tmp_path / "disk" / "file", tmp_path / "here" / "link"
    target.parent.mkdir()
    link.parent.mkdir()
    if exists:
        target.write_text("earlier")
    link.symlink_to("../disk/file")
    write_text(link, "later")
    assert link.is_symlink()
    assert target.read_text() == "later"
    assert [list(folder.parent.iterdir()) for folder in (target, link)] == [[target], [link]]


def test_a_folder_in_the_place_is_named_and_stays(tmp_path):
    with pytest.raises(IsADirectoryError) as caught:
        write_text(tmp_path, "text")
    assert caught.value.filename == str(tmp_path)
    assert not list(tmp_path.parent.glob(".*partial*"))


def test_a_device_is_written_to_and_not_replaced():
    write_text("/dev/null", "text")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_text("/dev/full", "text")


def test_a_parent_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file") as caught:
        write_text(tmp_path / "file" / "cells.csv", "text")
    assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(tmp_path, monkeypatch):
    killed = """
import os, signal, sys
from catwalk.files.atomic import open_text
with open_text(sys.argv[1]) as file:
    file.write("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "cells.csv"
    assert subprocess.run([sys.executable, "-c", killed, path]).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    others = [".notes.partial", left.name[1:], left.name.replace("partial", "whole")]
    for other in others:
        (tmp_path / other).write_text("")
    with written_aside(tmp_path / "running.csv") as running:
        monkeypatch.setattr(atomic_files, "_cleaned", set())
        write_text(path, "whole")
        assert running.exists()
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, "running.csv", *others}
