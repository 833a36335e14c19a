"""What the packages import is what pyproject.toml asks for."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
OWN = ("catwalk", "lightning_modules", "datamodules", "callbacks", "configs")
OPTIONAL = {"ray", "timm"}
"""Modules that are imported where they are installed, and asked for otherwise."""


def _imports(package: str) -> Iterator[str]:
    for path in (REPOSITORY / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                yield node.module.partition(".")[0]


def _requirements() -> dict[str, dict[str, str]]:
    """Return the bounds of each requirement, by the list of pyproject.toml and the requirement's normalized name."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    lists = {"dependencies": project["dependencies"], **project["optional-dependencies"]}
    pattern = re.compile(r"([\w.-]+)(?:\[\w+\])?(.*)")
    return {
        name: {match[1].lower().replace("_", "-"): match[2] for match in map(pattern.fullmatch, entries) if match}
        for name, entries in lists.items()
    }


@pytest.mark.parametrize("package", OWN)
def test_every_import_is_a_requirement(package: str) -> None:
    distributions = packages_distributions()
    required = _requirements()["dependencies"]
    for module in set(_imports(package)) - set(sys.stdlib_module_names) - set(OWN) - OPTIONAL:
        names = {name.lower().replace("_", "-") for name in distributions.get(module, [module])}
        assert names & set(required), f"{module} is imported by {package} and not a dependency"


def test_every_requirement_has_a_lower_bound() -> None:
    for entries in _requirements().values():
        assert entries
        assert all(re.match(r">=\d", bound) for bound in entries.values()), entries


def test_the_parser_whose_messages_are_read_has_an_upper_bound() -> None:
    assert ",<" in _requirements()["dependencies"]["jsonargparse"]


def test_the_version_is_the_same_everywhere() -> None:
    patterns = {
        "pyproject.toml": r'^version = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        "CHANGELOG.md": r"^## (\S+)",
    }
    found = {
        name: re.findall(pattern, (REPOSITORY / name).read_text("utf-8"), re.MULTILINE)[0]
        for name, pattern in patterns.items()
    }
    assert len(set(found.values())) == 1, found
