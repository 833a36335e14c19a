"""Objects by their import path."""

import importlib
import traceback
from pathlib import Path
from typing import Any

from catwalk.errors import CatwalkError


def import_object(path: str, argument: str) -> Any:
    """Import ``package.module.name``, where the module may be a file of the user's own.

    Args:
        path: The import path.
        argument: What the user calls it, for messages.

    Raises:
        CatwalkError: If there is no such object, or its module cannot be imported, whatever it raises.
    """
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise CatwalkError(f"{argument}: give an import path, such as torchvision.models.resnet50, got {path!r}")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise CatwalkError(f"{argument}: {path!r} cannot be imported: {error}") from error
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        raise CatwalkError(
            f"{argument}: {path!r} cannot be imported: {type(error).__name__}: {error} ({place})"
        ) from error
