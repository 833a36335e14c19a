"""Names that stood elsewhere before version 0.2, and that configurations and checkpoints of then hold."""

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

MOVED = {
    "catwalk.backbones": "catwalk.networks",
    "catwalk.lazy_adam": "catwalk.recommenders.lazy_adam",
    "catwalk.splits": "catwalk.shop.splits",
}
"""Modules whose classes and functions are named in configurations and checkpoints, and where these stand today."""


def todays_name(path: str) -> str:
    """Return the import path of today for one that a configuration or a checkpoint holds."""
    module, _, name = path.rpartition(".")
    return f"{MOVED[module]}.{name}" if module in MOVED else path


def forward(module: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module of old: its names, from where they stand today, with a warning.

    Args:
        module: The module's name, a key of :data:`MOVED`.
    """

    def get(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            found = getattr(importlib.import_module(MOVED[module]), name)
        except AttributeError:
            raise AttributeError(f"module {module!r} has no attribute {name!r}") from None
        warnings.warn(f"{module}.{name} is {MOVED[module]}.{name} now", DeprecationWarning, stacklevel=2)
        return found

    return get


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module in which classes have other names than before, with a warning.

    Args:
        module: The module's name.
        names: Today's names, by those of old.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is {module}.{names[name]} now", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(module), names[name])

    return get
