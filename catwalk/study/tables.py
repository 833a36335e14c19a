"""A study's tables: Tables 1 and 2 in the paper's shape, and the accuracy of the networks."""

import csv
import itertools
import math
import statistics
import typing
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
from catwalk.study.controls import Scenario
from catwalk.study.effects import Effect
from catwalk.study.grid import NO_ATTACK
from catwalk.study.latex import DEFINE_OTHER_SCRIPT, OTHER_SCRIPT, label, latex


class PaperTables(typing.Protocol):
    """The values that the paper printed for a dataset."""

    def chr(self, recommender: str, attack: str, extractor: str) -> float | None:
        """Return a value of its Table 1; None where it has none."""

    def of_images(self, metric: str, attack: str, extractor: str) -> float | None:
        """Return a value of its Table 2 by the heading of its column, such as ``SR``; None where it has none."""


PAPER_COLUMNS = (("Items", 0, 1, ""), ("SR", 2, 1, "%"), ("FL", 7, 1, ""), ("LPIPS", 4, 1, ""))
"""Columns of the paper's Table 2 with the decimals, the factor and the unit with which they are shown."""

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
    """

    values: tuple[float, ...]
    digits: int = 4
    factor: int = 1
    unit: str = ""
    interval: tuple[float, float] | None = None
    effect: Effect | None = None

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
            return f"{text} {_change(self.effect)}"
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


def _change(effect: Effect) -> str:
    """Return an effect as a share of the metric without attack; in places where that is 0."""
    change, clean = effect.size.difference, effect.size.clean
    # By the mean without attack alone, so that the interval says what the verdict does.
    factor, unit, digits = (100 / clean, "%", 1) if clean else (1, "", 4)
    mean, low, high = (f"{factor * bound:+.{digits}f}" for bound in (change.mean, change.low, change.high))
    return f"{mean}{unit} [{low}, {high}]"


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
        """Print the table; where it is too wide, its groups stand below each other.

        Where it still is, intervals over images are left out, and where that does not do, labels take several lines.
        """
        table = self._screen_table()
        unbounded = console.options.update(max_width=WIDEST)
        if console.measure(table, options=unbounded).maximum > console.width:
            narrow = self._stacked() if len(set(self.groups)) > 1 else self
            table = narrow._screen_table()
            if console.measure(table, options=unbounded).maximum > console.width:
                narrow = narrow._without_intervals()
                table = narrow._screen_table()
            if console.measure(table, options=unbounded).maximum > console.width:
                table = narrow._screen_table(wrap_labels=True)
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

    def _without_intervals(self) -> "Table":
        """Return the table without the intervals over images, which the files have."""
        rows = tuple(
            (labels, tuple(value and replace(value, interval=None) for value in values)) for labels, values in self.rows
        )
        return replace(self, rows=rows)

    def _screen_table(self, wrap_labels: bool = False) -> RichTable:
        table = RichTable(box=box.SIMPLE_HEAD, collapse_padding=True)
        for heading in self.row_headings:
            table.add_column(escape(_shown(heading)), no_wrap=not wrap_labels, overflow="fold")
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


def table_1(
    cells: Sequence[Cell],
    effects: Sequence[Effect],
    top_k: int,
    notes: Sequence[str],
    scenario: Scenario = "poisoning",
    paper: PaperTables | None = None,
) -> Table:
    """Return CHR@K of the source category by recommender and attack, with the interval of its change.

    In bold what was pushed, by the verdict of its interval.

    Args:
        cells: All cells of a study, those without attack first.
        effects: The study's effects.
        top_k: K.
        notes: What a reader must know of attacks, protocols and networks, as sentences.
        scenario: ``poisoning`` gives Table 1; ``evasion`` the same of recommenders that were trained on clean images.
        paper: The paper's own values, which stand below ours.
    """
    source, dataset = _named(cells[0].source), _named(cells[0].dataset)
    protocols, extractors = distinct(cells, "protocol"), distinct(cells, "extractor")
    chosen = [cell for cell in cells if cell.scenario in (None, scenario)]
    if scenario == "evasion":
        chosen = [cell for cell in chosen if cell.scenario or cell.attack == NO_ATTACK]
        shown = {cell.recommender for cell in chosen if cell.scenario}  # the others look at no images
        chosen = [cell for cell in chosen if cell.recommender in shown]
    by_labels = {
        (effect.protocol, effect.extractor, effect.recommender, effect.attack, effect.scenario): effect
        for effect in effects
    }
    rows: list[Row] = []
    best: set[tuple[int, int]] = set()
    entries = [
        (protocol, recommender, attack)  # some attacks are not for every recommender
        for protocol, recommender in itertools.product(protocols, distinct(chosen, "recommender"))
        for attack in distinct(where(chosen, protocol=protocol, recommender=recommender), "attack")
    ]
    for protocol, recommender, attack in entries:
        its_cells = where(chosen, protocol=protocol, recommender=recommender, attack=attack)
        values: list[Value | None] = []
        for column, name in enumerate(extractors):
            of_network = where(its_cells, extractor=name)
            effect = by_labels.get((protocol, name, recommender, attack, its_cells[0].scenario))
            rates = tuple(cell.chr for cell in of_network if cell.chr is not None)
            values.append(Value(rates, effect=effect) if rates else None)
            if effect is not None and effect.verdict == "pushed":
                best.add((len(rows), column))
        labels = (recommender, attack) if len(protocols) == 1 else (protocol, recommender, attack)
        rows.append((labels, tuple(values)))
        if paper is not None and scenario == "poisoning":
            printed = tuple(paper.chr(recommender, attack, name) for name in extractors)
            if any(value is not None for value in printed):
                theirs = tuple(None if value is None else Value((value,)) for value in printed)
                rows.append(((*labels[:-1], f"{attack} (paper)"), theirs))
    seeds = len(distinct(where(cells, attack=NO_ATTACK), "seed"))
    over = f", mean over {seeds} retraining seeds" if seeds > 1 else ""
    trained = "" if scenario == "poisoning" else ", recommenders trained on clean images and shown the attacked ones"
    return Table(
        name="Table 1" if scenario == "poisoning" else "Evasion",
        title=f"CHR@{top_k} of {source} on {dataset}{over}{trained}",
        notes=_sentences(
            f"Average number of {source} items in a user's top {top_k}.",
            "Behind it the change from no attack, of the same users and seeds, with its interval"
            + ("; without attack the standard deviation over seeds." if seeds > 1 else "."),
            "Bold: pushed, by the interval after Holm's correction.",
            *notes,
            _attacked(cells),
        ),
        row_headings=("Model", "Attack") if len(protocols) == 1 else ("Protocol", "Model", "Attack"),
        groups=tuple(extractors),
        headings=(f"CHR@{top_k}",) * len(extractors),
        rows=tuple(rows),
        best=frozenset(best),
    )


def table_2(cells: Sequence[Cell], lpips_net: str, notes: Sequence[str], paper: PaperTables | None = None) -> Table:
    """Return what attacks did by attack and network: attacked items, success rate, feature loss and LPIPS × 100.

    In bold the best of each for the attacker. An interval is over the attacked images. Of an attack that knows the
    recommender there is one for each, and these are means and standard deviations.

    Args:
        cells: All cells of a study.
        lpips_net: The network under LPIPS.
        notes: What a reader must know of attacks, protocols and networks, as sentences.
        paper: The paper's own values, which stand below ours.
    """
    source, dataset = _named(cells[0].source), _named(cells[0].dataset)
    protocols, extractors = distinct(cells, "protocol"), distinct(cells, "extractor")
    attacks = [attack for attack in distinct(cells, "attack") if where(cells, attack=attack)[0].sr is not None]
    rows: list[Row] = []
    ours: list[int] = []
    for protocol, attack in itertools.product(protocols, attacks):
        values: list[Value | None] = []
        for extractor in extractors:
            its_cells = where(cells, protocol=protocol, attack=attack, extractor=extractor)
            outcomes = list({(cell.sr, cell.feature_loss, cell.lpips): cell for cell in its_cells}.values())
            # The network chooses them, not the attack.
            values.append(Value((its_cells[0].n_attacked or 0,), 0))
            for name, digits, factor, unit in (("sr", 2, 100, "%"), ("feature_loss", 7, 1, ""), ("lpips", 4, 100, "")):
                values.append(_of_images(outcomes, name, digits, factor, unit))
        labels = (attack,) if len(protocols) == 1 else (protocol, attack)
        ours.append(len(rows))
        rows.append((labels, tuple(values)))
        if paper is not None:
            theirs = [
                Value((value,), digits, factor, unit) if value is not None else None
                for extractor in extractors
                for metric, digits, factor, unit in PAPER_COLUMNS
                for value in [paper.of_images(metric, attack, extractor)]
            ]
            if any(value is not None for value in theirs):
                rows.append(((*labels[:-1], f"{attack} (paper)"), tuple(theirs)))
    best = set()
    best_of = {"SR": _highest, "FL": _highest, "LPIPS": _lowest}
    headings = ("Items", *best_of) * len(extractors)
    for column, heading in enumerate(headings):
        compared = [rows[number] for number in ours]
        if heading in best_of and any(row[1][column] is not None for row in compared):
            best.add((ours[best_of[heading](compared, column)], column))
    attacked = [cell for cell in cells if cell.sr_clean is not None]
    # Targeted and untargeted attacks want something else, and so had something else before.
    before = dict.fromkeys((cell.sr_clean, cell.extractor) for cell in attacked)
    shown = ", ".join(f"{share:.2%} ({extractor})" for share, extractor in before)
    legend = (
        "Items: how many were attacked. SR: share of the images that the CNN takes for the target, or, where an attack "
        f"has none, no longer for the source, judged by the 8-bit files read back; before any attack it was {shown}. "
        "FL: mean squared error of the features. LPIPS: how different the images look (network: "
        f"{lpips_net}), times 100. In brackets: the interval over the images. Bold: the highest SR and FL, and the "
        "lowest LPIPS."
    )
    return Table(
        name="Table 2",
        title=f"what the attacks did to the {source} images of {dataset}",
        notes=_sentences(legend if rows else "", *notes),
        row_headings=("Attack",) if len(protocols) == 1 else ("Protocol", "Attack"),
        groups=tuple(extractor for extractor in extractors for _ in range(4)),
        headings=headings,
        rows=tuple(rows),
        best=frozenset(best),
    )


def _of_images(cells: Sequence[Cell], name: str, digits: int, factor: int, unit: str) -> Value | None:
    """Return a metric of one attack's images with its interval; of several attacks with their spread."""
    values = [getattr(cell, name) for cell in cells]
    if None in values:
        return None
    interval = None
    if len(cells) == 1:
        bounds = getattr(cells[0], f"{name}_low"), getattr(cells[0], f"{name}_high")
        interval = None if None in bounds else bounds
    return Value(tuple(values), digits, factor, unit, interval)


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
