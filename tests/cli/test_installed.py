"""The package as ``pip install .`` leaves it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_installed_package_has_its_configurations_and_types(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    source, target, elsewhere = tmp_path / "source", tmp_path / "target", tmp_path / "elsewhere"
    source.mkdir(), elsewhere.mkdir()
    for name in ("catwalk", "lightning_modules", "datamodules", "callbacks", "configs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (REPOSITORY / name).is_file():
            shutil.copy(REPOSITORY / name, source)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(target), str(source)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(sys.executable, "-c", "import catwalk; print(catwalk.__file__)").startswith(str(target))
    run(sys.executable, str(target / "bin" / "catwalk"), "data", "synthetic", "data/synthetic", "--items=60")
    stacked = ["--config", "configs/cnn/traditional.yaml", "--config", "configs/data/synthetic.yaml"]
    quick = ["--trainer.logger=false", "--trainer.max_epochs=1"]
    run(sys.executable, str(target / "bin" / "catwalk"), "fit", *stacked, *quick)
    assert (elsewhere / "runs" / "traditional" / "classifier.ckpt").is_file()
    shipped = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "configs").rglob("*.yaml")}
    assert {path.relative_to(target) for path in (target / "configs").rglob("*.yaml")} == shipped
    assert (target / "catwalk" / "study" / "report" / "templates" / "report.html").is_file()
    for package in ("catwalk", "lightning_modules", "datamodules", "callbacks"):
        assert (target / package / "py.typed").is_file(), f"type checkers would leave {package} aside"
