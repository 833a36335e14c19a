"""Tables as files and on the screen, with names that have a meaning in LaTeX, Markdown and Rich."""

import csv
import io
import re
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from catwalk.study.tables import Figure, Table

NAMES = ("a_b & c%", "$x^2$ {y} ~ #1", "p|q *r* `s` <t>", "[bold]u[/bold] \\v", "FGSM (ε = 8)")


@pytest.fixture
def table() -> Table:
    rows = tuple(((name, str(number)), (Figure((number, number + 1.0)), None)) for number, name in enumerate(NAMES))
    return Table(
        title="A table of 100% [red]names[/red]",
        notes="A_note & more | of it",
        row_headings=("Name_1", "No."),
        groups=("G & H", "G & H"),
        headings=("x_1", "y|2"),
        rows=rows,
        best=frozenset({(1, 0)}),
    )


def plain_latex(text: str) -> str:
    """Return what LaTeX would print, and raise where it would not compile."""
    text = re.sub(r"\\textbf\{(.*?)\}$", r"\1", text)
    names = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">"}
    parts = re.split(r"(\\[a-z]+\{\}|\$\\[a-z]+\$|\\[&%#_${}])", text)
    assert not any(re.search(r"[&%#_${}~^\\<>]", part) for part in parts[::2]), text
    for place in range(1, len(parts), 2):
        part = parts[place]
        if part.endswith("{}"):
            parts[place] = names[part[1:-2]]
        elif part.startswith("$"):
            parts[place] = {"varepsilon": "ε", "pm": "±"}[part[2:-1]]
        else:
            parts[place] = part[1:]
    return "".join(parts)


def test_latex_prints_the_names_as_they_are(table: Table) -> None:
    lines = table.latex().splitlines()
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    cells = [[plain_latex(cell) for cell in re.split(r"(?<!\\) & ", line.removesuffix(r" \\"))] for line in body]
    assert [row[0] for row in cells] == list(NAMES)
    assert [row[3] for row in cells] == ["–"] * len(NAMES)
    assert cells[2][2] == f"{2.5:.4f} ± {statistics.stdev([2, 3]):.4f}"
    assert [r"\textbf{" in line for line in body] == [False, True, False, False, False]
    (caption,) = re.findall(r"\\caption\{(.*)\}$", table.latex(), re.MULTILINE)
    assert plain_latex(caption) == f"{table.title}. {table.notes}"
    header = lines[lines.index(r"\toprule") + 2].removesuffix(r" \\")
    assert [plain_latex(cell) for cell in re.split(r"(?<!\\) & ", header)] == ["Name_1", "No.", "x_1", "y|2"]


def plain_markdown(text: str) -> str:
    """Return what Markdown would show; every special character must stand after a backslash."""
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_|<\[]", text), text
    return re.sub(r"\\(.)", r"\1", text)


def test_markdown_shows_the_names_as_they_are(table: Table) -> None:
    lines = table.markdown().splitlines()
    rows = [re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |")) for line in lines if line[:2] == "| "]
    assert [len(row) for row in rows] == [4] * (1 + len(NAMES))
    assert [plain_markdown(row[0]) for row in rows[1:]] == list(NAMES)
    assert [row[2].startswith("**") and row[2].endswith("**") for row in rows[1:]] == [False, True, False, False, False]
    assert plain_markdown(lines[0].removeprefix("**").removesuffix("**")) == table.title
    assert plain_markdown(lines[-1]) == table.notes


def test_the_screen_shows_the_names_as_they_are(table: Table) -> None:
    file = io.StringIO()
    table.show(Console(file=file, width=100))
    for text in (*NAMES, table.title, table.notes):
        assert text in file.getvalue()


def test_groups_stand_below_one_another_where_the_screen_is_narrow() -> None:
    headings = ("SR", "FL", "LPIPS")
    row = tuple(Figure((float(number),), 7) for number in range(6))
    table = Table(
        title="t",
        notes="n",
        row_headings=("Attack",),
        groups=("T",) * 3 + ("AT",) * 3,
        headings=headings * 2,
        rows=((("FGSM",), row), (("PGD",), (*row[:5], None))),
        best=frozenset({(0, 1), (1, 3)}),
    )
    shown = []
    for width in (100, 50):
        file = io.StringIO()
        table.show(Console(file=file, width=width))
        shown.append([line.split() for line in file.getvalue().splitlines() if "SM" in line or "PG" in line])
    values = [f"{number:.7f}" for number in range(6)]
    assert shown[0] == [["FGSM", *values], ["PGD", *values[:5], "–"]]
    first, second = values[:3], values[3:]
    assert shown[1] == [["T", "FGSM", *first], ["PGD", *first], ["AT", "FGSM", *second], ["PGD", *second[:2], "–"]]


def test_csv_holds_the_figures_in_full(table: Table, tmp_path: Path) -> None:
    table.write(tmp_path / "table")
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".md", ".tex"}
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["name_1", "no.", "G & H x_1", "G & H x_1 sd", "G & H y|2"]
    assert [row[0] for row in rows] == list(NAMES)
    assert [float(row[2]) for row in rows] == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert {float(row[3]) for row in rows} == {statistics.stdev([0, 1])}
    assert {row[4] for row in rows} == {""}


def test_a_single_seed_has_no_deviation() -> None:
    assert Figure((0.25,)).text() == "0.2500"
    assert Figure((0.125,), digits=1, factor=100, unit="%").text() == "12.5%"
    assert Figure((0.1, 0.3), digits=1, factor=100, unit="%").text() == f"20.0% ± {100 * 0.02**0.5:.1f}%"
