"""Keys that follow code and settings, and results that are whole or not there."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from catwalk.results import keys as stage_keys
from catwalk.results.keys import Inputs, inputs_of, modules_imported_by
from catwalk.results.record import RECORD_FILE, Origin
from catwalk.results.store import StageCache

TRAIN = '''"""Train."""
import shopcode.layers
from shopcode.attacks import Base


def train():
    """Do it."""
    return 1  # once
'''
FILES = {
    "shopcode/__init__.py": "",
    "shopcode/train.py": TRAIN,
    "shopcode/layers.py": '"""Layers."""\n\n\nclass Layer:\n    """A layer."""\n\n    size = 3\n',
    "shopcode/attacks/__init__.py": "from shopcode.attacks.base import Base\nfrom shopcode.attacks.fast import Fast\n",
    "shopcode/attacks/base.py": "class Base:\n    steps = 1\n",
    "shopcode/attacks/fast.py": "class Fast:\n    steps = 2\n",
    "shopcode/unused.py": "value = 1\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that edits a package of ours and returns the key of a stage made by its module ``train``."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(stage_keys, "OUR_PACKAGES", ("shopcode",))

    def key_after(name: str = "", old: str = "", new: str = "", **settings: object) -> str:
        if name:
            path = tmp_path / "shopcode" / name
            text = path.read_text()
            assert old in text
            path.write_text(text.replace(old, new))
        stage_keys.forget_code()
        return inputs_of({"seed": 0, **settings}, ["shopcode.train"]).key

    yield key_after
    stage_keys.forget_code()
    for name in [name for name in sys.modules if name.startswith("shopcode")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("train.py", "return 1", "return 2"),
        ("layers.py", "size = 3", "size = 4"),
        ("attacks/base.py", "steps = 1", "steps = 3"),  # through what the package passes on
    ],
)
def test_a_key_changes_with_the_code_that_makes_the_result(package, name: str, old: str, new: str) -> None:
    assert package() != package(name, old, new)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("train.py", "# once", "# as often as it takes"),
        ("train.py", '"""Do it."""', '"""Do it\n\n    at once.\n    """'),
        ("train.py", '"""Train."""', '"""Teach."""'),
        ("layers.py", '    """A layer."""\n', ""),
        ("layers.py", "size = 3", "size  =  3"),
        ("unused.py", "value = 1", "value = 2"),
        ("attacks/fast.py", "steps = 2", "steps = 4"),  # passed on by the same package, and not taken
    ],
)
def test_a_key_does_not_change_with_anything_else(package, name: str, old: str, new: str) -> None:
    assert package() == package(name, old, new)


def test_a_key_changes_with_the_settings(package) -> None:
    assert package() == package(seed=0)
    assert len({package(), package(seed=1), package(more=None)}) == 3


def test_what_stages_depend_on() -> None:
    """A CNN's training must not depend on attacks, nor an attack on other attacks or on recommenders."""
    training = modules_imported_by(["lightning_modules.cnn", "datamodules.product_images", "callbacks.write_features"])
    assert {"catwalk.networks.network", "catwalk.networks.features", "lightning_modules.checkpoints"} <= training
    assert not {name for name in training if "attack" in name or "poison" in name}
    attacking = modules_imported_by(["catwalk.poisoning.poison", "catwalk.attacks.fgsm"])
    assert {"catwalk.attacks.fgsm", "catwalk.attacks.attack", "catwalk.attacks.threat_model"} <= attacking
    assert not {"catwalk.attacks.pgd", "lightning_modules.recommender"} & attacking


@pytest.fixture
def stages(tmp_path: Path) -> StageCache:
    return StageCache(tmp_path / "cache")


def test_a_result_is_there_when_it_is_whole(stages: StageCache) -> None:
    def make(folder: Path) -> dict:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("content")
        assert not stages.has("kind", "key")
        return {"metric": 0.25}

    stages.write("kind", "key", make)
    assert stages.has("kind", "key")
    assert stages.read("kind", "key") == {"metric": 0.25}
    assert (stages.path("kind", "key") / "deep" / "file").read_text() == "content"


def test_of_two_runs_at_the_same_time_the_second_waits_and_takes_what_the_first_made(tmp_path: Path) -> None:
    has_begun, told = threading.Event(), []

    def make_slowly(folder: Path) -> dict:
        has_begun.set()
        while not told:  # until the other says that it waits
            time.sleep(0.01)
        return {"by": "first"}

    def never(folder: Path) -> dict:
        raise AssertionError("made twice")

    first, second = StageCache(tmp_path / "cache"), StageCache(tmp_path / "cache", told.append)
    with ThreadPoolExecutor() as pool:
        made = pool.submit(first.write, "kind", "key", make_slowly)
        assert has_begun.wait(60)
        assert second.write("kind", "key", never, "A stage") is False
        assert made.result() is True
    assert second.read("kind", "key") == {"by": "first"}
    assert len(told) == 1
    assert told[0].startswith("A stage: waits for process ")
    assert list(first._partial.glob("*")) == []


def fill(folder: Path) -> dict:
    (folder / "deep").mkdir()
    (folder / "deep" / "numbers").write_bytes(bytes(range(256)) * 256)
    (folder / "text.csv").write_text("a,b\n1,2\n")
    return {"metric": 0.25, "nested": {"b": 1, "a": [None, "é"]}}


def zeros(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(16 * 1024)
        file.write(bytes(16 * 1024))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_another_runs(path: Path) -> None:
    """Put a file of the same size and time in a file's place, as a wrong copy does."""
    other, times = path.with_name("other"), path.stat()
    other.write_bytes(path.read_bytes()[::-1])
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


DAMAGES = {
    "another run's file": (lambda path: replace_by_another_runs(path / "deep/numbers"), "deep/numbers was changed"),
    "zeros in the middle": (lambda path: zeros(path / "deep/numbers"), "deep/numbers was changed"),
    "a flipped bit": (lambda path: flip(path / "text.csv"), "text.csv was changed"),
    "cut off": (lambda path: os.truncate(path / "deep/numbers", 100), "deep/numbers was changed"),
    "emptied": (lambda path: os.truncate(path / "text.csv", 0), "text.csv was changed"),
    "longer": (lambda path: (path / "text.csv").open("a").write("3,4\n"), "text.csv was changed"),
    "removed": (lambda path: (path / "text.csv").unlink(), "text.csv is missing"),
    "a folder in its place": (
        lambda path: ((path / "text.csv").unlink(), (path / "text.csv").mkdir()),
        "text.csv is missing",
    ),
    "a record that was edited": (
        lambda path: (path / RECORD_FILE).write_text((path / RECORD_FILE).read_text().replace("0.25", "0.75")),
        "stage.json was changed",
    ),
    "a record that was emptied": (lambda path: os.truncate(path / RECORD_FILE, 0), "stage.json is missing or damaged"),
    "half of a record": (lambda path: os.truncate(path / RECORD_FILE, 99), "stage.json is missing or damaged"),
    "another kind of record": (lambda path: (path / RECORD_FILE).write_text("[]"), "stage.json is missing or damaged"),
    "a record without contents": (lambda path: (path / RECORD_FILE).write_text("{}"), "stage.json was changed"),
    "bytes that are no text": (
        lambda path: (path / RECORD_FILE).write_bytes(b"\xff\xfe\x00"),
        "stage.json is missing or damaged",
    ),
    "a file name that is none": (
        lambda path: (path / RECORD_FILE).write_text(
            json.dumps({"files": {"\0": {}, "x" * 5000: {}}, "sha256": "\ud800"})
        ),
        "stage.json was changed",
    ),
    "brackets without end": (
        lambda path: (path / RECORD_FILE).write_text("[" * 200_000),
        "stage.json is missing or damaged",
    ),
    "no record": (lambda path: (path / RECORD_FILE).unlink(), "stage.json is missing or damaged"),
    "an empty folder": (lambda path: (shutil.rmtree(path), path.mkdir()), "stage.json is missing or damaged"),
    "a file in its place": (lambda path: (shutil.rmtree(path), path.touch()), "stage.json is missing or damaged"),
    "another result": (
        lambda path: (shutil.rmtree(path), shutil.copytree(path.parent / "other", path)),
        "stage.json is of another result, kind/other,",
    ),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_result_is_set_aside_and_made_again(tmp_path: Path, damage: Callable, words: str) -> None:
    first = StageCache(tmp_path)
    for key in ("key", "other"):
        first.write("kind", key, fill)
        assert first.has("kind", key)  # and so its hashes have been compared
    written = contents(tmp_path / "kind" / "key")
    damage(tmp_path / "kind" / "key")
    told: list[str] = []
    cache = StageCache(tmp_path, told.append)
    assert cache.take("kind", "key", "A stage") is None
    place = tmp_path / "damaged" / "kind-key-1"
    assert told == [
        f"A stage: {words}{' after it was written' if 'changed' in words else ''} in {tmp_path / 'kind/key'}; it is "
        f"set aside in {place} and made again"
    ]
    assert place.exists()
    assert cache.write("kind", "key", fill)
    assert contents(tmp_path / "kind" / "key") == written
    assert StageCache(tmp_path).read("kind", "key") == {"metric": 0.25, "nested": {"b": 1, "a": [None, "é"]}}
    damage(tmp_path / "kind" / "key")
    assert StageCache(tmp_path, told.append).write("kind", "key", fill)  # without a look before
    assert contents(tmp_path / "kind" / "key") == written
    assert (tmp_path / "damaged" / "kind-key-2").exists()


@pytest.mark.parametrize("look", [True, False])
def test_of_what_was_damaged_no_other_reason_is_told(tmp_path: Path, look: bool) -> None:
    origins = {f"epsilon {value}": Origin("PGD", Inputs({"epsilon": value}, {}, "2")) for value in (4, 8)}
    for key, origin in origins.items():
        StageCache(tmp_path).write("kind", key, fill, origin=origin)
    os.truncate(tmp_path / "kind" / "epsilon 4" / RECORD_FILE, 99)
    told: list[str] = []
    cache = StageCache(tmp_path, told.append)
    if look:
        assert not cache.has("kind", "epsilon 4")
    assert cache.write("kind", "epsilon 4", fill, origin=origins["epsilon 4"])
    assert len(told) == 1
    assert "set aside" in told[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_comes_to_stand_beside_a_result_is_no_damage(stages: StageCache, tmp_path: Path) -> None:
    stages.write("kind", "key", fill)
    result = stages.take("kind", "key")
    (stages.path("kind", "key") / "features.float16.safetensors").touch()
    assert result.files.written() is None
    assert StageCache(tmp_path / "cache").has("kind", "key")


def test_a_result_that_is_written_after_it_was_checked_is_noticed(stages: StageCache) -> None:
    stages.write("kind", "key", fill)
    result = stages.take("kind", "key")
    path = stages.path("kind", "key") / "text.csv"
    times = path.stat()
    path.write_text("a,b\n1,3\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as `cp -p` would
    assert result.files.written() == path


def test_a_failure_leaves_nothing_where_nothing_was(stages: StageCache, tmp_path: Path) -> None:
    def broken(folder: Path) -> dict:
        (folder / "file").write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stages.write("kind", "key", broken)
    assert list(tmp_path.iterdir()) == []
    stages.write("kind", "other", lambda folder: {})
    with pytest.raises(ZeroDivisionError):
        stages.write("kind", "key", broken)
    assert not stages.has("kind", "key")
    assert stages.has("kind", "other")


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_are_not(
    stages: StageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    made = {}
    for whose, host, process in (
        ("dead", "here", dead.pid),
        ("living", "here", os.getpid()),
        ("another user's", "here", 1),
        ("another machine's", "there", dead.pid),
    ):
        monkeypatch.setattr("platform.node", lambda host=host: host)
        monkeypatch.setattr("os.getpid", lambda process=process: process)

        def keep(folder: Path, whose: str = whose) -> dict:
            made[whose] = folder
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("shutil.rmtree", lambda *_, **__: None)  # as if it were killed
            with pytest.raises(KeyboardInterrupt):
                stages.write("kind", "key", keep)
    monkeypatch.undo()
    monkeypatch.setattr("platform.node", lambda: "here")
    stages.remove_leftovers()
    assert {whose for whose, folder in made.items() if folder.exists()} == set(made) - {"dead"}
