"""Plot of a metric against an attack's budget: a line for each attack and network."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from catwalk.plots.panels import Look, distinct, draw_panels, finish, legend_marker
from catwalk.plots.style import DIM, house_style

APART = 0.012
"""Space between the intervals of two curves at one budget, as a share of the axis."""


@dataclass(frozen=True)
class BudgetPoint:
    """What was measured under one budget.

    Attributes:
        panel: Panel that it is in, such as a recommender.
        series: What its colour stands for, such as a CNN.
        attack: What its marker and its line stand for.
        epsilon: The budget in grey levels; 0 where nothing was attacked.
        mean: In the unit of the axis.
        low: Lower end of its interval.
        high: Upper end.
    """

    panel: str
    series: str
    attack: str
    epsilon: float
    mean: float
    low: float
    high: float


def draw_budgets(points: Sequence[BudgetPoint], *, title: str, y_label: str) -> Figure:
    """Draw a metric against the budget, with an interval at each.

    Points of one panel, series and attack are joined by a line.

    Args:
        points: At least one.
        title: What was measured.
        y_label: The axis, with its unit.
    """
    panels = distinct(point.panel for point in points)
    series = distinct(point.series for point in points)
    attacks = distinct(point.attack for point in points)
    budgets = sorted({point.epsilon for point in points})
    apart = APART * (budgets[-1] - budgets[0] or 1)
    with house_style():
        figure, grid = draw_panels(panels, width=3.4, height=2.6, title=title, y_label=y_label)
        for axes, panel in zip(grid, panels, strict=True):
            curves: dict[tuple[str, str], list[BudgetPoint]] = {
                (name, attack): [] for name in series for attack in attacks
            }
            for point in points:
                if point.panel == panel:
                    curves[point.series, point.attack].append(point)
            for place, ((name, attack), curve) in enumerate(curves.items()):
                curve.sort(key=lambda point: point.epsilon)
                at = [point.epsilon + apart * (place - (len(curves) - 1) / 2) for point in curve]
                colour, kind = Look.at(series.index(name)).colour, Look.at(attacks.index(attack))
                form = {"linestyle": kind.line, "linewidth": 1.4, "marker": kind.marker, "markersize": 5}
                axes.plot(at, [point.mean for point in curve], color=colour, **form)
                axes.vlines(at, [point.low for point in curve], [point.high for point in curve], color=colour)
            axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
            axes.yaxis.grid(True)
        handles = [
            legend_marker(name, "", color=Look.at(place).colour, linewidth=4) for place, name in enumerate(series)
        ]
        for place, attack in enumerate(attacks):
            kind = Look.at(place)
            handles.append(legend_marker(attack, kind.marker, color=DIM, linestyle=kind.line, linewidth=1.4))
        finish(figure, "ε in grey levels (0: no attack)", handles)
    return figure
