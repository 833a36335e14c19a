"""Text of others in the CSV files that people open: what a spreadsheet would compute is marked as text.

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula, and a formula may send the other
cells to somebody. Ids and names come from files that others write. So these cells begin with an apostrophe in all files
of results. Numbers are left alone, and so are the files of a dataset, whose ids are what they are.

Source: https://owasp.org/www-community/attacks/CSV_Injection
"""

import re
from typing import Any

FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
"""Beginning of a cell that is marked: a formula, or what looks like a mark before one."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)|[=+\-@]")
"""Text that a spreadsheet takes for a number, or for no formula."""


def to_cell(value: Any) -> Any:
    """Return what to write into a cell: text that a spreadsheet would compute with an apostrophe, all else as it is."""
    is_formula = isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value)
    return f"'{value}" if is_formula else value


def from_cell(text: str) -> str:
    """Return the text that :func:`to_cell` made a cell of."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
