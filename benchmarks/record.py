"""What a benchmark found, as a file of data: its tables, and what they depend on.

``benchmarks/results/`` holds such files, and ``docs/write_tables.py`` writes the tables of the pages from them.
"""

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from timing import Clock, markdown_table, processor

NUMBER = re.compile(r"-?\d+(\.\d+)?")
WITH_COMMAS = re.compile(r"\d{1,3}(,\d{3})+")


def add_record_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where a :class:`Record` is written."""
    parser.add_argument("--json", type=Path, help="file to write the tables to, with the commit, versions and machine")


class Record:
    """The tables of a run, written to a JSON file as each is added, so that a run that is stopped leaves its first.

    The file holds ``command``, ``commit`` (of a clone, with ``+`` behind it where files have been changed since),
    ``processor``, ``gpu``, ``threads``, ``clock``, ``versions``, and ``tables`` by their names, each with ``columns``
    and ``rows``. A cell that is a number is a JSON number with all digits that the table shows; others are
    text.

    Args:
        path: The file; None writes none.
        clock: What the run is measured by; None where it measures no time.
        packages: The packages whose versions count.
    """

    def __init__(self, path: Path | None, clock: Clock | None, packages: Iterable[str]) -> None:
        self.path = path
        on_gpu = clock is not None and clock.device.type == "cuda"
        self.facts = {
            "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
            "commit": commit(),
            "processor": f"{processor()}, {os.cpu_count()} cores",
            "gpu": torch.cuda.get_device_name(clock.device) if on_gpu else None,  # type: ignore[union-attr]
            "threads": torch.get_num_threads(),
            "clock": None if clock is None else "processor time" if clock.processor_time else "wall-clock time",
            "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        }
        self.tables: dict[str, tuple[Sequence[str], list[Sequence[str]]]] = {}

    def table(self, name: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
        """Add a table to the record and return it as Markdown.

        Args:
            name: What it is called in the file.
            header: The names of its columns.
            rows: The cells as they are to be shown.
        """
        self.tables[name] = header, list(rows)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(dumps(self.facts, self.tables), "utf-8")
        return markdown_table(*self.tables[name])


def commit() -> str | None:
    """Return the commit that is checked out around this file; None where it is in no clone."""
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return None
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    return head.stdout.strip() + ("+" if changed.stdout else "")


def dumps(facts: Mapping[str, object], tables: Mapping[str, tuple[Sequence[str], list[Sequence[str]]]]) -> str:
    """Return the text of a record, with a line for each row of a table."""
    lines = [f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}," for name, value in facts.items()]
    written = []
    for name, (header, rows) in tables.items():
        cells = ",\n".join(f"        [{', '.join(map(cell, row))}]" for row in rows)
        columns = json.dumps(list(header), ensure_ascii=False)
        written.append(
            f'    {json.dumps(name)}: {{\n      "columns": {columns},\n      "rows": [\n{cells}\n      ]\n    }}'
        )
    return "\n".join(["{", *lines, '  "tables": {', ",\n".join(written), "  }", "}", ""])


def cell(text: str) -> str:
    """Return the JSON of a cell: a number with all of its digits, or text."""
    if NUMBER.fullmatch(text):
        return text
    return text.replace(",", "") if WITH_COMMAS.fullmatch(text) else json.dumps(text, ensure_ascii=False)
