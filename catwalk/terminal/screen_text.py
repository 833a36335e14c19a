r"""Text of others on the screen: what a terminal would obey is shown instead, in one place for all that is printed.

Ids, names and paths come from files that others write. A terminal takes the control characters in them for commands:
another title, a cleared screen, text that runs from right to left. :func:`printable` writes them as Python does,
``\x1b`` for one, and :func:`protect` does so with all that the process prints.
"""

import logging
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from catwalk.configuration.names import OUR_PACKAGES

if TYPE_CHECKING:  # which takes a tenth of a second, and `catwalk --help` needs no Rich
    from rich.console import Console
    from rich.segment import Segment
    from rich.text import Text

UNSAFE = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f"  # C0 without tab and line feed, and DEL
    "\x80-\x9f"  # C1, whose \x9b begins a sequence as ESC [ does
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what changes the direction of text
    "\u2028\u2029"  # separators of lines and of paragraphs
    "\ud800-\udfff"  # bytes of a file's name that are no UTF-8, which no stream can encode
    "]"
)
"""Characters that are no text to a terminal."""


SOURCES = Path(__file__).parents[2]
"""The folder of our packages."""


def printable(text: str) -> str:
    """Return a text with the characters of :data:`UNSAFE` written as Python's escapes; line breaks and tabs stay."""
    return UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)


def protect() -> None:
    """Make what the process prints from now on :func:`printable`: Rich's texts and tables, warnings, and log lines.

    Lightning's are among them. What Rich itself sends to a terminal, colours and the moves of its bars, stays.
    """
    _protect_rich()
    warnings.showwarning = _show_warning
    logging.setLogRecordFactory(_PrintableRecord)


def _protect_rich() -> None:
    """Change texts before they are measured, for straight tables, and segments, which are all that is shown."""
    from rich.console import Console
    from rich.segment import Segment

    render, render_str = Console.render, Console.render_str
    if hasattr(render, "is_protected"):
        return

    def protected_render(self: "Console", *arguments: Any, **settings: Any) -> Iterable["Segment"]:
        for segment in render(self, *arguments, **settings):
            is_unsafe = segment.control is None and UNSAFE.search(segment.text) is not None
            yield Segment(printable(segment.text), segment.style) if is_unsafe else segment

    def protected_render_str(self: "Console", text: str, **settings: Any) -> "Text":
        return render_str(self, printable(text), **settings)

    protected_render.is_protected = True  # type: ignore[attr-defined]
    Console.render = protected_render  # type: ignore[method-assign]
    Console.render_str = protected_render_str  # type: ignore[method-assign]


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning: one of ours, which is for the user, as a line, and any other as Python does."""
    text = warnings.formatwarning(message, category, filename, lineno, line)
    if any(Path(filename).is_relative_to(SOURCES / package) for package in OUR_PACKAGES):
        text = f"warning: {' '.join(str(message).split())}\n"
    print(printable(text), end="", file=file or sys.stderr)


class _PrintableRecord(logging.LogRecord):
    """A log line."""

    def getMessage(self) -> str:  # noqa: N802
        """Return its text."""
        return printable(super().getMessage())
