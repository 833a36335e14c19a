"""The rooms of the house and which of them may know which: imports go one way, and never in a circle."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGES = ("catwalk", "datamodules", "lightning_modules", "callbacks")

BASE = {"errors", "limits", "keyed_random", "moved"}
"""Modules beside the rooms, which every room may know."""

KNOWS = {
    "files": set(),
    "configuration": set(),
    "terminal": {"configuration"},
    "shop": {"configuration", "files"},
    "importers": {"files", "shop", "terminal"},
    "processing": {"configuration", "files"},
    "networks": {"configuration", "files", "processing", "shop"},
    "recommenders": {"files", "networks", "shop"},
    "metrics": {"recommenders", "shop"},
    "detectors": {"files", "networks", "processing", "shop"},
    "attacks": {"detectors", "networks", "recommenders", "shop"},
    "results": {"files"},
    "poisoning": {
        *("attacks", "configuration", "files", "metrics", "networks", "processing", "recommenders", "results"),
        *("shop", "terminal"),
    },
    "perceptual": {"attacks", "files", "metrics", "networks", "poisoning", "shop"},
    "plots": {"files", "networks", "poisoning", "shop"},
    "detection": {"detectors", "files", "metrics", "networks", "plots", "poisoning", "shop", "terminal"},
    "overview": {"files", "plots", "shop"},
    "lightning_modules": {"attacks", "detectors", "files", "metrics", "networks", "processing", "recommenders", "shop"},
    "datamodules": {"detection", "detectors", "files", "networks", "poisoning", "recommenders", "shop"},
    "callbacks": {
        *("attacks", "files", "lightning_modules", "metrics", "networks", "perceptual", "plots", "poisoning"),
        *("recommenders", "results", "shop", "terminal"),
    },
    "study": {
        *("attacks", "callbacks", "configuration", "datamodules", "detection", "detectors", "files"),
        *("lightning_modules", "metrics", "networks", "overview", "perceptual", "plots", "poisoning", "processing"),
        *("recommenders", "results", "shop", "terminal"),
    },
    "tuning": {"configuration", "files", "lightning_modules", "networks", "shop", "study"},
    "cli": {
        *("attacks", "callbacks", "configuration", "datamodules", "detection", "files", "importers"),
        *("lightning_modules", "networks", "overview", "perceptual", "plots", "poisoning", "processing"),
        *("recommenders", "results", "shop", "study", "terminal", "tuning"),
    },
}
"""The rooms in the order of the flow, and for each the rooms that it may import from."""


def modules() -> dict[str, Path]:
    paths = [path for package in PACKAGES for path in sorted((PROJECT / package).rglob("*.py"))]
    return {".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = modules()


def imports(module: str) -> Iterator[str]:
    """Yield the modules of ours that a module imports, wherever in it, for its types alone, too."""
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: an import relative to the module"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            found = name if name in MODULES else name.rpartition(".")[0]
            if found in MODULES and found != module:
                yield found
            else:
                ours = name.partition(".")[0] in PACKAGES
                assert not ours or found in MODULES, f"{module} imports {name}, which there is not"


def room(module: str) -> str:
    if module == "catwalk.__main__":
        return "cli"
    package, *rest = module.split(".")
    return package if package != "catwalk" else rest[0] if rest else "catwalk"


def test_every_module_is_in_a_room() -> None:
    moved = {"backbones", "lazy_adam", "splits"}  # where configurations and checkpoints of old find them
    assert {room(module) for module in MODULES} == {"catwalk", *BASE, *moved, *KNOWS}


@pytest.mark.parametrize("name", KNOWS)
def test_a_room_knows_those_before_it_alone(name: str) -> None:
    own = [module for module in MODULES if room(module) == name]
    found = {room(other): f"{module} → {other}" for module in own for other in imports(module)}
    others = {other: arrow for other, arrow in found.items() if other not in {name, "catwalk", *BASE}}
    assert {arrow for other, arrow in others.items() if other not in KNOWS[name]} == set()
    assert KNOWS[name] - others.keys() == set(), "may be known and are not"
    order = list(KNOWS)
    assert all(order.index(other) < order.index(name) for other in KNOWS[name])


def test_what_all_know_knows_no_room() -> None:
    for name in BASE:
        assert {room(other) for other in imports(f"catwalk.{name}")} <= BASE


def test_no_circle_of_modules() -> None:
    graph = {module: set(imports(module)) for module in MODULES}
    assert sum(map(len, graph.values())) > 500
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' → '.join(error.args[1])}")
