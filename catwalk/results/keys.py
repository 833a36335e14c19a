"""Keys of results: the hash of everything that a result depends on, the code that makes it included."""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

OUR_PACKAGES = ("catwalk", "lightning_modules", "datamodules", "callbacks")


def stage_key(settings: Mapping[str, Any], modules: Iterable[str]) -> str:
    """Return the key of a result: the hash of its settings, of the code that makes it, and of PyTorch's version.

    Args:
        settings: What the result depends on, as plain values: parameters, seeds, fingerprints and keys of inputs.
        modules: Names of the modules whose code makes the result; what they import of ours is included.
    """
    content = {
        "settings": settings,
        "code": _code_of(tuple(modules)),
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


@cache
def _code_of(modules: tuple[str, ...]) -> dict[str, str]:
    """Return the hash of the code of modules and of all that they import of ours, by name."""
    return {name: _code_hash(name) for name in sorted(modules_imported_by(modules))}


def modules_imported_by(modules: Iterable[str]) -> set[str]:
    """Return modules together with everything of our packages that they import, directly or not."""
    found: set[str] = set()
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name not in found and _source(name) is not None:
            found.add(name)
            pending.extend(_imports(name))
    return found


@cache
def _source(module: str) -> str | None:
    """Return a module's source, or None if it is no Python module."""
    try:
        spec = importlib.util.find_spec(module)
    except (ModuleNotFoundError, ValueError):  # the second of a script's or a notebook's own ``__main__``
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin).read_text(encoding="utf-8")


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Return the modules of our packages from which a module imports something.

    What a package's ``__init__`` only passes on counts as imported from where it is defined: who takes the base class
    from a package of attacks does not depend on every attack in it.
    """
    names: list[str] = []
    for node in ast.walk(_code(module)):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.extend(_origin(node.module, alias.name) for alias in node.names if _is_ours(node.module))
    return tuple(name for name in names if _is_ours(name))


def _origin(module: str, name: str) -> str:
    """Return the module in which what ``from module import name`` gives is defined."""
    if _source(f"{module}.{name}") is not None:
        return f"{module}.{name}"
    for node in _code(module).body:
        if isinstance(node, ast.ImportFrom) and node.module is not None and _is_ours(node.module):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return _origin(node.module, alias.name)
    return module


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in OUR_PACKAGES


@cache
def _code_hash(module: str) -> str:
    """Return the hash of a module's code."""
    return hashlib.sha256(ast.dump(_code(module)).encode()).hexdigest()


@cache
def _code(module: str) -> ast.Module:
    """Return a module's code, without comments and docstrings, which change no result."""
    tree = ast.parse(_source(module) or "")
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                child
                for child in body
                if not (
                    isinstance(child, ast.Expr)
                    and isinstance(child.value, ast.Constant)
                    and isinstance(child.value.value, str)
                )
            ]
    return tree


def forget_code() -> None:
    """Read the modules anew for the next key: their files have changed since this process began."""
    for cached in (_source, _code, _imports, _code_hash, _code_of):
        cached.cache_clear()
