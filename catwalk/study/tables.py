"""A study's tables: Tables 1 and 2 in the paper's shape, and the accuracy of the networks."""

import csv
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from catwalk.files.atomic import open_text, write_text
from catwalk.files.csv_text import to_cell
from catwalk.study.cells import Cell, distinct, where
from catwalk.study.latex import DEFINE_OTHER_SCRIPT, OTHER_SCRIPT, label, latex

WIDEST = 10_000
"""Columns of a screen on which every table has room."""

MARKDOWN_ESCAPES = str.maketrans({character: f"\\{character}" for character in "\\`*_|<[]~"})


@dataclass(frozen=True)
class Value:
    """An entry of a table: a mean over seeds, with its spread where there are several.

    Attributes:
        values: One value per seed.
        digits: Decimals to show.
        factor: By what to multiply it.
        unit: What stands behind it.
    """

    values: tuple[float, ...]
    digits: int = 4
    factor: int = 1
    unit: str = ""

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def number(self) -> float:
        """Mean over the seeds, a whole number where there are no decimals to show."""
        return round(self.mean) if self.digits == 0 else self.mean

    def text(self, plus_minus: str = "±") -> str:
        """Return the value as people read it."""
        text = f"{self.factor * self.mean:.{self.digits}f}{self.unit}"
        if self.spread is None:
            return text
        return f"{text} {plus_minus} {self.factor * self.spread:.{self.digits}f}{self.unit}"


def percentage(values: tuple[float, ...]) -> Value:
    """Return a value that is shown as a percentage."""
    return Value(values, 2, factor=100, unit="%")


Row = tuple[tuple[str, ...], tuple[Value | None, ...]]
"""Labels and values."""


@dataclass(frozen=True)
class Table:
    """A table with row labels on the left and two rows of headings.

    Attributes:
        name: What it is called, before the title.
        title: One line above it.
        notes: What a reader must know to read it, below it.
        row_headings: Headings of the label columns.
        groups: Upper headings of the values, one per column; neighbours with the same text are one.
        headings: Lower headings of the values, one per column.
        rows: Labels and values of every row; None is a value that does not exist.
        best: Places ``(row, column)`` to print in bold.
        group_heading: What the groups are.
    """

    name: str
    title: str
    notes: str
    row_headings: tuple[str, ...]
    groups: tuple[str, ...]
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    best: frozenset[tuple[int, int]]
    group_heading: str = "CNN"

    def write(self, stem: Path) -> None:
        """Write ``stem.csv``, ``stem.md`` and ``stem.tex``."""
        self._write_csv(stem.with_suffix(".csv"))
        write_text(stem.with_suffix(".md"), self.markdown())
        write_text(stem.with_suffix(".tex"), self.latex(label(stem.parent.name, stem.name)))

    @property
    def heading(self) -> str:
        """Name and title."""
        return f"{self.name}: {_shown(self.title)}"

    def _write_csv(self, path: Path) -> None:
        names = [f"{group} {heading}".strip() for group, heading in zip(self.groups, self.headings, strict=True)]
        # A spread is a column of its own, where the values have one.
        spreads = [
            any(row[1][column] is not None and row[1][column].spread is not None for row in self.rows)  # type: ignore[union-attr]
            for column in range(len(names))
        ]
        with open_text(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            header: list[str] = [heading.lower() for heading in self.row_headings]
            for name, spread in zip(names, spreads, strict=True):
                header += [name, f"{name} sd"] if spread else [name]
            writer.writerow(map(to_cell, header))
            for labels, values in self.rows:
                row: list[Any] = list(labels)
                for value, spread in zip(values, spreads, strict=True):
                    row.append("" if value is None else value.number)
                    if spread:
                        row.append("" if value is None or value.spread is None else value.spread)
                writer.writerow(map(to_cell, row))

    def markdown(self) -> str:
        """Return the table in GitHub's Markdown."""
        values = [f"{g} · {h}" if g else h for g, h in zip(self.groups, self.headings, strict=True)]
        headings = [_markdown(heading) for heading in (*self.row_headings, *values)]
        lines = [f"**{_markdown(self.heading)}**", "", f"| {' | '.join(headings)} |"]
        lines.append(f"|{'---|' * len(self.row_headings)}{'---:|' * len(self.headings)}")
        for number, (labels, _) in enumerate(self.rows):
            cells = [*map(_markdown, labels), *self._texts(number, "**{}**", "±")]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join([*lines, "", _markdown(self.notes), ""])

    def latex(self, key: str) -> str:
        r"""Return the table as a LaTeX ``table`` for the ``booktabs`` package, with its notes below it.

        Args:
            key: For ``\ref``.
        """
        labels_count = len(self.row_headings)
        caption = self.title[:1].upper() + self.title[1:]
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{_latex(caption)}}}", rf"\label{{{key}}}"]
        lines += [rf"\begin{{tabular}}{{{'l' * labels_count}{'r' * len(self.headings)}}}", r"\toprule"]
        if any(self.groups):
            upper = [""] * labels_count + [
                rf"\multicolumn{{{len(list(neighbours))}}}{{c}}{{{_latex(group)}}}"
                for group, neighbours in itertools.groupby(self.groups)
            ]
            lines.append(rf"{' & '.join(upper)} \\")
        lower = map(_latex, (*self.row_headings, *self.headings))
        lines += [rf"{' & '.join(lower)} \\", r"\midrule"]
        for number, (labels, _) in enumerate(self.rows):
            cells = [_latex(label) for label in labels] + self._texts(number, r"\textbf{{{}}}", r"$\pm$", latex)
            lines.append(rf"{' & '.join(cells)} \\")
        lines += [r"\bottomrule", r"\end{tabular}", "", r"\medskip"]
        lines.append(rf"\parbox{{\linewidth}}{{\footnotesize {_latex(self.notes)}}}")
        text = "\n".join([*lines, r"\end{table}", ""])
        head = "% Needs the booktabs package.\n"
        return head + (f"{DEFINE_OTHER_SCRIPT}\n" if OTHER_SCRIPT in text else "") + text

    def show(self, console: Console) -> None:
        """Print the table; where it is too wide for the screen, its groups stand one below the other."""
        table = self._screen_table()
        unbounded = console.options.update(max_width=WIDEST)
        if console.measure(table, options=unbounded).maximum > console.width and len(set(self.groups)) > 1:
            table = self._stacked()._screen_table()
        console.print(escape(self.heading), style="bold", highlight=False)
        console.print(table)
        console.print(escape(_shown(self.notes)), style="dim", highlight=False)

    def _stacked(self) -> "Table":
        """Return the table with its groups as the first label of the rows, all of which have the same headings."""
        names = list(dict.fromkeys(self.groups))
        width = len(self.groups) // len(names)
        rows = tuple(
            ((name, *labels), values[place * width : (place + 1) * width])
            for place, name in enumerate(names)
            for labels, values in self.rows
        )
        best = {(row + column // width * len(self.rows), column % width) for row, column in self.best}
        return replace(
            self,
            row_headings=(self.group_heading, *self.row_headings),
            groups=("",) * width,
            headings=self.headings[:width],
            rows=rows,
            best=frozenset(best),
        )

    def _screen_table(self) -> RichTable:
        table = RichTable(box=box.SIMPLE_HEAD, collapse_padding=True)
        for heading in self.row_headings:
            table.add_column(escape(_shown(heading)), no_wrap=True)
        for group, heading in zip(self.groups, self.headings, strict=True):
            above = f"{_shown(group)}\n" if group else ""
            table.add_column(escape(above + _shown(heading)), justify="right", no_wrap=True)
        previous: tuple[str, ...] = ()
        for number, (labels, _) in enumerate(self.rows):
            if previous and labels[0] != previous[0] and len(labels) > 1:
                table.add_section()
            shown = [
                label if position == len(labels) - 1 or labels[: position + 1] != previous[: position + 1] else ""
                for position, label in enumerate(labels)
            ]
            table.add_row(*(escape(_shown(label)) for label in shown), *self._texts(number, "[bold]{}[/]", "±"))
            previous = labels
        return table

    def _texts(self, row: int, bold: str, plus_minus: str, escape: Any = str) -> list[str]:
        texts = []
        for column, value in enumerate(self.rows[row][1]):
            if value is None:
                texts.append(escape("–"))
                continue
            text = value.text("PLUSMINUS")
            text = escape(text).replace("PLUSMINUS", plus_minus)
            texts.append(bold.format(text) if (row, column) in self.best else text)
        return texts


def table_1(cells: Sequence[Cell], top_k: int, purposes: str, remarks: str = "") -> Table:
    """Return CHR@K of the source category by recommender and attack, mean and standard deviation over seeds.

    In bold the attack that raised it most over no attack, where one did.

    Args:
        cells: All cells of a study, those without attack first.
        top_k: K.
        purposes: What the attacks are for, as a sentence.
        remarks: What a reader must know of the networks, as sentences.
    """
    source, dataset = _named(cells[0].source), _named(cells[0].dataset)
    extractors = distinct(cells, "extractor")
    rows: list[Row] = []
    best: set[tuple[int, int]] = set()
    for recommender in distinct(cells, "recommender"):
        start = len(rows)
        for attack in distinct(cells, "attack"):
            chosen = [where(cells, recommender=recommender, attack=attack, extractor=name) for name in extractors]
            if any(chosen):  # some attacks are not for every recommender
                values = [tuple(cell.chr for cell in its_cells if cell.chr is not None) for its_cells in chosen]
                rows.append(((recommender, attack), tuple(map(Value, values))))
        for column in range(len(extractors)):
            highest = _highest(rows[start:], column)
            if highest:  # the first row is without attack
                best.add((start + highest, column))
    seeds = len(distinct(cells, "seed"))
    spread = f", mean ± standard deviation over {seeds} retraining seeds" if seeds > 1 else ""
    return Table(
        name="Table 1",
        title=f"CHR@{top_k} of {source} on {dataset}{spread}",
        notes=_sentences(
            f"Average number of {source} items in a user's top {top_k}.",
            purposes,
            _attacked(cells),
            "Bold: the attack that raised it most, where one did.",
            remarks,
        ),
        row_headings=("Model", "Attack"),
        groups=("",) * len(extractors),
        headings=tuple(extractors),
        rows=tuple(rows),
        best=frozenset(best),
    )


def table_2(cells: Sequence[Cell], purposes: str, lpips_net: str, remarks: str = "") -> Table:
    """Return what attacks did by attack and network: attacked items, success rate, feature loss and LPIPS × 100.

    In bold the best of each for the attacker.

    Of an attack that knows the recommender there is one for each, and these are means and standard deviations.

    Args:
        cells: All cells of a study.
        purposes: What the attacks are for, as a sentence.
        lpips_net: The network under LPIPS.
        remarks: What a reader must know of the networks, as sentences.
    """
    source, dataset = _named(cells[0].source), _named(cells[0].dataset)
    extractors = distinct(cells, "extractor")
    attacks = [attack for attack in distinct(cells, "attack") if where(cells, attack=attack)[0].sr is not None]
    rows: list[Row] = []
    for attack in attacks:
        values: list[Value | None] = []
        for extractor in extractors:
            its_cells = where(cells, attack=attack, extractor=extractor)
            outcomes = dict.fromkeys((cell.sr, cell.feature_loss, cell.lpips) for cell in its_cells)
            rates, losses, distances = zip(*outcomes, strict=True)
            looks = None if None in distances else Value(distances, 4, factor=100)
            # The network chooses them, not the attack.
            items = Value((its_cells[0].n_attacked or 0,), 0)
            values += [items, percentage(rates), Value(losses, 7), looks]
        rows.append(((attack,), tuple(values)))
    best = set()
    best_of = {"SR": _highest, "FL": _highest, "LPIPS": _lowest}
    headings = ("Items", *best_of) * len(extractors)
    for column, heading in enumerate(headings):
        if heading in best_of and any(row[1][column] is not None for row in rows):
            best.add((best_of[heading](rows, column), column))
    attacked = [cell for cell in cells if cell.sr_clean is not None]
    # Targeted and untargeted attacks want something else, and so had something else before.
    before = dict.fromkeys((cell.sr_clean, cell.extractor) for cell in attacked)
    shown = ", ".join(f"{share:.2%} ({extractor})" for share, extractor in before)
    legend = (
        "Items: how many were attacked. SR: share of the images that the CNN takes for the target, or, where an attack "
        f"has none, no longer for the source, judged by the 8-bit files read back; before any attack it was {shown}. "
        "FL: mean squared error of the features. LPIPS: how different the images look (network: "
        f"{lpips_net}), times 100. Bold: the highest SR and FL, and the lowest LPIPS."
    )
    return Table(
        name="Table 2",
        title=f"what the attacks did to the {source} images of {dataset}",
        notes=_sentences(purposes, legend if rows else "", remarks),
        row_headings=("Attack",),
        groups=tuple(extractor for extractor in extractors for _ in range(4)),
        headings=headings,
        rows=tuple(rows),
        best=frozenset(best),
    )


def networks_table(
    dataset: str, headings: Sequence[str], accuracies: Mapping[str, Sequence[float | None]], remarks: str = ""
) -> Table:
    """Return the accuracies of every network; bold the highest of each column.

    Args:
        dataset: Name of the dataset.
        headings: What each accuracy is.
        accuracies: By network, in the order of the headings; None for what was not measured.
        remarks: What a reader must know of the networks, as sentences.
    """
    rows: list[Row] = [
        ((name,), tuple(None if value is None else percentage((value,)) for value in values))
        for name, values in accuracies.items()
    ]
    columns = range(len(headings))
    return Table(
        name="Networks",
        title=f"accuracy on the test images of {_named(dataset)}",
        notes=_sentences("Under attack: every test image is led away from its category. Bold: the highest.", remarks),
        row_headings=("CNN",),
        groups=("",) * len(headings),
        headings=tuple(headings),
        rows=tuple(rows),
        best=frozenset((_highest(rows, column), column) for column in columns),
    )


def _attacked(cells: Sequence[Cell]) -> str:
    """Return how many items were attacked by network, as a sentence; nothing where none was."""
    numbers = dict.fromkeys((cell.n_attacked, cell.extractor) for cell in cells if cell.n_attacked is not None)
    shown = ", ".join(f"{number} ({extractor})" for number, extractor in numbers)
    return f"Attacked items: {shown}." if shown else ""


def _sentences(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _highest(rows: Sequence[Row], column: int) -> int:
    """Return the first of the rows with the highest value in a column."""
    means = _means(rows, column, missing=-math.inf)
    return max(range(len(means)), key=means.__getitem__)


def _lowest(rows: Sequence[Row], column: int) -> int:
    """Return the first of the rows with the lowest value in a column."""
    means = _means(rows, column, missing=math.inf)
    return min(range(len(means)), key=means.__getitem__)


def _means(rows: Sequence[Row], column: int, missing: float) -> list[float]:
    return [value.mean if (value := values[column]) is not None else missing for _, values in rows]


def _shown(text: str) -> str:
    """Return text on one line."""
    return " ".join(text.split())


def _named(name: str) -> str:
    """Return what a table calls a category or a dataset, whose own names may be blank."""
    return _shown(name) or "(blank)"


def _markdown(text: str) -> str:
    """Return text on one line with Markdown's special characters escaped."""
    return _shown(text).translate(MARKDOWN_ESCAPES)


def _latex(text: str) -> str:
    """Return text on one line as LaTeX."""
    return latex(_shown(text))
