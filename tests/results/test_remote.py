"""A store behind a URL: whole results alone, the same bytes in every mirror, and one line where it refuses."""

import filecmp
import json
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from catwalk.errors import CatwalkError
from catwalk.results.record import RECORD_FILE, _hash, write_record
from catwalk.results.remote import RemoteStore
from catwalk.results.store import StageCache


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a store that does not exist yet."""
    return f"{request.param}://{tmp_path}/store"


@pytest.fixture
def mirror(url: str, tmp_path: Path) -> Callable[[str], StageCache]:
    """Return a function that makes the mirror of a machine, and notes what it tells in ``told``."""

    def make(name: str) -> StageCache:
        told: list[str] = []
        cache = StageCache(tmp_path / name, told.append, remote=RemoteStore(url))
        cache.told = told  # type: ignore[attr-defined]
        return cache

    return make


def fill(folder: Path) -> dict[str, Any]:
    (folder / "deep").mkdir()
    (folder / "deep" / "file [1]?*.bin").write_bytes(bytes(range(256)))
    (folder / "empty").touch()
    return {"metric": 0.25}


def never(folder: Path) -> dict[str, Any]:
    raise AssertionError("made twice")


def there(url: str, name: str) -> tuple[Any, str]:
    system, root = fsspec.core.url_to_fs(url)
    return system, f"{root}/kind/key/{name}"


def test_what_one_machine_made_another_has_to_the_byte(mirror, url: str) -> None:
    one, two = mirror("one"), mirror("two")
    assert not two.has("kind", "key")
    assert one.write("kind", "key", fill) is True
    assert two.write("kind", "key", never) is False
    assert two.read("kind", "key") == {"metric": 0.25}
    assert two.digest("kind", "key") == one.digest("kind", "key")
    here, copy = one.path("kind", "key"), two.path("kind", "key")
    names = ["deep/file [1]?*.bin", "empty", RECORD_FILE]
    assert filecmp.cmpfiles(here, copy, names, shallow=False) == (names, [], [])
    assert {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()} == set(names)
    for name in names:
        system, place = there(url, name)
        assert system.cat_file(place) == (here / name).read_bytes()
    assert list(two._partial.glob("*")) == one.told == two.told == []


def test_another_process_finds_the_store_by_its_url(mirror, url: str) -> None:
    mirror("one").write("kind", "key", fill)
    read = pickle.loads(pickle.dumps(mirror("two")))
    assert read.read("kind", "key") == {"metric": 0.25}
    assert pickle.loads(pickle.dumps(RemoteStore(url))).url == url


def test_a_result_is_there_when_its_record_is(mirror, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, (system, place) = mirror("one"), there(url, RECORD_FILE)
    with monkeypatch.context() as patch:

        def refuse(self: Any, path: str, value: bytes, **_: Any) -> None:
            raise OSError("the line is down")

        patch.setattr(type(system), "pipe_file", refuse)
        with pytest.raises(CatwalkError) as caught:
            one.write("kind", "key", fill)
    message = str(caught.value)
    assert message.startswith(f"store: {url}: writing kind/key failed: OSError: the line is down")
    assert "\n" not in message
    assert system.exists(there(url, "empty")[1])
    assert not system.exists(place)
    assert not mirror("two").has("kind", "key")
    assert one.write("kind", "key", never) is False  # it is here, and goes there now
    assert mirror("three").read("kind", "key") == {"metric": 0.25}


@pytest.mark.parametrize("harm", ["changed", "missing", "no record"])
def test_what_is_damaged_there_is_made_again_and_replaced(mirror, url: str, harm: str) -> None:
    mirror("one").write("kind", "key", fill)
    system, place = there(url, RECORD_FILE if harm == "no record" else "deep/file [1]?*.bin")
    if harm == "missing":
        system.rm_file(place)
    else:
        system.pipe_file(place, b"{}")
    two = mirror("two")
    assert not two.has("kind", "key")
    assert two.write("kind", "key", fill) is True
    told = [line.partition(" in ")[0] for line in two.told]
    name = "deep/file [1]?*.bin"
    assert (
        told
        == {
            "changed": [f"kind key: {name} was changed after it was written"],
            "missing": [f"kind key: {name} is missing"],
            "no record": [],
        }[harm]
    )
    three = mirror("three")
    assert three.digest("kind", "key") == two.digest("kind", "key")
    assert three.told == []


def test_what_is_damaged_here_is_brought_again(mirror) -> None:
    one = mirror("one")
    one.write("kind", "key", fill)
    (one.path("kind", "key") / "empty").write_text("no more")
    again = mirror("one")
    assert again.write("kind", "key", never) is False
    assert (again.path("kind", "key") / "empty").read_bytes() == b""
    assert len(again.told) == 1


def test_the_first_result_of_a_key_stays(mirror, tmp_path: Path) -> None:
    StageCache(tmp_path / "two").write("kind", "key", lambda folder: {"metric": 2.0})  # before there was a store
    one, two = mirror("one"), mirror("two")
    one.write("kind", "key", fill)
    two.share("kind", "key")
    assert two.read("kind", "key") == {"metric": 2.0}
    assert mirror("three").read("kind", "key") == {"metric": 0.25}


def test_what_was_made_before_there_was_a_store_can_be_shared(mirror, tmp_path: Path) -> None:
    StageCache(tmp_path / "one").write("kind", "key", fill)
    mirror("one").share("kind", "key")
    mirror("one").share("kind", "not there")
    assert mirror("two").read("kind", "key") == {"metric": 0.25}


def test_nobody_sees_half_a_result(mirror) -> None:
    def make(folder: Path) -> dict[str, Any]:
        for number in range(100):
            (folder / str(number)).write_bytes(bytes(10_000))
        return {}

    one, found = mirror("one"), []
    writing = threading.Thread(target=one.write, args=("kind", "key", make))
    writing.start()
    number = 0
    while not found or not found[-1]:
        reader = mirror(f"reader {number}")
        found.append(reader.has("kind", "key"))
        assert reader.told == []
        number += 1
    writing.join()
    assert len(list(reader.path("kind", "key").iterdir())) == 101


def test_no_file_is_put_outside_the_folder_of_its_result(mirror, url: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    (made / "inner").mkdir(parents=True)
    (made / "escaped").write_text("there")
    write_record(made, {"stage": "kind", "key": "key"})
    record = json.loads((made / RECORD_FILE).read_text())
    record["files"] = {"../../../escaped": record["files"]["escaped"]}
    record["sha256"] = _hash({name: value for name, value in record.items() if name != "sha256"})
    system, place = there(url, RECORD_FILE)
    system.makedirs(place.rpartition("/")[0], exist_ok=True)
    system.pipe_file(place, json.dumps(record).encode())
    assert RemoteStore(url).record("kind", "key") is None
    assert not mirror("one").has("kind", "key")


def test_a_url_that_nobody_knows_is_told_in_a_line() -> None:
    with pytest.raises(CatwalkError, match=r"^store: must be a URL that fsspec knows, .*'nowhere://place'"):
        RemoteStore("nowhere://place")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    if "s3" in fsspec.registry:
        pytest.skip("s3fs is loaded")
    with pytest.raises(CatwalkError, match=r"^store: s3://bucket/folder needs .*`pip install s3fs`"):
        RemoteStore("s3://bucket/folder")
