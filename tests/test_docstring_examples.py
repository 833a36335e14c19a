"""The examples in the docstrings, run in a folder with the shop of ``catwalk data synthetic data/synthetic``."""

import doctest
import importlib
import logging
from pathlib import Path

import pytest

from catwalk.importers.synthetic import synthetic

PROJECT = Path(__file__).parents[1]
PACKAGES = ("catwalk", "callbacks", "datamodules", "lightning_modules")
MODULES = {
    ".".join(path.relative_to(PROJECT).with_suffix("").parts): path.read_text("utf-8")
    for package in PACKAGES
    for path in sorted((PROJECT / package).rglob("*.py"))
}


def test_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    synthetic(Path("data/synthetic"))
    shown = {name for name, source in MODULES.items() if ">>> " in source}
    assert len(shown) > 30
    logging.disable(logging.INFO)  # or lines of Lightning would be taken for output
    try:
        results = {name: doctest.testmod(importlib.import_module(name)) for name in sorted(shown)}
    finally:
        logging.disable(logging.NOTSET)
    assert {name for name, result in results.items() if result.failed} == set()  # what they gave instead is printed


def test_every_metric_is_shown() -> None:
    metrics = {name for name in MODULES if name.startswith("catwalk.metrics.") and not name.endswith("__init__")}
    without = {name for name in metrics if ">>> " not in MODULES[name]}
    assert without == {"catwalk.metrics.mean"}  # base classes, shown by those that build on them
