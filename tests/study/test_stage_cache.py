"""Keys that follow code and settings, and results that are whole or not there."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from catwalk import stage_keys
from catwalk.stage_keys import modules_imported_by, stage_key
from catwalk.study.cache import StageCache

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
        for function in (stage_keys._source, stage_keys._imports, stage_keys._code_hash):
            function.cache_clear()
        return stage_key({"seed": 0, **settings}, ["shopcode.train"])

    yield key_after
    for function in (stage_keys._source, stage_keys._imports, stage_keys._code_hash):
        function.cache_clear()
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
    assert {"catwalk.backbones", "catwalk.features", "lightning_modules.checkpoints"} <= training
    assert not {name for name in training if "attack" in name or "poison" in name}
    attacking = modules_imported_by(["catwalk.poisoning", "catwalk.attacks.fgsm"])
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
        return {"figure": 0.25}

    stages.write("kind", "key", make)
    assert stages.has("kind", "key")
    assert stages.read("kind", "key") == {"figure": 0.25}
    assert (stages.path("kind", "key") / "deep" / "file").read_text() == "content"


def test_of_two_runs_at_the_same_time_the_first_one_stays(stages: StageCache) -> None:
    def make(folder: Path) -> dict:
        stages.write("kind", "key", lambda other: {"by": "first"})
        return {"by": "second"}

    stages.write("kind", "key", make)
    assert stages.read("kind", "key") == {"by": "first"}
    assert list(stages._partial.glob("*")) == []


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
