"""Plots of effects: with their intervals, beside shams, by budget, and against what people would see."""

import re
from collections.abc import Iterable
from statistics import fmean

from catwalk.plots.budgets import BudgetPoint, draw_budgets
from catwalk.plots.intervals import IntervalRow, draw_intervals
from catwalk.plots.scatter import Point, draw_scatter
from catwalk.study.effects import Effect
from catwalk.study.plots.study_plot import (
    StudyPlot,
    attack_of_cell,
    hover,
    interactive,
    panel_of,
    percent,
    protocols_of,
    source_of,
)
from catwalk.study.results import StudyResults

MOST_PROTOCOLS = 4
"""Protocols up to which each has a forest plot of its own; those of an ablation stand in one."""

BUDGET = re.compile(r"\s*\(ε = [^)]*\)")
"""What the name of an attack says of its budget."""


def forests(results: StudyResults) -> Iterable[StudyPlot]:
    """Yield the effects with their intervals, a plot for each scenario and protocol."""
    protocols = protocols_of(results.effects)
    has_sham = any(effect.control == "sham" for effect in results.effects)
    if len(protocols) > (1 if has_sham else MOST_PROTOCOLS):
        return
    names = {"poisoning": "Poisoning", "evasion": "Evasion: recommenders trained on clean images"}
    for number, protocol in enumerate(protocols):
        for scenario, what in names.items():
            of_attacks = [each for each in results.effects if (each.protocol, each.scenario) == (protocol, scenario)]
            if not of_attacks:
                continue
            floor = [each for each in results.effects if each.protocol == protocol and each.scenario is None]
            chosen = [*of_attacks, *(floor if scenario == "poisoning" else ())]
            rows = [_row(results, each, each.recommender, each.attack, each.extractor) for each in chosen]
            # Noise stands below all attacks, as the other controls do.
            rows = [row for _, row in sorted(zip(chosen, rows, strict=True), key=lambda pair: bool(pair[0].control))]
            of = f", {protocol}" if len(protocols) > 1 else ""
            title = f"{what}{of}: effect on {source_of(results)}"
            yield StudyPlot(
                key=f"effects-{scenario}" + (f"-{number + 1}" if len(protocols) > 1 else ""),
                title=title,
                caption=f"Change of CHR@{results.top_k} against no attack with the same seeds and users, with its "
                f"{percent(results)} interval. Filled markers: pushed or lowered. Grey bands: smaller than the "
                "smallest effect of interest. Grey rows: controls.",
                figure=draw_intervals(
                    rows,
                    title=title,
                    x_label=f"{_places(results)}, with {percent(results)} interval",
                    controls={each.attack for each in chosen if each.control},
                ),
            )


def ablation(results: StudyResults) -> StudyPlot | None:
    """Draw the effects of attacks beside those of shams, by protocol."""
    if not any(effect.control == "sham" for effect in results.effects):
        return None
    chosen = [each for each in results.effects if each.control == "sham" or each.scenario == "poisoning"]
    chosen = [each for each in chosen if each.control in (None, "sham")]
    chosen.sort(key=lambda each: each.control == "sham")
    panels = {(each.recommender, each.extractor) for each in chosen if each.control == "sham"}
    rows = [
        _row(results, each, f"{each.recommender}, CNN {each.extractor}", _lines(each.protocol), each.attack)
        for each in chosen
        if (each.recommender, each.extractor) in panels
    ]
    order = [_lines(protocol) for protocol in protocols_of(results.effects)]
    rows.sort(key=lambda row: order.index(row.label))
    title = f"Attack beside sham: effect on {source_of(results)}"
    return StudyPlot(
        key="ablation",
        title=title,
        caption="The sham attacks nothing: it puts the clean features of the network under attack into the rows of the "
        "items that an attack would change. Where it moves CHR as the attack does, what is measured is two networks' "
        "features in one matrix, and not the attack.",
        figure=draw_intervals(rows, title=title, x_label=f"{_places(results)}, with {percent(results)} interval"),
    )


def budgets(results: StudyResults) -> StudyPlot | None:
    """Draw CHR against the budget, from none."""
    chosen = [each for each in results.effects if each.scenario == "poisoning" and each.epsilon is not None]
    if not chosen:
        return None
    several = len(protocols_of(chosen)) > 1
    points: dict[BudgetPoint, Effect] = {}
    for effect in chosen:
        panel, attack = panel_of(effect, several), BUDGET.sub("", effect.attack)
        clean, difference = effect.size.clean, effect.size.difference
        points.setdefault(BudgetPoint(panel, effect.extractor, attack, 0, clean, clean, clean), effect)
        measured = (clean + difference.mean, clean + difference.low, clean + difference.high)
        assert effect.epsilon is not None
        points[BudgetPoint(panel, effect.extractor, attack, effect.epsilon, *measured)] = effect
    title = f"CHR@{results.top_k} of {source_of(results)} by budget"
    labels = {"x": "ε in grey levels", "y": f"CHR@{results.top_k}"}
    return StudyPlot(
        key="budgets",
        title=title,
        caption=f"CHR@{results.top_k} after poisoning by the attack's budget in grey levels, from no attack at 0. The "
        f"interval is that of the change ({percent(results)}).",
        figure=draw_budgets(list(points), title=title, y_label=labels["y"]),
        interactive=interactive(
            [
                hover(effect, point.panel, point.attack, point.epsilon, point.mean, (point.low, point.high))
                | ({} if point.epsilon else {"note": "no attack"})
                for point, effect in points.items()
            ],
            labels,
            lines=True,
        ),
    )


def looks_against_effect(results: StudyResults) -> StudyPlot | None:
    """Draw LPIPS against the effect."""
    looks: dict[tuple[str, ...], list[float]] = {}  # of several images where the attacker knows the recommender
    for cell in results.cells:
        if cell.get("lpips") is not None:
            looks.setdefault((*attack_of_cell(cell), str(cell["recommender"])), []).append(cell["lpips"])
    of_effect = lambda each: (each.protocol, each.extractor, each.attack, each.recommender)  # noqa: E731
    chosen = [each for each in results.effects if each.scenario == "poisoning" and of_effect(each) in looks]
    if not chosen:
        return None
    several = len(protocols_of(chosen)) > 1
    points = [
        Point(
            panel_of(each, several),
            each.extractor,
            each.attack,
            fmean(looks[of_effect(each)]),
            each.size.difference.mean,
            each.size.difference.low,
            each.size.difference.high,
        )
        for each in chosen
    ]
    title = "What people would see, against the effect"
    labels = {"x": "LPIPS", "y": f"change of CHR@{results.top_k}"}
    return StudyPlot(
        key="lpips-effect",
        title=title,
        caption="LPIPS is the distance between the images as people see it: further left is harder to see. Above 0 the "
        "attack pushes.",
        figure=draw_scatter(
            points, title=title, x_label="LPIPS, mean of the attacked images", y_label=labels["y"], has_zero_line=True
        ),
        interactive=interactive(
            [
                hover(each, point.panel, point.kind, point.x, point.y, (point.low, point.high))
                for each, point in zip(chosen, points, strict=True)
            ],
            labels,
        ),
    )


def _places(results: StudyResults) -> str:
    return f"change of CHR@{results.top_k}, places in a list of {results.top_k}"


def _row(results: StudyResults, effect: Effect, panel: str, label: str, series: str) -> IntervalRow:
    difference = effect.size.difference
    margin = effect.size.limit(results.manifest["statistics"]["smallest_effect"])
    decided = effect.verdict in ("pushed", "lowered")
    return IntervalRow(panel, label, series, difference.mean, difference.low, difference.high, margin, decided)


def _lines(protocol: str) -> str:
    """Return the name of a variant of a protocol with a line for each of its fields."""
    return protocol.replace(", ", "\n")
