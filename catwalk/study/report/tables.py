"""The tables of a report, each of which can be sorted and filtered."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from catwalk.study.cells import COLUMNS, SETTINGS, column_name
from catwalk.study.effects import Effect
from catwalk.study.report.page import About, Column, Entry, PageTable, TableRow
from catwalk.study.report.threat_tables import defences_page, detectors_page
from catwalk.study.results import StudyResults
from catwalk.study.statistics import Interval

ABOUT = ("attack", "extractor", "recommender", "scenario", "protocol")
"""Labels by which a row is filtered."""

OF_IMAGES = (
    *("n_attacked", "sr", "sr_clean", "sr_net", "feature_loss", "lpips", "ssim", "psnr", "linf_levels", "l2_levels"),
    *("forwards", "backwards", "queries", "attack_seconds"),
)
"""Columns of ``cells.csv`` on what an attack did to its images."""

COSTS = ("seconds", "memory_mib", "gpu_memory_mib", "attack_memory_mib", "attack_gpu_memory_mib", "sr_float")
"""Columns on what it cost, and further ones that stand in the table of all cells alone."""

Cells = Sequence[Mapping[str, Any]]


def page_tables(results: StudyResults) -> list[PageTable]:
    """Return the tables of a study."""
    found = [
        _table_1(results, "poisoning"),
        _table_1(results, "evasion"),
        _effects(results),
        _images(results),
        defences_page(results),
        detectors_page(results),
        _networks(results),
        _lists(results),
        _all_cells(results),
    ]
    return [table for table in found if table is not None and table.rows]


def number(value: float | None, digits: int = 4) -> Entry:
    """Return an entry with a number, to be sorted as one; an empty one for None."""
    if value is None or value != value:
        return Entry("–")
    if isinstance(value, int):
        return Entry(f"{value:,}", value)
    return Entry(f"{value:.{digits}f}" if not value or abs(value) >= 10**-digits else f"{value:.2e}", value)


def signed(interval: Interval, digits: int = 4) -> str:
    """Return a change with its interval."""
    shown = [
        f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}") for value in (interval.mean, interval.low, interval.high)
    ]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def text(value: Any) -> Entry:
    """Return an entry with a text."""
    return Entry("–") if value is None else Entry(str(value), str(value))


def about(labels: Mapping[str, Any]) -> About:
    """Return what something is about by its labels, as far as it has them."""
    return About(**{name: str(labels.get(name) or "") for name in ABOUT})


def _several(results: StudyResults, column: str) -> bool:
    return len({cell[column] for cell in results.cells}) > 1


def _labels(results: StudyResults, *names: str) -> list[str]:
    """Return those of the labels in which the cells differ, and always the first."""
    return [name for place, name in enumerate(names) if not place or _several(results, name)]


MEANING = {column.name: column.metadata["meaning"] for column in COLUMNS}
HEADINGS = {
    **{"extractor": "CNN", "n_attacked": "items", "sr": "SR", "sr_clean": "SR before", "sr_net": "SR net"},
    **{"feature_loss": "FL", "lpips": "LPIPS", "ssim": "SSIM", "psnr": "PSNR, dB", "linf_levels": "L∞, grey levels"},
    **{"l2_levels": "L2, grey levels", "attack_seconds": "seconds"},
}
"""What the tables of a report call columns of ``cells.csv``."""


def _label_columns(names: Sequence[str]) -> list[Column]:
    return [Column(HEADINGS.get(name, name), MEANING.get(name, ""), is_number=False) for name in names]


def _table_1(results: StudyResults, scenario: str) -> PageTable | None:
    """Return CHR of the source category by recommender, attack and network, as in the paper."""
    chosen = [effect for effect in results.effects if effect.scenario in (scenario, None)]
    if not any(effect.scenario == scenario for effect in chosen):
        return None
    if scenario == "evasion":
        chosen = [effect for effect in chosen if effect.scenario]
    extractors = list(dict.fromkeys(effect.extractor for effect in chosen))
    names = _labels(results, "recommender", "protocol")
    rows: dict[tuple[str, ...], dict[str, Effect]] = {}
    for effect in chosen:
        of = tuple(getattr(effect, name) for name in names)
        rows.setdefault((*of, effect.attack), {})[effect.extractor] = effect
    found: list[TableRow] = []
    begun: set[tuple[str, ...]] = set()
    order = list(dict.fromkeys(key[:-1] for key in rows))
    for key, effects in sorted(
        rows.items(), key=lambda row: order.index(row[0][:-1])
    ):  # some attacks are on few networks
        of, attack = key[:-1], key[-1]
        labels = dict(zip(names, of, strict=True))
        if of not in begun:
            begun.add(of)
            clean = [number(effects[name].size.clean) if name in effects else Entry("–") for name in extractors]
            found.append(TableRow([*map(text, of), text("No attack"), *clean], about(labels), is_control=True))
        entries = [_change(effects.get(name)) for name in extractors]
        first = next(iter(effects.values()))
        row_about = about({**labels, "attack": attack, "scenario": first.scenario})
        found.append(TableRow([*map(text, of), text(attack), *entries], row_about, first.control is not None))
    k, source, confidence = results.top_k, results.manifest["source"], results.manifest["statistics"]["confidence"]
    how = "" if scenario == "poisoning" else ": recommenders trained on clean images and shown the attacked ones"
    return PageTable(
        key=f"table-{scenario}",
        title=f"CHR@{k} of {source}{how or ', recommenders trained on the attacked images'}",
        notes=f"Mean number of {source} items in a list of {k}, with the change against no attack and its "
        f"{100 * confidence:g}% interval. Bold: pushed. Grey: no attack, and controls.",
        columns=[
            *_label_columns([*names, "attack"]),
            *(Column(f"CNN {name}", f"CHR@{k} where {name} sees the images.") for name in extractors),
        ],
        rows=found,
        is_open=scenario == "poisoning",
    )


def _change(effect: Effect | None) -> Entry:
    if effect is None:
        return Entry("–")
    size = effect.size
    return Entry(f"{size.attacked:.4f} · {signed(size.difference)}", size.difference.mean, effect.verdict == "pushed")


def _effects(results: StudyResults) -> PageTable:
    """Return all that was computed of every effect."""
    names = _labels(results, "attack", "recommender", "extractor", "scenario", "protocol")
    k, percent = results.top_k, f"{100 * results.manifest['statistics']['confidence']:g}%"
    columns = [
        Column(
            "verdict", "Pushed or lowered: beyond chance and not too small. Cannot tell: too wide.", is_number=False
        ),
        Column("clean", f"CHR@{k} without attack, mean over users and seeds."),
        Column("attacked", f"CHR@{k} with it."),
        Column("change", f"Places in a list of {k}."),
        Column("low", f"Lower end of its {percent} interval."),
        Column("high", "Upper end of it."),
        Column("% of clean", "The change as a share of CHR without attack."),
        Column("standardised", "The change over the standard deviation of the users' changes."),
        Column("p, adjusted", "Two-sided; Holm's over the attacks of a column."),
        Column("seeds", "Retraining seeds."),
        Column("users", "Test users."),
        Column("seeds needed", "With how many seeds there would be a verdict, where there is none."),
    ]
    rows = []
    for effect in results.effects:
        size = effect.size
        share = None if size.relative is None else size.relative.mean
        rows.append(
            TableRow(
                [
                    *(text(getattr(effect, name)) for name in names),
                    Entry(effect.verdict, effect.verdict, verdict=effect.verdict),
                    number(size.clean),
                    number(size.attacked),
                    Entry(f"{size.difference.mean:+.4f}", size.difference.mean),
                    Entry(f"{size.difference.low:+.4f}", size.difference.low),
                    Entry(f"{size.difference.high:+.4f}", size.difference.high),
                    Entry("–") if share is None else Entry(f"{share:+.1%}", share),
                    number(size.standardised, 3),
                    Entry("<0.0001" if effect.p_adjusted < 1e-4 else f"{effect.p_adjusted:.4f}", effect.p_adjusted),
                    number(size.seeds),
                    number(size.users),
                    number(effect.seeds_needed),
                ],
                about({name: getattr(effect, name) for name in ABOUT}),
                effect.control is not None,
            )
        )
    return PageTable(
        key="effects",
        title="Every effect, with its interval",
        notes="Paired: the same users and the same seeds with and without the attack. The interval is over users and "
        "seeds together; docs/statistics.md says how it is made and how it covers.",
        columns=[*_label_columns(names), *columns],
        rows=rows,
    )


def _images(results: StudyResults) -> PageTable | None:
    """Return what every attack did to its images, as in the paper's Table 2."""
    attacked = [cell for cell in results.cells if cell.get("sr") is not None]
    names = _labels(results, "attack", "extractor", "protocol")
    groups = _grouped(attacked, names, lambda group: _means(group, OF_IMAGES))
    shown = [name for name in OF_IMAGES if any(values[name] is not None for _, _, values in groups)]
    bounds = {"sr", "feature_loss", "lpips"}
    rows = [
        TableRow(
            [*(text(labels[name]) for name in names), *(_with_bounds(group, name, values, bounds) for name in shown)],
            about(labels),
            group[0]["control"] is not None,
        )
        for labels, group, values in groups
    ]
    return PageTable(
        key="images",
        title="What the attacks did to the images",
        notes="Intervals are over the images. LPIPS and SSIM say what people would see; FL how far the features move.",
        columns=[
            *_label_columns(names),
            *(Column(HEADINGS.get(name, name), MEANING.get(name, "")) for name in shown),
        ],
        rows=rows,
    )


def _with_bounds(group: Cells, name: str, values: Mapping[str, float | None], bounds: set[str]) -> Entry:
    value = values[name]
    if name in ("sr", "sr_clean", "sr_net"):
        entry = Entry("–") if value is None else Entry(f"{value:.2%}", value)
    elif name in ("attack_seconds", "psnr", "l2_levels", "forwards", "backwards", "queries"):
        entry = number(value, 1)
    else:
        entry = number(int(value) if name in ("n_attacked", "linf_levels") and value is not None else value, 5)
    intervals = {(cell.get(f"{name}_low"), cell.get(f"{name}_high")) for cell in group}
    low, high = intervals.pop()
    if name not in bounds or intervals or low is None or high is None or value is None:
        return entry  # several attacks, one for each recommender and seed that the attacker knows, have several
    ends = f"{low:.1%} to {high:.1%}" if name == "sr" else f"{number(low, 5).text} to {number(high, 5).text}"
    return Entry(f"{entry.text} ({ends})", value)


def _networks(results: StudyResults) -> PageTable:
    """Return the accuracy of the networks, clean and under attack."""
    columns = [
        Column("CNN", "Name of the network.", is_number=False),
        Column("accuracy", "Share of the test images that it recognises."),
        Column("accuracy under attack", "The same under the study's untargeted attack."),
    ]
    rows = []
    for name, found in results.manifest.get("classifiers", {}).items():
        values = [found["accuracy"], found["accuracy under attack"]]
        entries = [Entry("–") if value is None else Entry(f"{value:.2%}", value) for value in values]
        rows.append(TableRow([text(name), *entries], About(extractor=name)))
    return PageTable("networks", "The networks", "", columns, rows)


def _lists(results: StudyResults) -> PageTable | None:
    """Return the quality of everybody's lists, and what an effect consists of: all metrics of recommenders."""
    with_lists = [cell for cell in results.cells if cell["recommender"] is not None]
    names = _labels(results, "recommender", "attack", "extractor", "scenario", "protocol")
    left_out = {*SETTINGS, *OF_IMAGES, *COSTS, "users"}
    left_out |= {f"{name}_{end}" for name in ("sr", "feature_loss", "lpips") for end in ("low", "high")}
    metrics = [
        name
        for name in (with_lists[0] if with_lists else {})
        if name not in left_out and any(isinstance(cell[name], int | float) for cell in with_lists)
    ]
    meaning = {column_name(column, results.top_k): column.metadata["meaning"] for column in COLUMNS}
    rows = [
        TableRow(
            [*(text(labels[name]) for name in names), *(number(values[name]) for name in metrics)],
            about(labels),
            group[0]["control"] is not None or group[0]["scenario"] is None,
        )
        for labels, group, values in _grouped(with_lists, names, lambda group: _means(group, metrics))
    ]
    return PageTable(
        key="lists",
        title="Everybody's lists, and what the effects consist of",
        notes="Means over the seeds.",
        columns=[*_label_columns(names), *(Column(name, meaning.get(name, "")) for name in metrics)],
        rows=rows,
        is_open=False,
    )


def _all_cells(results: StudyResults) -> PageTable:
    """Return ``cells.csv`` without the columns that are the same in all rows, or empty."""
    names = [
        name for name in results.cells[0] if name != "users" and len({str(cell[name]) for cell in results.cells}) > 1
    ]
    meaning = {column_name(column, results.top_k): column.metadata["meaning"] for column in COLUMNS}
    is_number = {name: not any(isinstance(cell[name], str) for cell in results.cells) for name in names}
    rows = [
        TableRow(
            [number(cell[name]) if is_number[name] else text(cell[name]) for name in names],
            about(cell),
            cell["control"] is not None or cell["scenario"] is None,
        )
        for cell in results.cells
    ]
    return PageTable(
        key="cells",
        title=f"All {len(rows):,} cells",
        notes="One row for each training and test; columns the same in all rows are left out. cells.csv has all.",
        columns=[Column(HEADINGS.get(name, name), meaning.get(name, ""), is_number[name]) for name in names],
        rows=rows,
        is_open=False,
    )


def _grouped(
    cells: Cells, names: Sequence[str], measure: Callable[[Cells], dict[str, float | None]]
) -> list[tuple[dict[str, Any], Cells, dict[str, float | None]]]:
    """Return the cells with the same labels, by these, and what is measured of them."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell[name] for name in names), []).append(cell)
    return [(dict(zip(names, key, strict=True)), group, measure(group)) for key, group in groups.items()]


def _means(cells: Cells, names: Sequence[str]) -> dict[str, float | None]:
    """Return the mean of every column over cells; None where none has a value."""
    found: dict[str, float | None] = {}
    for name in names:
        values = [cell[name] for cell in cells if isinstance(cell.get(name), int | float)]
        found[name] = statistics.fmean(values) if values else None
    return found
