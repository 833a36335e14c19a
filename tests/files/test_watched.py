"""Files that change between their fingerprint and the end of what reads them."""

import os
from pathlib import Path

import pytest

from catwalk.errors import CatwalkError
from catwalk.files.watched import watch, watch_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.csv", "b.csv", "c.txt"):
        (tmp_path / name).write_text(name)
    return tmp_path


def rewritten_with_its_times(folder: Path) -> None:
    path = folder / "a.csv"
    times = path.stat()
    path.write_text("A.csv")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def there_and_back(folder: Path) -> None:
    """The content is again what it was, and something else may have been read in between."""
    for text in ("other", "a.csv"):
        (folder / "a.csv").write_text(text)


CHANGES = {
    "written": lambda folder: (folder / "a.csv").write_text("longer than before"),
    "written with its times": rewritten_with_its_times,
    "written back": there_and_back,
    "removed": lambda folder: (folder / "a.csv").unlink(),
    "replaced": lambda folder: (folder / "c.txt").rename(folder / "a.csv"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_noticed_and_named(folder: Path, change) -> None:
    one, all_of_them = watch(folder / "a.csv"), watch_folder(folder, "*.csv")
    assert one.written() is None
    one.require_unchanged("it")
    change(folder)
    for files in (one, all_of_them):
        assert files.written() == folder / "a.csv"
        with pytest.raises(CatwalkError, match=r"a\.csv was written, added or removed while this ran, so it would"):
            files.require_unchanged("it")


def test_files_that_come_are_noticed(folder: Path) -> None:
    missing, all_of_them = watch(folder / "z.csv"), watch_folder(folder, "*.csv", "splits/*")
    (folder / "other.txt").touch()
    assert (missing.written(), all_of_them.written()) == (None, None)
    (folder / "splits").mkdir()
    (folder / "splits" / "test.csv").touch()
    assert all_of_them.written() == folder / "splits" / "test.csv"
    (folder / "z.csv").touch()
    assert missing.written() == folder / "z.csv"
