"""Keys of results: the hash of everything that a result depends on, the code that makes it included."""

import ast
import hashlib
import importlib.util
import json
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

OUR_PACKAGES = ("catwalk", "lightning_modules", "datamodules", "callbacks")


@dataclass(frozen=True)
class Inputs:
    """All that a result depends on.

    Attributes:
        settings: Plain values: parameters, seeds, fingerprints and keys of inputs.
        code: Hash of the code of every module of ours that makes the result, by the module's name.
        torch: PyTorch's version.
    """

    settings: Mapping[str, Any]
    code: Mapping[str, str]
    torch: str

    @cached_property
    def key(self) -> str:
        """The hash of it all, under which the result is stored."""
        return hashlib.sha256(json.dumps(vars(self), sort_keys=True).encode()).hexdigest()[:24]


def inputs_of(settings: Mapping[str, Any], modules: Iterable[str]) -> Inputs:
    """Return what a result depends on: its settings, the code that makes it, and PyTorch's version.

    Args:
        settings: Plain values: parameters, seeds, fingerprints and keys of inputs.
        modules: Names of the modules whose code makes the result; what they import of ours is included, and what a
            user's own module imports from beside itself.
    """
    return Inputs(settings, _code_of(tuple(modules)), torch.__version__)


@cache
def _code_of(modules: tuple[str, ...]) -> dict[str, str]:
    """Return the hash of the code of modules and of all that they import of ours, by name."""
    return {name: _code_hash(name) for name in sorted(modules_imported_by(modules))}


def modules_imported_by(modules: Iterable[str]) -> set[str]:
    """Return modules together with everything of our packages and beside them that they import, directly or not."""
    found: set[str] = set()
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name not in found and _source(name) is not None:
            found.add(name)
            pending.extend(_imports(name))
    return found


_sources: dict[str, str | None] = {}
"""The sources that have been read, by module."""


def _source(module: str) -> str | None:
    """Return a module's source, or None if it is no Python module; read once."""
    if module not in _sources:
        _sources[module] = _read_source(module)
    return _sources[module]


def _read_source(module: str) -> str | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ModuleNotFoundError, ValueError):  # the second of a script's or a notebook's own ``__main__``
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin).read_text(encoding="utf-8")


def known_code() -> dict[str, str | None]:
    """Return the code of which keys have been made, for another process that is to make the same."""
    return dict(_sources)


def assume_code(code: Mapping[str, str | None]) -> str | None:
    """Make keys of code that another process has read.

    Args:
        code: What :func:`known_code` returned there.

    Returns:
        A module that reads otherwise by now; None where all are as they were.
    """
    forget_code()
    _sources.update(code)
    return next((name for name, source in code.items() if source is not None and _read_source(name) != source), None)


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Return the modules of our packages, or beside a user's own, from which a module imports something.

    What a package's ``__init__`` only passes on counts as imported from where it is defined: who takes the base class
    from a package of attacks does not depend on every attack in it.
    """
    names: list[str] = []
    for node in ast.walk(_code(module)):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported = _from(node, module)
            if _is_ours(imported):
                names.extend(_origin(imported, alias.name) for alias in node.names)
            else:
                names.append(imported)
                names.extend(f"{imported}.{alias.name}" for alias in node.names)
    return tuple(name for name in names if _is_ours(name) or _is_beside(name, module))


def _from(node: ast.ImportFrom, module: str) -> str:
    """Return the module from which a module imports, by its absolute name."""
    if not node.level:
        return node.module or ""
    spec = importlib.util.find_spec(module)
    return importlib.util.resolve_name("." * node.level + (node.module or ""), spec.parent if spec else None)


def _is_beside(name: str, module: str) -> bool:
    """Return whether a module is a user's own as another is: in the same folder, which is none of a Python's."""
    place = _place(module.partition(".")[0])
    return place is not None and not _is_ours(module) and _place(name.partition(".")[0]) == place


@cache
def _place(package: str) -> Path | None:
    """Return the folder that holds a user's own module or package; None for those that are installed or built in."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin)
    is_installed = {"site-packages", "dist-packages"} & set(path.parts) or path.is_relative_to(
        sysconfig.get_path("stdlib")
    )
    if is_installed:
        return None
    return path.parents[1] if spec.submodule_search_locations else path.parent


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
    _sources.clear()
    for cached in (_code, _imports, _code_hash, _code_of):
        cached.cache_clear()
