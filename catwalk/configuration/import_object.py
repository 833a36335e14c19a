"""Objects by their import path."""

import importlib
from typing import Any

from catwalk.errors import CatwalkError


def import_object(path: str, argument: str) -> Any:
    """Import ``package.module.name``, or raise a CatwalkError that names ``argument``."""
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise CatwalkError(f"{argument}: give an import path, such as torchvision.models.resnet50, got {path!r}")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CatwalkError(f"{argument}: {path!r} cannot be imported: {error}") from error
