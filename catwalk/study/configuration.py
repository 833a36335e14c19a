"""The settings of a study as a YAML file that runs it again."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from catwalk.files.atomic import write_text

CONFIGURATION_FILE = "study.yaml"

OF_ONE_RUN = (
    *("output", "store", "verify", "workers", "together", "executor", "address", "dry_run", "wandb", "wandb_artifacts"),
)
"""Arguments that say how a study runs and where, not what it is."""


def write_configuration(path: Path, arguments: Mapping[str, Any]) -> None:
    """Write the arguments of a study as ``catwalk study --config`` reads them, in their order.

    Args:
        path: The file.
        arguments: Those of :func:`catwalk.study.run_study`, by name; how it runs and where is left out.
    """
    write_text(path, yaml.safe_dump(settings_of(arguments), sort_keys=False, allow_unicode=True, width=120))


def settings_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a study that say what it is, as plain values."""
    return {name: _plain(value) for name, value in arguments.items() if name not in OF_ONE_RUN}


def _plain(value: Any) -> Any:
    """Return a value as YAML has it; of a dataclass the fields that are not as they are by default."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value) if not _is_default(value, each)}
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _is_default(value: Any, each: Any) -> bool:
    default = each.default if each.default_factory is MISSING else each.default_factory()
    return default is not MISSING and getattr(value, each.name) == default
