"""Write the tables of README, docs/ and benchmarks/ from the data that they show.

    python docs/write_tables.py

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``. Its name is

- ``STUDY/TABLE``, such as ``demo/table1``: made of a CSV file of ``results/STUDY/``, which ``make results`` brings
  there; :data:`TABLES` has the tables that are known;
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
    return RESULTS / file / f"{FILES.get(part, part)}.csv" if part in TABLES else BENCHMARKS / f"{file}.json"


def table(name: str) -> str:
    """Return a table as Markdown; see :func:`with_tables`."""
    part = name.partition("/")[2]
    if part in TABLES:
        return TABLES[part](read(data(name)))
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


def signed(row: dict[str, str], name: str) -> str:
    """Return a change with its interval."""
    mean, low, high = (f"{float(row[f'{name}{end}']):+.3f}" for end in ("", "_low", "_high"))
    return f"{mean} [{low}, {high}]"


def table_1(rows: list[dict[str, str]]) -> str:
    """Return CHR@K of the source category with the change from no attack; bold what was pushed."""
    headings = [name.removesuffix(" sd") for name in rows[0] if name.endswith(" sd")]
    lines = []
    for row in rows:
        cells = []
        for name in headings:
            text = f"{float(row[name]):.4f}"
            if row[f"{name} change"]:
                change, low, high = (float(row[f"{name} change{end}"]) for end in ("", " low", " high"))
                text += f" ({change:+.3f} [{low:+.3f}, {high:+.3f}])"
            else:
                text += f" ± {float(row[f'{name} sd']):.4f}"
            cells.append(f"**{text}**" if row[f"{name} verdict"] == "pushed" else text)
        lines.append([row["model"], row["attack"], *cells])
    return markdown(["Model", "Attack", *(name.partition(" CHR@")[0] for name in headings)], lines, texts=2)


def result(rows: list[dict[str, str]]) -> str:
    """Return the verdicts on the attacks, by recommender, attack and network, with the change in per cent."""
    chosen = [row for row in rows if row["scenario"] == "poisoning" and not row["control"]]
    names = list(dict.fromkeys(row["extractor"] for row in chosen))
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in chosen:
        share = f" {100 * float(row['relative']):+.1f}%" if row["relative"] else ""
        text = f"{row['verdict']}{share}"
        of_row = lines.setdefault((row["recommender"], row["attack"]), {})
        of_row[row["extractor"]] = f"**{text}**" if row["verdict"] == "pushed" else text
    cells = ([*labels, *(of_row.get(name, "–") for name in names)] for labels, of_row in lines.items())
    return markdown(["Model", "Attack", *names], cells, texts=2)


def effects(rows: list[dict[str, str]]) -> str:
    """Return every effect with its interval and verdict."""
    lines = [
        [
            *(row["recommender"], row["extractor"], row["attack"], row["scenario"] or "–", row["verdict"]),
            *(f"{float(row['clean']):.4f}", signed(row, "difference"), f"{float(row['p_adjusted']):.3f}"),
        ]
        for row in rows
    ]
    return markdown(["Model", "CNN", "Attack", "Scenario", "Verdict", "Clean", "Change", "p"], lines, texts=5)


def shams(rows: list[dict[str, str]]) -> str:
    """Return the changes of shams and attacks, and what is between them."""

    def changed(row: dict[str, str], name: str) -> str:
        mean, low, high = (f"{float(row[f'{name}{end}']):+.3f}" for end in ("", " low", " high"))
        return f"{mean} [{low}, {high}]"

    names = ("Sham", "Attack", "Attack less sham")
    lines = []
    for row in rows:
        choices = [choice.rpartition(" ")[2] for choice in row["protocol"].split(", ")]
        labels = [*choices, row["cnn"], row["model"], row["says"]]
        lines.append([*labels, *(changed(row, name) for name in names)])
    chosen_by = ["Items by", "Background by", "CHR classes by"]
    return markdown([*chosen_by, "CNN", "Model", "Says", *names], lines, texts=6)


def table_2(rows: list[dict[str, str]]) -> str:
    """Return what each attack did to the images, by network, with intervals over the images."""

    def ends(row: dict[str, str], name: str, factor: int) -> str:
        low, high = (factor * float(row[f"{name} {end}"]) for end in ("low", "high"))
        return f"[{low:.3g}, {high:.3g}]"

    lines = [
        [
            network,
            row["attack"],
            row[f"{network} Items"],
            f"{float(row[f'{network} SR']):.2%} {ends(row, f'{network} SR', 100)}",
            f"{float(row[f'{network} FL']):.7f} {ends(row, f'{network} FL', 1)}",
            f"{100 * float(row[f'{network} LPIPS']):.4f} {ends(row, f'{network} LPIPS', 100)}",
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


def decomposition(rows: list[dict[str, str]]) -> str:
    """Return what the effects consist of, mean over seeds, of the attacks on recommenders trained on their images."""
    columns = {
        "won_by_attacked": "by the attacked",
        "won_by_others": "by others",
        "gain_bought_source": "users who bought the source",
        "gain_bought_target": "the target",
        "gain_neither": "neither",
        "users_reached": "users reached",
        "attacked_mean_rank_clean": "mean rank before",
        "attacked_mean_rank": "after",
    }
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        if row["scenario"] == "poisoning" and not row["control"]:
            groups.setdefault((row["recommender"], row["extractor"], row["attack"]), []).append(row)
    lines = []
    for labels, of_one in groups.items():
        means = {
            name: sum(float(row[name]) for row in of_one) / len(of_one)
            for name in columns
            if all(row[name] for row in of_one)
        }
        cells = []
        for name in columns:
            form = ".1%" if name == "users_reached" else ".1f" if "rank" in name else "+.3f"
            cells.append(f"{means[name]:{form}}" if name in means else "–")
        lines.append([*labels, *cells])
    return markdown(["Model", "CNN", "Attack", *columns.values()], lines, texts=3)


def defences(rows: list[dict[str, str]]) -> str:
    """Return the success rates of attacks without what stands in front of a network, plain and adaptive."""
    columns = ("SR without", "SR plain", "SR adaptive")

    def rate(row: dict[str, str], name: str) -> str:
        if not row[name]:
            return "–"
        low, high = (float(row[f"{name} {end}"]) for end in ("low", "high"))
        return f"{float(row[name]):.0%} [{100 * low:.0f}, {100 * high:.0f}]"

    lines = ([row["cnn"], row["attack"], *(rate(row, name) for name in columns)] for row in rows)
    return markdown(["CNN", "Attack", "Without", "Plain", "Adaptive"], lines, texts=2)


def detectors(rows: list[dict[str, str]]) -> str:
    """Return what detectors find of each attack: AUROC, and the rate at 1% of false positives."""

    def within(row: dict[str, str], name: str, form: str) -> str:
        value, low, high = (format(float(row[column]), form) for column in (name, f"{name} low", f"{name} high"))
        return f"{value} [{low}, {high}]"

    lines = (
        [row["cnn"], row["detector"], row["attack"], within(row, "AUROC", ".3f"), within(row, "TPR", ".0%")]
        for row in rows
    )
    return markdown(["CNN", "Detector", "Attack", "AUROC", "TPR at 1% FPR"], lines, texts=3)


TABLES: dict[str, Callable[[list[dict[str, str]]], str]] = {
    "table1": table_1,
    "evasion": table_1,
    "result": result,
    "effects": effects,
    "shams": shams,
    "table2": table_2,
    "networks": networks,
    "decomposition": decomposition,
    "defences": defences,
    "detectors": detectors,
}
"""Tables of studies, by the file that has their data."""

FILES = {"result": "effects", "decomposition": "cells"}
"""Files of tables that are not called like them."""

if __name__ == "__main__":
    for page in pages():
        text = page.read_text("utf-8")
        page.write_text(with_tables(text), "utf-8")
