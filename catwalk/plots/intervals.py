"""Forest plot: means with their intervals, a row for each label, beside one another by panel."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from catwalk.plots.panels import Look, distinct, draw_panels, finish, legend_marker
from catwalk.plots.style import DIM, GREY, PALE, house_style, wrapped

STEP, BETWEEN = 0.17, 0.12
"""Height of a series' line within a row, and space between rows, in inches."""

NAME, LINE = 2.9, 0.17
"""Width of the labels, and height of a line of one, in inches."""

GROUND = "#f4f4f4"


@dataclass(frozen=True)
class IntervalRow:
    """A mean with its interval.

    Attributes:
        panel: Panel that it is in, such as a recommender.
        label: Row that it is in, such as an attack.
        series: What its colour and marker stand for, such as a CNN.
        mean: In the unit of the axis.
        low: Lower end of the interval, in the same unit.
        high: Upper end.
        margin: Half the width of the band around 0 within which a value counts as none; None draws no band.
        is_decided: Whether the interval tells that there is an effect; other markers are hollow.
    """

    panel: str
    label: str
    series: str
    mean: float
    low: float
    high: float
    margin: float | None = None
    is_decided: bool = True


def draw_intervals(rows: Sequence[IntervalRow], *, title: str, x_label: str, controls: Collection[str] = ()) -> Figure:
    """Draw means with their intervals, and a line at 0.

    Series differ by colour and by marker. A marker is filled where the interval tells of an effect.

    Args:
        rows: At least one; panels, labels and series stand in the order in which they appear first. A label that a
            panel lacks is left empty there.
        title: What was measured.
        x_label: The axis, with its unit.
        controls: Labels that are no more than controls, which stand on a grey ground.
    """
    panels = distinct(row.panel for row in rows)
    labels = distinct(row.label for row in rows)
    series = distinct(row.series for row in rows)
    looks = {name: Look.at(place) for place, name in enumerate(series)}
    names = [wrapped(label, NAME) for label in labels]
    row_height = max(STEP * len(series), *(LINE * (1 + name.count("\n")) for name in names)) + BETWEEN
    tall, share = len(labels) * row_height, STEP / row_height
    with house_style():
        figure, grid = draw_panels(panels, width=2.7, height=tall + 0.5, title=title)
        for axes, panel in zip(grid, panels, strict=True):
            for middle, label in enumerate(labels):
                if label in controls:
                    axes.axhspan(middle - 0.5, middle + 0.5, color=GROUND, linewidth=0, zorder=0)
            axes.axvline(0, color=GREY, linewidth=1, zorder=1)
            for row in rows:
                if row.panel != panel:
                    continue
                look, line = looks[row.series], series.index(row.series) - (len(series) - 1) / 2
                place = labels.index(row.label) + line * share
                if row.margin:
                    axes.barh(place, 2 * row.margin, left=-row.margin, height=0.8 * share, color=PALE, zorder=0.5)
                axes.plot([row.low, row.high], [place] * 2, color=look.colour, linewidth=1.8, solid_capstyle="butt")
                form = look._replace(fill="full" if row.is_decided else "none").filled
                axes.plot(row.mean, place, marker=look.marker, markersize=5.5, zorder=3, **form)
            axes.set_yticks(range(len(labels)), names)
            axes.set_ylim(len(labels) - 0.5, -0.5)
            axes.tick_params(axis="y", length=0)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.grid(True)
            axes.spines["left"].set_visible(False)
        handles: list[Line2D | Patch] = [
            legend_marker(name, look.marker, color=look.colour) for name, look in looks.items()
        ]
        if not all(row.is_decided for row in rows):
            hollow = Look(DIM, "o", "-", "none")
            handles.append(legend_marker("hollow: no effect, or undecided", hollow.marker, **hollow.filled))
        if any(row.margin for row in rows):
            handles.append(Patch(color=PALE, label="counts as no effect"))
        finish(figure, x_label, handles)
    return figure
