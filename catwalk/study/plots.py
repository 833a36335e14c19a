"""The plots of a finished study, with the same points for hovering."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from catwalk.plots.budgets import BudgetPoint, draw_budgets
from catwalk.plots.category_bars import draw_category_bars
from catwalk.plots.intervals import IntervalRow, draw_intervals
from catwalk.plots.panels import COLOURS, MARKERS
from catwalk.plots.ranks import RankPanel, draw_ranks
from catwalk.plots.scatter import Point, draw_scatter
from catwalk.study.effects import Effect
from catwalk.study.grid import NO_ATTACK
from catwalk.study.results import StudyResults
from catwalk.study.stored import StoredResults

SYMBOLS = {
    **{"o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross", "X": "x"},
    **{"*": "star", "<": "triangle-left", ">": "triangle-right", "p": "pentagon", "h": "hexagon", "8": "octagon"},
    "d": "diamond-tall",
}
"""What Plotly calls the markers of matplotlib."""

MOST_PANELS = 9
"""Panels of ranks, the attacks with the largest effects first."""

MOST_BARS = 6
"""Plots of categories, of which each is of one recommender on one CNN."""

MOST_PROTOCOLS = 4
"""Protocols up to which each has a forest plot of its own; those of an ablation stand in one plot."""

BUDGET = re.compile(r"\s*\(ε = [^)]*\)")
"""What the name of an attack says of its budget."""


@dataclass(frozen=True)
class StudyPlot:
    """A plot of a study.

    Attributes:
        key: Name of its files.
        title: What it shows.
        caption: How to read it.
        figure: The drawing.
        interactive: The same points for hovering; None where there is but the drawing.
    """

    key: str
    title: str
    caption: str
    figure: Figure
    interactive: Mapping[str, Any] | None = None


def draw_plots(stored: StoredResults) -> list[StudyPlot]:
    """Draw all plots of a study for which it has the numbers."""
    results = stored.results
    drawn: list[StudyPlot | None] = [
        _ablation(results),
        *_forests(results),
        _budgets(results),
        _looks_against_effect(results),
        _success_against_loss(results),
        _robustness(results),
        *_bars(stored),
        _ranks(stored),
    ]
    return [plot for plot in drawn if plot is not None]


def _percent(results: StudyResults) -> str:
    return f"{results.manifest['statistics']['confidence']:.0%}"


def _places(results: StudyResults) -> str:
    return f"change of CHR@{results.top_k}, places in a list of {results.top_k}"


def _panel(effect: Effect, several: bool) -> str:
    """Return the panel of an effect: its recommender, and its protocol where there are several."""
    return f"{effect.recommender}, {effect.protocol}" if several else effect.recommender


def _row(results: StudyResults, effect: Effect, panel: str, label: str, series: str) -> IntervalRow:
    difference = effect.size.difference
    margin = effect.size.limit(results.manifest["statistics"]["smallest_effect"])
    decided = effect.verdict in ("pushed", "lowered")
    return IntervalRow(panel, label, series, difference.mean, difference.low, difference.high, margin, decided)


def _protocols(effects: Iterable[Effect]) -> list[str]:
    return list(dict.fromkeys(effect.protocol for effect in effects))


def _forests(results: StudyResults) -> Iterable[StudyPlot]:
    """Yield the effects with their intervals, a plot for each scenario and protocol."""
    protocols = _protocols(results.effects)
    if len(protocols) > MOST_PROTOCOLS:
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
            title = f"{what}{of}: effect on {_source(results)}"
            yield StudyPlot(
                key=f"effects-{scenario}" + (f"-{number + 1}" if len(protocols) > 1 else ""),
                title=title,
                caption=f"Change of CHR@{results.top_k} against no attack with the same seeds and users, with its "
                f"{_percent(results)} interval. Filled markers: pushed or lowered. Grey bands: smaller than the "
                "smallest effect of interest. Grey rows: controls.",
                figure=draw_intervals(
                    rows,
                    title=title,
                    x_label=f"{_places(results)}, with {_percent(results)} interval",
                    controls={each.attack for each in chosen if each.control},
                ),
            )


def _ablation(results: StudyResults) -> StudyPlot | None:
    """Draw the effects of attacks beside those of shams, by protocol."""
    if not any(effect.control == "sham" for effect in results.effects):
        return None
    chosen = [each for each in results.effects if each.control == "sham" or each.scenario == "poisoning"]
    chosen = [each for each in chosen if each.control in (None, "sham")]
    chosen.sort(key=lambda each: each.control == "sham")
    panels = {(each.recommender, each.extractor) for each in chosen if each.control == "sham"}
    rows = [
        _row(results, each, f"{each.recommender}, CNN {each.extractor}", each.protocol, each.attack)
        for each in chosen
        if (each.recommender, each.extractor) in panels
    ]
    order = _protocols(results.effects)
    rows.sort(key=lambda row: order.index(row.label))
    title = f"Attack beside sham: effect on {_source(results)}"
    return StudyPlot(
        key="ablation",
        title=title,
        caption="The sham attacks nothing: it puts the clean features of the network under attack into the rows of the "
        "items that an attack would change. Where it moves CHR as the attack does, what is measured is two networks' "
        "features in one matrix, and not the attack.",
        figure=draw_intervals(rows, title=title, x_label=f"{_places(results)}, with {_percent(results)} interval"),
    )


def _budgets(results: StudyResults) -> StudyPlot | None:
    """Draw CHR against the budget, from none."""
    chosen = [each for each in results.effects if each.scenario == "poisoning" and each.epsilon is not None]
    if not chosen:
        return None
    several = len(_protocols(chosen)) > 1
    points: dict[BudgetPoint, Effect] = {}
    for effect in chosen:
        panel, attack = _panel(effect, several), BUDGET.sub("", effect.attack)
        clean, difference = effect.size.clean, effect.size.difference
        points.setdefault(BudgetPoint(panel, effect.extractor, attack, 0, clean, clean, clean), effect)
        measured = (clean + difference.mean, clean + difference.low, clean + difference.high)
        assert effect.epsilon is not None
        points[BudgetPoint(panel, effect.extractor, attack, effect.epsilon, *measured)] = effect
    title = f"CHR@{results.top_k} of {_source(results)} by budget"
    labels = {"x": "ε in grey levels", "y": f"CHR@{results.top_k}"}
    return StudyPlot(
        key="budgets",
        title=title,
        caption=f"CHR@{results.top_k} after poisoning by the attack's budget in grey levels, from no attack at 0. The "
        f"interval is that of the change ({_percent(results)}).",
        figure=draw_budgets(list(points), title=title, y_label=labels["y"]),
        interactive=_interactive(
            [
                _hover(effect, point.panel, point.attack, point.epsilon, point.mean, (point.low, point.high))
                for point, effect in points.items()
            ],
            labels,
            lines=True,
        ),
    )


def _looks_against_effect(results: StudyResults) -> StudyPlot | None:
    """Draw LPIPS against the effect."""
    looks = {_attack(cell): cell["lpips"] for cell in results.cells if cell.get("lpips") is not None}
    chosen = [
        each
        for each in results.effects
        if each.scenario == "poisoning" and (each.protocol, each.extractor, each.attack) in looks
    ]
    if not chosen:
        return None
    several = len(_protocols(chosen)) > 1
    points = [
        Point(
            _panel(each, several),
            each.extractor,
            each.attack,
            looks[each.protocol, each.extractor, each.attack],
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
        interactive=_interactive(
            [
                _hover(each, point.panel, point.kind, point.x, point.y, (point.low, point.high))
                for each, point in zip(chosen, points, strict=True)
            ],
            labels,
        ),
    )


def _success_against_loss(results: StudyResults) -> StudyPlot | None:
    """Draw the success rate against the loss of features."""
    cells = {_attack(cell): cell for cell in results.cells if None not in (cell.get("sr"), cell.get("feature_loss"))}
    if not cells:
        return None
    several = len({cell["protocol"] for cell in cells.values()}) > 1
    points = [
        Point(
            cell["protocol"] if several else "",
            *(cell["extractor"], cell["attack"], cell["feature_loss"], cell["sr"]),
            *(cell.get("sr_low"), cell.get("sr_high")),
        )
        for cell in cells.values()
    ]
    title = "Success on the CNN, against how far the features move"
    labels = {"x": "feature loss", "y": "success rate"}
    return StudyPlot(
        key="success-features",
        title=title,
        caption="Success rate: share of the attacked images that the CNN takes for what the attack wants. Feature "
        "loss: mean squared error of their features, which are what a recommender looks at.",
        figure=draw_scatter(
            points,
            title=title,
            x_label="feature loss: mean squared error of the features",
            y_label=labels["y"],
            is_logarithmic=True,
            shares=("y",),
        ),
        interactive=_interactive(
            [
                {**asdict(point), **{name: cell[name] for name in ("attack", "extractor", "protocol")}}
                for point, cell in zip(points, cells.values(), strict=True)
            ],
            labels,
            logarithmic=all(point.x > 0 for point in points),
            shares=["y"],
        ),
    )


def _robustness(results: StudyResults) -> StudyPlot | None:
    """Draw the networks' accuracy under attack against that without."""
    points = [
        Point("", name, "", found["accuracy"], found["accuracy under attack"])
        for name, found in results.manifest.get("classifiers", {}).items()
        if None not in (found["accuracy"], found["accuracy under attack"])
    ]
    if not points:
        return None
    title = "Robustness against accuracy of the CNNs"
    labels = {"x": "accuracy, clean", "y": "accuracy, attacked"}
    return StudyPlot(
        key="robustness",
        title=title,
        caption="Share of the test images that each CNN recognises, as they are and under an untargeted attack.",
        figure=draw_scatter(
            points,
            title=title,
            x_label="accuracy on the test images",
            y_label="accuracy under attack",
            shares=("x", "y"),
        ),
        interactive=_interactive(
            [{**asdict(point), "extractor": point.series} for point in points], labels, shares=["x", "y"]
        ),
    )


def _bars(stored: StoredResults) -> Iterable[StudyPlot]:
    """Yield CHR of all categories before and after the attack with the largest effect, by recommender and CNN."""
    results = stored.results
    for number, effect in enumerate(_strongest(results)[:MOST_BARS]):
        clean, attacked = _cells(results, effect)
        before = _mean([found for cell in clean if (found := stored.places_by_category(cell))])
        now = _mean([found for cell in attacked if (found := stored.places_by_category(cell))])
        if not before or not now:
            continue
        title = f"Places of all categories: {_whose(results, effect)}"
        yield StudyPlot(
            key=f"categories-{number + 1}",
            title=title,
            caption=f"CHR@{results.top_k} of each category after the attack that moved {_source(results)} most in this "
            "recommender, and before any, mean over seeds.",
            figure=draw_category_bars(
                now,
                before,
                "without attack",
                top_k=results.top_k,
                source=_source(results),
                target=results.manifest["target"],
                title=title,
            ),
        )


def _ranks(stored: StoredResults) -> StudyPlot | None:
    """Draw the ranks of the attacked items before and after the attacks with the largest effects."""
    results = stored.results
    panels: list[RankPanel] = []
    for effect in _strongest(results):
        pairs = []
        for clean, attacked in zip(*_cells(results, effect), strict=False):
            before, after = stored.attacked_items(clean), stored.attacked_items(attacked)
            if before is not None and after is not None and before["item_id"].equals(after["item_id"]):
                pairs.append((before, after))
        if not pairs or len(panels) == MOST_PANELS:
            continue
        ranks = [mean_ranks([pair[place] for pair in pairs]) for place in (0, 1)]
        groups = dict(zip(*(pairs[0][0][name].to_pylist() for name in ("item_id", "popularity")), strict=True))
        known = [item for item in ranks[0] if item in ranks[1]]
        if known:
            before, after = ([of[item] for item in known] for of in ranks)
            panels.append(RankPanel(_whose(results, effect), before, after, [groups[item] for item in known]))
    if not panels:
        return None
    title = "Ranks of the attacked items"
    return StudyPlot(
        key="ranks",
        title=title,
        caption="Mean rank of every attacked item over all users, before and after the attack with the largest effect "
        "in each recommender, mean over seeds. Nobody bought cold ones; the head is the fifth that was bought most.",
        figure=draw_ranks(panels, title=title),
    )


def mean_ranks(tables: Sequence[Any]) -> dict[str, float]:
    """Return the mean rank of each item over several tables of attacked items, of those that have one in all.

    Args:
        tables: Columns ``item_id`` and ``mean_rank``, of the same items in the same order.
    """
    columns = [table["mean_rank"].to_pylist() for table in tables]
    items = tables[0]["item_id"].to_pylist()
    return {
        item: sum(values) / len(values)
        for item, *values in zip(items, *columns, strict=True)
        if None not in values and all(value == value for value in values)
    }


def _strongest(results: StudyResults) -> list[Effect]:
    """Return the poisoning with the largest effect for each recommender and CNN that look at images, largest first."""
    found: dict[tuple[str, str, str], Effect] = {}
    size: Callable[[Effect], float] = lambda effect: abs(effect.size.difference.mean)  # noqa: E731
    for effect in results.effects:
        if effect.scenario == "poisoning" and effect.control is None and size(effect):
            place = (effect.protocol, effect.extractor, effect.recommender)
            found[place] = max(found.get(place, effect), effect, key=size)
    return sorted(found.values(), key=size, reverse=True)


def _cells(results: StudyResults, effect: Effect) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the cells without attack and those of an effect, by seed."""
    found = []
    for attack, scenario in ((NO_ATTACK, None), (effect.attack, effect.scenario)):
        labels = {name: getattr(effect, name) for name in ("protocol", "extractor", "recommender")}
        labels |= {"attack": attack, "scenario": scenario}
        chosen = [cell for cell in results.cells if all(cell[name] == value for name, value in labels.items())]
        found.append(sorted(chosen, key=lambda cell: cell["seed"]))
    return found[0], found[1]


def _mean(counted: Sequence[Mapping[str, float]]) -> dict[str, float]:
    if not counted:
        return {}
    return {name: sum(each.get(name, 0) for each in counted) / len(counted) for name in counted[0]}


def _whose(results: StudyResults, effect: Effect) -> str:
    of = f", {effect.protocol}" if len(_protocols(results.effects)) > 1 else ""
    return f"{effect.recommender}, CNN {effect.extractor}, {effect.attack}{of}"


def _source(results: StudyResults) -> str:
    return str(results.manifest["source"])


def _attack(cell: Mapping[str, Any]) -> tuple[str, str, str]:
    return cell["protocol"], cell["extractor"], cell["attack"]


def _hover(
    effect: Effect, panel: str, kind: str, x: float, y: float, interval: tuple[float | None, float | None]
) -> dict[str, Any]:
    """Return a point for hovering, with what it is filtered by."""
    low, high = interval
    point = {"panel": panel, "series": effect.extractor, "kind": kind, "x": x, "y": y, "low": low, "high": high}
    about = {
        name: getattr(effect, name) or "" for name in ("attack", "extractor", "recommender", "scenario", "protocol")
    }
    return {**point, **about, "note": effect.verdict if x else "no attack"}


def _interactive(points: list[dict[str, Any]], labels: Mapping[str, str], **form: Any) -> dict[str, Any]:
    """Return what ``report.js`` draws: points, labels of the axes, and the looks of the drawing beside it."""
    looks = {"colours": [to_hex(colour) for colour in COLOURS], "symbols": [SYMBOLS[marker] for marker in MARKERS]}
    return {"points": points, **labels, **looks, **form}
