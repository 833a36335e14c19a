import doctest
import importlib
import pkgutil

import pytest

import catwalk.metrics

MODULES = [
    "catwalk.recommenders.ranking",
    *(module.name for module in pkgutil.iter_modules(catwalk.metrics.__path__, "catwalk.metrics.")),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name: str) -> None:
    module = importlib.import_module(name)
    results = doctest.testmod(module)
    assert results.failed == 0
    if name != "catwalk.metrics.mean":  # a base class, shown by those that build on it
        assert results.attempted > 0
