"""Classes of a user's own, in files of the working folder."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from catwalk.cli.configs import SHIPPED
from catwalk.cli.working_folder import ROOT, working_folder_last
from catwalk.configuration.import_object import import_object
from catwalk.errors import CatwalkError
from catwalk.results.keys import modules_imported_by

PACKAGES = ("catwalk", "callbacks", "configs", "datamodules", "lightning_modules")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with folders that have our packages' names, which is the current one."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        if name != "catwalk":  # whose own would be run instead of ours before anything of ours is
            (tmp_path / name / "__init__.py").write_text("raise SystemExit('taken for ours')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("entry", ["", ".", "here"])
def test_the_working_folder_goes_behind_our_packages(here: Path, monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    first = str(here) if entry == "here" else entry
    monkeypatch.setattr(sys, "path", [first, *(other for other in sys.path if Path(other or ".") != ROOT)])
    before = list(sys.path)
    with working_folder_last():
        assert sys.path[-2:] == [str(ROOT), str(here)]
        assert first not in sys.path[:-1]
        for name in PACKAGES:
            spec = importlib.machinery.PathFinder.find_spec(name)
            assert spec is not None
            assert Path(str(spec.origin)) == ROOT / name / "__init__.py"
    assert sys.path == before


def test_the_path_is_right_in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    before = list(sys.path)
    with working_folder_last():
        assert sys.path == before


@pytest.mark.slow
@pytest.mark.parametrize("path", [str(ROOT), os.pathsep.join([".", str(ROOT)])], ids=["ours", "this folder first"])
def test_own_classes_train_in_two_processes(here: Path, path: str) -> None:
    own = """
        from lightning_modules import ProductClassifier
        from torch import nn

        def network(num_classes: int = 6) -> nn.Module:
            return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))

        class Mine(ProductClassifier):
            '''Of my own.'''
    """
    (here / "my_models.py").write_text("\n".join(line.removeprefix(" " * 8) for line in own.splitlines()))
    sizes = ["--items=60", "--users=60", "--image_size=16", "--train_images=20", "--test_images=5"]
    train = ["--config=configs/cnn/traditional.yaml", "--data.dataset=data/shop", "--model=my_models.Mine"]
    train += ["--model.backbone=my_models.network", "--trainer.devices=2", "--trainer.accelerator=cpu"]
    train += ["--trainer.logger=false", "--trainer.max_epochs=1"]
    for command in (["data", "synthetic", "data/shop", *sizes], ["fit", *train]):
        done = subprocess.run(
            [sys.executable, "-m", "catwalk", *command],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert Path("runs/traditional/classifier.ckpt").is_file()


def test_shipped_configurations_are_those_beside_the_package(here: Path) -> None:
    assert SHIPPED == ROOT / "configs"
    assert (SHIPPED / "cnn" / "traditional.yaml").is_file()


def test_a_file_that_may_have_been_meant_is_named(here: Path, run) -> None:
    Path("my_models.py").write_text("")
    shared = ["--config", "configs/cnn/traditional.yaml", "--data.dataset=data"]
    outcome = run("fit", *shared, "--model=my_model.Mine")
    assert outcome.code == 2
    assert "there is no module my_model; did you mean my_models (my_models.py)?" in outcome.err
    assert outcome.err.count("\n") == 1


BROKEN = {
    "broken_syntax": ("import torch\nclass Net(\n", "'(' was never closed (broken_syntax.py, line 2)"),
    "broken_name": ("\n\nx = undefined\n", "NameError: name 'undefined' is not defined (broken_name.py, line 3)"),
    "broken_import": ("import no_such_library\n", "No module named 'no_such_library'"),
    "without_net": ("x = 1\n", "module 'without_net' has no attribute 'net'"),
}


@pytest.mark.parametrize("module", BROKEN)
def test_what_is_wrong_with_an_own_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    content, reason = BROKEN[module]
    (tmp_path / f"{module}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CatwalkError) as info:
        import_object(f"{module}.net", "backbone")
    assert str(info.value) == f"backbone: '{module}.net' cannot be imported: {reason}"


def test_what_an_own_module_imports_from_beside_itself_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "own_lab"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "attack.py").write_text(
        "import json\nimport numpy\nfrom torch import nn\nimport own_tool\nfrom . import shared\n"
        "from .steps import step\nfrom catwalk.attacks import FGSM\n"
    )
    (package / "shared.py").write_text("")
    (package / "steps.py").write_text("from own_lab.deeper import x\n")
    (package / "deeper.py").write_text("x = 1\n")
    (package / "unused.py").write_text("")
    (tmp_path / "own_tool.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    found = modules_imported_by(["own_lab.attack"])
    assert "catwalk.attacks.fgsm" in found
    assert {name for name in found if name.partition(".")[0] not in PACKAGES} == {
        *("own_lab", "own_lab.attack", "own_lab.shared", "own_lab.steps", "own_lab.deeper", "own_tool"),
    }


@pytest.mark.parametrize(
    ("importer", "message"),
    [
        ("my_shops.Shop", "command: my_shops.Shop is no function; an importer is one that writes a dataset folder"),
        ("my_shops.untyped", "command: my_shops.untyped: its parameter dest has no type; write it as `dest: Path`"),
        ("my_shops.wirte", "command: 'my_shops.wirte' cannot be imported: module 'my_shops' has no attribute 'wirte'"),
        ("my_shpos.write", "command: 'my_shpos.write' cannot be imported: No module named 'my_shpos'"),
        ("my_shops.write", "missing: dest"),
        ("fashion_mnist", "there is no command 'fashion_mnist'; did you mean fashion-mnist?"),
    ],
)
def test_an_importer_of_ones_own_that_does_not_fit_is_one_line(here: Path, run, importer: str, message: str) -> None:
    Path("my_shops.py").write_text(
        "from pathlib import Path\n\nclass Shop: ...\n\ndef untyped(dest) -> None: ...\n\n"
        "def write(dest: Path, names: str = 'all') -> None:\n    '''Write it.'''\n    print('wrote', dest, names)\n"
    )
    outcome = run("data", importer)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_an_importer_of_ones_own_has_its_options_and_help(here: Path, run) -> None:
    Path("my_shop.py").write_text(
        "from pathlib import Path\n\ndef write(dest: Path, names: str = 'all') -> None:\n"
        "    '''Write it.\n\n    Args:\n        dest: Where to.\n        names: Of whom.\n    '''\n"
        "    print('wrote', dest, names)\n"
    )
    assert run("data", "my_shop.write", "there", "--names=few").out == "wrote there few\n"
    assert "Of whom." in run("data", "my_shop.write", "--help").out


def test_a_recommender_of_ones_own_is_tested(here: Path, run, shop: Path) -> None:
    Path("my_recommenders.py").write_text(
        "from lightning_modules import Popularity\n\nclass Mine(Popularity):\n    '''Of my own.'''\n"
    )
    options = ["--data=InteractionTriplets", f"--data.dataset={shop}", "--trainer.logger=false"]
    outcome = run("test", "--model=my_recommenders.Mine", *options)
    assert outcome.code == 0, outcome.err
    assert "test/hr@20" in outcome.out
