"""Parsers whose help reads well and whose errors are raised, not printed."""

import re
from typing import Any

from jsonargparse import ArgumentParser, Namespace

# jsonargparse 4.49 renamed this, and `instantiate_classes`.
KEEP_NONE = {"skip_unset" if hasattr(ArgumentParser, "instantiate") else "skip_none": False}
"""Argument of a parser's ``dump`` and ``save`` by which settings of None are written too."""


class ReadableHelp:
    """Mixin of a parser: takes out of its help what only a programmer could use."""

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Return the help, with types as people write them and without the defaults that are no value."""
        return readable(super().format_help(*args, **kwargs))  # type: ignore[misc]


class CatwalkParser(ReadableHelp, ArgumentParser):
    """The parser of ``catwalk data`` and ``catwalk study``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"exit_on_error": False, **settings})


def instantiate(parser: ArgumentParser, settings: Namespace) -> Namespace:
    """Make the objects that the settings describe, with the jsonargparse of today and of yesterday."""
    method = getattr(parser, "instantiate", None) or parser.instantiate_classes
    return method(settings)


def readable(text: str) -> str:
    """Return a help text without class objects, absent defaults and markup; lines may become shorter."""
    text = re.sub(r"<class\s+'(?:\w+\.)*(\w+)'>", r"\1", text)
    text = re.sub(r",\s+default:\s+null\b", "", text)
    text = re.sub(r"\s+\|\s+null\b", "", text)
    text = re.sub(r"Union\[([^][]+),\s+null\]", r"\1", text)
    text = re.sub(r",null\}", "}", text)
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text)
    return text.replace("``", "`")
