"""Write the tables of README, docs/ and benchmarks/ from the data that they show.

    python docs/write_tables.py

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``. Its name is

- ``demo/table1``, ``demo/table2``, ``demo/networks`` or ``demo/exposure``: that of a file of ``results/demo/``, which
  ``make demo`` and ``docs/exposure_by_users.py`` write;
- ``FILE/TABLE``: a table of ``benchmarks/results/FILE.json``, which a script of ``benchmarks/`` writes with ``--json``.

A test fails where a page shows something else than its data. Without data a table stays as it is.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "results"
BENCHMARKS = REPOSITORY / "benchmarks" / "results"
TABLE = re.compile(r"(<!-- table: ([\w/]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def pages() -> list[Path]:
    """Return the pages that may show tables."""
    return [
        REPOSITORY / "README.md",
        REPOSITORY / "benchmarks" / "README.md",
        *sorted(Path(__file__).parent.glob("*.md")),
    ]


def with_tables(text: str) -> str:
    """Return the text of a page with its tables written anew.

    Raises:
        KeyError: If a file of data has no such table.
    """
    return TABLE.sub(
        lambda match: f"{match[1]}\n{table(match[2])}\n\n{match[3]}" if data(match[2]).is_file() else match[0], text
    )


def data(name: str) -> Path:
    """Return the file with the data of a table, whether it is there or not."""
    file, _, part = name.partition("/")
    return RESULTS / "demo" / f"{part}.csv" if file == "demo" else BENCHMARKS / f"{file}.json"


def table(name: str) -> str:
    """Return a table as Markdown; see :func:`with_tables`."""
    file, _, part = name.partition("/")
    if file == "demo":
        return DEMO[part](read(data(name)))
    # decimals keep the digits that they are written with
    found = json.loads(data(name).read_text("utf-8"), parse_float=Decimal)["tables"][part]
    return markdown(found["columns"], (map(shown, row) for row in found["rows"]))


def shown(cell: str | int | Decimal) -> str:
    """Return the text of a cell of a benchmark: whole numbers with commas, decimals with the digits that they have."""
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def markdown(header: Sequence[str], rows: Iterable[Iterable[str]], texts: int = 1) -> str:
    """Return a table whose first columns are texts and whose others are numbers."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def networks_of(rows: Sequence[dict[str, str]], last: str) -> list[str]:
    """Return the networks of a table that has several columns for each, of which one is called so at its end."""
    return [name.removesuffix(f" {last}") for name in rows[0] if name.endswith(f" {last}")]


def table_1(rows: list[dict[str, str]]) -> str:
    """Return CHR@20 of the source category by recommender, attack and network; bold where an attack raised it most."""
    networks, lines = networks_of(rows, "sd"), []
    for row in rows:
        cells = []
        for network in networks:
            rivals = [float(other[network]) for other in rows if other["model"] == row["model"]]
            text = f"{float(row[network]):.4f} ± {float(row[f'{network} sd']):.4f}"
            raised_most = float(row[network]) == max(rivals) > rivals[0]
            cells.append(f"**{text}**" if raised_most else text)
        lines.append([row["model"], row["attack"], *cells])
    return markdown(["Model", "Attack", *networks], lines, texts=2)


def table_2(rows: list[dict[str, str]]) -> str:
    """Return what each attack did to the images, by network."""
    lines = [
        [
            network,
            row["attack"],
            row[f"{network} Items"],
            f"{float(row[f'{network} SR']):.2%}",
            f"{float(row[f'{network} FL']):.7f}",
            f"{100 * float(row[f'{network} LPIPS']):.4f}",
        ]
        for network in networks_of(rows, "Items")
        for row in rows
    ]
    return markdown(["CNN", "Attack", "Items", "SR", "FL", "LPIPS"], lines, texts=2)


def networks(rows: list[dict[str, str]]) -> str:
    """Return the networks' accuracies."""
    name, *accuracies = rows[0]
    lines = ([row[name], *(f"{float(row[accuracy]):.2%}" for accuracy in accuracies)] for row in rows)
    return markdown(["CNN", *accuracies], lines)


def exposure(rows: list[dict[str, str]]) -> str:
    """Return CHR@20 by what users have bought."""
    _, _, *groups, rank = rows[0]
    lines = (
        [row["CNN"], row["Attack"], *(f"{float(row[group]):.3f}" for group in groups), f"{float(row[rank]):.1f}"]
        for row in rows
    )
    return markdown(list(rows[0]), lines, texts=2)


DEMO: dict[str, Callable[[list[dict[str, str]]], str]] = {
    "table1": table_1,
    "table2": table_2,
    "networks": networks,
    "exposure": exposure,
}

if __name__ == "__main__":
    for page in pages():
        text = page.read_text("utf-8")
        page.write_text(with_tables(text), "utf-8")
