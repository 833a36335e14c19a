"""Results on disk under the hash of everything that they depend on."""

import ast
import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

OUR_PACKAGES = ("catwalk", "lightning_modules", "datamodules", "callbacks")
RECORD_FILE = "stage.json"


class StageCache:
    """A folder of stage results, each written once, whole, and never changed.

    A result is made in a folder aside, flushed to the disk and renamed into its place, so that what stands there is
    complete, whenever a run was killed.

    Args:
        folder: Where the results live.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._partial = folder / ".partial"

    def path(self, stage: str, key: str) -> Path:
        """Return the folder of a result, whether it exists yet or not."""
        return self.folder / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Return whether a result is there."""
        return (self.path(stage, key) / RECORD_FILE).is_file()

    def write(self, stage: str, key: str, make: Callable[[Path], Mapping[str, Any]]) -> None:
        """Let ``make`` fill a folder, add what it returns as ``stage.json``, and put the folder in its place."""
        target = self.path(stage, key)
        partial = self._partial / f"{_host()}-{os.getpid()}-{uuid.uuid4().hex}"
        created = [folder for folder in (self._partial, self.folder, self.folder.parent) if not folder.exists()]
        partial.mkdir(parents=True)
        try:
            record = make(partial)
            (partial / RECORD_FILE).write_text(json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
            for path in [*partial.rglob("*"), partial]:
                _flush(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.rename(target)
            except OSError:
                if not self.has(stage, key):  # else another run was faster, with the same result
                    raise
            _flush(target.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            with contextlib.suppress(OSError):  # a folder that holds something by now
                for folder in created:
                    folder.rmdir()
            raise
        shutil.rmtree(partial, ignore_errors=True)  # where another run was faster

    def read(self, stage: str, key: str) -> dict[str, Any]:
        """Return the ``stage.json`` of a result."""
        return json.loads((self.path(stage, key) / RECORD_FILE).read_text())

    def remove_leftovers(self) -> None:
        """Remove what killed runs left half-done."""
        for partial in self._partial.glob(f"{_host()}-*-*"):
            if not _is_running(int(partial.name.split("-")[-2])):
                shutil.rmtree(partial, ignore_errors=True)


def _host() -> str:
    """Return this machine's name: a folder may be shared by several, and process numbers are each machine's own."""
    return platform.node().replace("-", "_") or "localhost"


def _is_running(process: int) -> bool:
    """Return whether a process of this machine runs."""
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, and is another user's
        return True
    return True


def stage_key(settings: Mapping[str, Any], modules: Iterable[str]) -> str:
    """Return the key of a result: the hash of its settings, of the code that makes it, and of PyTorch's version.

    Args:
        settings: What the result depends on, as plain values: parameters, seeds, fingerprints and keys of inputs.
        modules: Names of the modules whose code makes the result; what they import of ours is included.
    """
    content = {
        "settings": settings,
        "code": {name: _code_hash(name) for name in sorted(modules_imported_by(modules))},
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


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
    except ModuleNotFoundError:
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
    for node in ast.walk(ast.parse(_source(module) or "")):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.extend(_origin(node.module, alias.name) for alias in node.names if _is_ours(node.module))
    return tuple(name for name in names if _is_ours(name))


def _origin(module: str, name: str) -> str:
    """Return the module in which what ``from module import name`` gives is defined."""
    if _source(f"{module}.{name}") is not None:
        return f"{module}.{name}"
    for node in ast.parse(_source(module) or "").body:
        if isinstance(node, ast.ImportFrom) and node.module is not None and _is_ours(node.module):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return _origin(node.module, alias.name)
    return module


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in OUR_PACKAGES


@cache
def _code_hash(module: str) -> str:
    """Return the hash of a module's code without comments and docstrings, which change no result."""
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
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _flush(path: Path) -> None:
    """Make sure that a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
