"""Scatter plot: one metric against another, a point for each attack and network."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from catwalk.plots.panels import Look, distinct, draw_panels, finish, label_factors, legend_marker
from catwalk.plots.style import DIM, GREY, house_style


@dataclass(frozen=True)
class Point:
    """Two metrics of one thing.

    Attributes:
        panel: Panel that it is in; empty where there is but one.
        series: What its colour and the fill of its marker stand for, such as a CNN.
        kind: What its marker stands for, such as an attack; empty where all are of one kind.
        x: The one metric.
        y: The other.
        low: Lower end of the interval of ``y``; None where it has none.
        high: Upper end.
    """

    panel: str
    series: str
    kind: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


def draw_scatter(
    points: Sequence[Point],
    *,
    title: str,
    x_label: str,
    y_label: str,
    is_logarithmic: bool = False,
    shares: Collection[str] = (),
    has_zero_line: bool = False,
) -> Figure:
    """Draw one metric against another.

    Args:
        points: At least one.
        title: What was measured.
        x_label: The one axis, with its unit.
        y_label: The other.
        is_logarithmic: Whether steps of the one axis are factors; where a value is not positive they are not.
        shares: Which axes, of ``x`` and ``y``, are shares, shown as percentages from 0 to 100.
        has_zero_line: Whether a line stands where ``y`` is 0.
    """
    panels = distinct(point.panel for point in points)
    series = distinct(point.series for point in points)
    kinds = distinct(point.kind for point in points)
    with house_style():
        figure, grid = draw_panels(panels, width=3.4, height=2.8, title=title, y_label=y_label)
        for axes, panel in zip(grid, panels, strict=True):
            if has_zero_line:
                axes.axhline(0, color=GREY, linewidth=1)
            for point in points:
                if point.panel != panel:
                    continue
                look = Look.at(series.index(point.series))
                if point.low is not None and point.high is not None:
                    axes.vlines(point.x, point.low, point.high, color=look.colour, linewidth=1.2, alpha=0.7)
                marker = Look.at(kinds.index(point.kind)).marker
                axes.plot(point.x, point.y, marker=marker, markersize=7.5, zorder=3, clip_on=False, **look.filled)
            if is_logarithmic and all(point.x > 0 for point in points):
                axes.set_xscale("log")
                label_factors(axes.xaxis)
            for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
                if name in shares:
                    axis.set_major_formatter(PercentFormatter(1, decimals=0))
                    axes.set(**{f"{name}lim": (-0.03, 1.03)})
                axis.grid(True)
        handles = []
        for place, name in enumerate(series):
            look = Look.at(place)
            handles.append(legend_marker(name, "o", **look.filled))
        for place, name in enumerate(kinds):
            if name:
                handles.append(legend_marker(name, Look.at(place).marker, color=DIM, linestyle="none"))
        finish(figure, x_label, handles)
    return figure
