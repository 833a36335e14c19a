"""The form of a study's tables: on the screen, as CSV, in Markdown and in LaTeX."""

import csv
import itertools
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from catwalk.files.atomic import open_text, write_text
from catwalk.files.csv_text import to_cell
from catwalk.study.effects import Effect
from catwalk.study.latex import DEFINE_OTHER_SCRIPT, OTHER_SCRIPT, label, latex

WIDEST = 10_000
"""Columns of a screen on which every table has room."""

MARKDOWN_ESCAPES = str.maketrans({character: f"\\{character}" for character in "\\`*_|<[]~"})


@dataclass(frozen=True)
class Value:
    """An entry of a table: a mean over seeds, with its spread where there are several, or with an interval.

    Attributes:
        values: One value per seed.
        digits: Decimals to show.
        factor: By what to multiply it.
        unit: What stands behind it.
        interval: Between what it lies, of several images or users; None leaves the spread over seeds.
        effect: By how much it differs from the same without attack; None where there is nothing to compare.
        is_short: Whether the effect is shown without its interval.
    """

    values: tuple[float, ...]
    digits: int = 4
    factor: int = 1
    unit: str = ""
    interval: tuple[float, float] | None = None
    effect: Effect | None = None
    is_short: bool = False

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
        if self.effect is not None:
            change, interval = _change(self.effect)
            return f"{text} {change}" if self.is_short else f"{text} {change} {interval}"
        if self.interval is not None:
            low, high = (f"{self.factor * bound:.3g}" for bound in self.interval)
            return f"{text} [{low}, {high}]"
        if self.spread is None:
            return text
        return f"{text} {plus_minus} {self.factor * self.spread:.{self.digits}f}{self.unit}"

    @property
    def columns(self) -> dict[str, Any]:
        """What a CSV file says of it beside the mean, by the ends of the columns' names."""
        columns: dict[str, Any] = {"sd": self.spread}
        if self.interval is not None:
            columns |= {"low": self.interval[0], "high": self.interval[1]}
        if self.effect is not None:
            change = self.effect.size.difference
            columns |= {"change": change.mean, "change low": change.low, "change high": change.high}
            columns |= {"verdict": self.effect.verdict}
        return columns


def _change(effect: Effect) -> tuple[str, str]:
    """Return an effect and its interval as a share of the metric without attack; in places where that is 0."""
    change, clean = effect.size.difference, effect.size.clean
    # By the mean without attack alone, so that the interval says what the verdict does.
    factor, unit, digits = (100 / clean, "%", 1) if clean else (1, "", 4)
    mean, low, high = (f"{factor * bound:+.{digits}f}" for bound in (change.mean, change.low, change.high))
    return f"{mean}{unit}", f"[{low}, {high}]"


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
        on_intervals: What a reader must know of intervals over images, where the table shows any.
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
    on_intervals: str = ""

    def write(self, stem: Path) -> None:
        """Write ``stem.csv``, ``stem.md`` and ``stem.tex``."""
        self._write_csv(stem.with_suffix(".csv"))
        write_text(stem.with_suffix(".md"), self.markdown())
        write_text(stem.with_suffix(".tex"), self.latex(label(stem.parent.name, stem.name)))

    @property
    def heading(self) -> str:
        """Name and title."""
        return f"{self.name}: {on_one_line(self.title)}"

    @property
    def _all_notes(self) -> str:
        return " ".join(filter(None, [self.notes, self.on_intervals]))

    def _write_csv(self, path: Path) -> None:
        names = [f"{group} {heading}".strip() for group, heading in zip(self.groups, self.headings, strict=True)]
        # A spread or an interval has columns of its own, where the values have one.
        further: list[list[str]] = []
        for column in range(len(names)):
            columns = [value.columns for _, values in self.rows if (value := values[column]) is not None]
            found = [name for each in columns for name, entry in each.items() if entry is not None]
            further.append(list(dict.fromkeys(found)))
        with open_text(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            header: list[str] = [heading.lower() for heading in self.row_headings]
            for name, endings in zip(names, further, strict=True):
                header += [name, *(f"{name} {ending}" for ending in endings)]
            writer.writerow(map(to_cell, header))
            for labels, values in self.rows:
                row: list[Any] = list(labels)
                for value, endings in zip(values, further, strict=True):
                    row.append("" if value is None else value.number)
                    known = {} if value is None else value.columns
                    row += ["" if known.get(ending) is None else known[ending] for ending in endings]
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
        return "\n".join([*lines, "", _markdown(self._all_notes), ""])

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
        lines.append(rf"\parbox{{\linewidth}}{{\footnotesize {_latex(self._all_notes)}}}")
        text = "\n".join([*lines, r"\end{table}", ""])
        head = "% Needs the booktabs package.\n"
        return head + (f"{DEFINE_OTHER_SCRIPT}\n" if OTHER_SCRIPT in text else "") + text

    def show(self, console: Console) -> None:
        """Print the table; where it is too wide, its groups stand below each other.

        Where it still is, intervals over images are left out, then those of effects that stand side by side, and at
        last labels take several lines. The files have all of it.
        """
        table, shown = self._screen_table(), self
        unbounded = console.options.update(max_width=WIDEST)
        if console.measure(table, options=unbounded).maximum > console.width:
            narrow = self._stacked() if len(set(self.groups)) > 1 else self
            table = narrow._screen_table()
            if console.measure(table, options=unbounded).maximum > console.width:
                narrow = narrow._without_intervals()
                table = narrow._screen_table()
            if console.measure(table, options=unbounded).maximum > console.width and len(narrow.headings) > 1:
                narrow = narrow._with_short_effects()
                table = narrow._screen_table()
            if console.measure(table, options=unbounded).maximum > console.width:
                table = narrow._screen_table(wrap_labels=True)
            shown = narrow
        console.print(escape(self.heading), style="bold", highlight=False)
        console.print(table)
        console.print(escape(on_one_line(shown._all_notes)), style="dim", highlight=False)

    def _stacked(self) -> "Table":
        """Return the table with its groups as the first label of the rows, all of which have the same headings."""
        names = list(dict.fromkeys(self.groups))
        width = len(self.groups) // len(names)
        assert self.headings == self.headings[:width] * len(names), "groups of other headings cannot be stacked"
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

    def _without_intervals(self) -> "Table":
        """Return the table without the intervals over images, which the files have."""
        rows = tuple(
            (labels, tuple(value and replace(value, interval=None) for value in values)) for labels, values in self.rows
        )
        return replace(self, rows=rows, on_intervals="")

    def _with_short_effects(self) -> "Table":
        """Return the table with effects, but without their intervals."""
        rows = tuple(
            (labels, tuple(value and replace(value, is_short=True) for value in values)) for labels, values in self.rows
        )
        return replace(self, rows=rows)

    def _screen_table(self, wrap_labels: bool = False) -> RichTable:
        table = RichTable(box=box.SIMPLE_HEAD, collapse_padding=True)
        for heading in self.row_headings:
            table.add_column(escape(on_one_line(heading)), no_wrap=not wrap_labels, overflow="fold")
        for group, heading in zip(self.groups, self.headings, strict=True):
            above = f"{on_one_line(group)}\n" if group else ""
            table.add_column(escape(above + on_one_line(heading)), justify="right", no_wrap=True)
        previous: tuple[str, ...] = ()
        for number, (labels, _) in enumerate(self.rows):
            if previous and labels[0] != previous[0] and len(labels) > 1:
                table.add_section()
            shown = [
                label if position == len(labels) - 1 or labels[: position + 1] != previous[: position + 1] else ""
                for position, label in enumerate(labels)
            ]
            table.add_row(*(escape(on_one_line(label)) for label in shown), *self._texts(number, "[bold]{}[/]", "±"))
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


def on_one_line(text: str) -> str:
    """Return text on one line."""
    return " ".join(text.split())


def _markdown(text: str) -> str:
    """Return text on one line with Markdown's special characters escaped."""
    return on_one_line(text).translate(MARKDOWN_ESCAPES)


def _latex(text: str) -> str:
    """Return text on one line as LaTeX."""
    return latex(on_one_line(text))
