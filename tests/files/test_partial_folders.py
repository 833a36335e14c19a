"""Folders in which results are made aside, and what is beside them."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from catwalk.files import partial_folders
from catwalk.files.partial_folders import partial_folder, remove_leftovers


def test_only_what_a_killed_run_left_is_removed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "my-host.[a]")
    monkeypatch.setattr(partial_folders.os, "getpid", lambda: dead.pid)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with partial_folder(tmp_path) as folder:
        name = folder.name
    host = name.partition("-")[0]
    others = [f"{host}-my-notes", f"{host}-{dead.pid}-notes", f"{host}-{'9' * 40}-{'0' * 32}", f"x{name}"]
    for other in (name, *others):
        (tmp_path / other).mkdir()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def test_a_parent_that_another_run_removes_meanwhile(tmp_path: Path, monkeypatch) -> None:
    mkdir, made = Path.mkdir, []

    def removed_once(path, *arguments, **settings):
        made.append(path)
        if len(made) == 1:
            raise FileNotFoundError
        mkdir(path, *arguments, **settings)

    monkeypatch.setattr(Path, "mkdir", removed_once)
    with partial_folder(tmp_path / ".partial") as folder:
        assert folder.is_dir()


def test_what_a_disk_refuses_names_the_folder_that_the_user_knows(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="No space left on device") as caught,
        partial_folder(tmp_path / ".partial") as folder,
    ):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "images" / "1.png"))
    assert caught.value.filename == str(tmp_path)
    with pytest.raises(OSError, match="elsewhere") as caught, partial_folder(tmp_path / ".partial"):
        raise OSError(errno.ENOSPC, "No space left on device", "elsewhere")
    assert caught.value.filename == "elsewhere"
