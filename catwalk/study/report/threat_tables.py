"""The report's tables of defences and of detectors, as the study's own files have them."""

from collections.abc import Mapping

from catwalk.files.csv_text import from_cell
from catwalk.study.report.page import About, Column, Entry, PageTable, TableRow
from catwalk.study.results import StudyResults

LABELS = {"protocol": "protocol", "cnn": "extractor", "attack": "attack", "detector": None}
"""Columns that say of what a row is, with the filter that each answers."""

TRAINED = " (trained)"
"""Stands behind the name of an attack on which a detector was trained."""

ENDINGS = ("sd", "low", "high", "change", "change low", "change high", "verdict")
"""Ends of the names of columns that belong to the one before them."""

MEANINGS = {
    "SR without": "Success on the network without what stands in front.",
    "SR plain": "Success behind it, crafted without it.",
    "SR adaptive": "Success behind it, crafted through it.",
    "AUROC": "Chance that an attacked image looks more suspicious than a clean one.",
    "TPR": "Share of the attacked images that are flagged.",
    "FPR": "Share of the clean images that are flagged.",
    "SR": "Share of the attacked images that succeed.",
    "SR unflagged": "Share of the attacked images that succeed and are not flagged.",
}
SHARES = ("SR", "TPR", "FPR")
"""First words of the columns that are shown as percentages."""


def defences_page(results: StudyResults) -> PageTable | None:
    """Return what attacks reach on networks with something in front; None in a study without defences."""
    return _page(
        results,
        "defences",
        "Defences and pipelines",
        "The same attack on the network without what stands in front, crafted without it, and crafted through it. The "
        "last is the one to judge by. Behind a metric of lists: its change against no attack on the same network.",
    )


def detectors_page(results: StudyResults) -> PageTable | None:
    """Return what detectors find; None in a study without detectors."""
    return _page(
        results,
        "detectors",
        "What detectors find",
        "Of items that no detector was fitted to, trained or calibrated on. Intervals are over the images.",
    )


def _page(results: StudyResults, name: str, title: str, notes: str) -> PageTable | None:
    """Return a table of the study as a table of the report."""
    written = results.table(name)
    if not written:
        return None
    labels = [column for column in written[0] if column in LABELS]
    values = [column for column in written[0] if column not in LABELS and not _belongs_to(column, written[0])]
    columns = [
        *(Column("CNN" if label == "cnn" else label, is_number=False) for label in labels),
        *(Column(value, MEANINGS.get(value, "")) for value in values),
    ]
    rows = []
    for row in written:
        texts = {label: from_cell(row[label]) for label in labels}
        filters = {LABELS[label]: text.removesuffix(TRAINED) for label, text in texts.items()}
        rows.append(
            TableRow(
                [*(Entry(text, text) for text in texts.values()), *(_entry(row, value) for value in values)],
                About(**{str(name): text for name, text in filters.items() if name is not None}),
            )
        )
    return PageTable(name, title, notes, columns, rows)


def _belongs_to(column: str, names: Mapping[str, str]) -> bool:
    """Return whether a column tells of the uncertainty or the change of another."""
    return any(column.endswith(f" {ending}") and column.removesuffix(f" {ending}") in names for ending in ENDINGS)


def _entry(row: Mapping[str, str], name: str) -> Entry:
    """Return a value with its interval, or with its change and the change's interval."""
    if not row[name]:
        return Entry("–")
    value = float(row[name])
    is_share = name.split(" ")[0] in SHARES
    is_count = value == int(value) and "." not in row[name]

    def shown(text: str, sign: str = "") -> str:
        number = float(text)
        return f"{number:{sign}.1%}" if is_share else f"{number:{sign},.0f}" if is_count else f"{number:{sign}.4f}"

    text = shown(row[name])
    if change := row.get(f"{name} change"):
        low, high = (shown(row[f"{name} change {end}"], "+") for end in ("low", "high"))
        text = f"{text} · {shown(change, '+')} ({low} to {high})".replace("-", "\N{MINUS SIGN}")
    elif lowest := row.get(f"{name} low"):
        text = f"{text} ({shown(lowest)} to {shown(row[f'{name} high'])})"
    elif spread := row.get(f"{name} sd"):
        text = f"{text} ± {shown(spread)}"
    return Entry(text, value, is_bold=row.get(f"{name} verdict") == "pushed")
