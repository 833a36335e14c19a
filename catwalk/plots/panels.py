"""Panels of one figure with shared axes, and looks that tell series apart without colours, too."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from catwalk.plots.style import BLUE, GREEN, INK, LETTER, ORANGE, PURPLE, SKY, new_figure, shortened, wrapped

COLOURS: Final = (BLUE, ORANGE, GREEN, PURPLE, SKY, INK)
MARKERS: Final = ("o", "s", "D", "^", "v", "P", "X", "*", "<", ">", "p", "h", "8", "d")
LINES: Final = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)))
FILLS: Final = ("full", "none", "left", "bottom", "right", "top")
"""Colours, markers, styles of lines and fills of markers, in the order of what they stand for; after the last, the
first comes again."""

ABREAST = 3
"""Panels that stand beside one another; more begin a new line."""

SHORT, SHORTEST = 40, 4
"""Factors between the ends of a logarithmic axis up to which it has some labels between the powers of ten, and all."""


class Look(NamedTuple):
    """How a series is drawn; any one of these tells six series apart, in grey as well.

    Attributes:
        colour: Of Okabe and Ito's palette.
        marker: Its form.
        line: Style of its lines.
        fill: How its markers are filled.
    """

    colour: str
    marker: str
    line: Any
    fill: str

    @classmethod
    def at(cls, place: int) -> "Look":
        """Return the look of the series at a place, counted from 0."""
        return cls(
            COLOURS[place % len(COLOURS)],
            MARKERS[place % len(MARKERS)],
            LINES[place % len(LINES)],
            FILLS[place % len(FILLS)],
        )

    @property
    def filled(self) -> dict[str, Any]:
        """Arguments of a marker in the colour and the fill."""
        return {
            "color": self.colour,
            "fillstyle": self.fill,
            "markerfacecoloralt": "white",
            "markeredgewidth": 1.3,
            "linestyle": "none",
        }


def distinct(names: Iterable[str]) -> list[str]:
    """Return names in the order in which they appear first."""
    return list(dict.fromkeys(names))


def draw_panels(
    names: Sequence[str], *, width: float, height: float, title: str, y_label: str = ""
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel for each name, all with the same axes.

    Args:
        names: What stands above each panel; at least one.
        width: Of a panel with what belongs to it, in inches.
        height: Of a panel with what belongs to it, in inches.
        title: Stands above all.
        y_label: Stands to the left of all.
    """
    abreast = min(len(names), ABREAST)
    lines = -(-len(names) // abreast)
    figure = new_figure(1.2 + width * max(abreast, 2), 1.5 + height * lines)
    places = figure.subplots(lines, abreast, sharex=True, sharey=True, squeeze=False)
    drawn: list[Axes] = list(places.flat)[: len(names)]
    for axes in list(places.flat)[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(drawn, names, strict=True):
        axes.set_title(wrapped(name, width), fontsize=10, pad=6)
        axes.tick_params(labelbottom=True)
    figure.suptitle(wrapped(title, figure.get_figwidth(), 12), x=0.01, ha="left", fontsize=12)
    figure.supylabel(y_label, fontsize=10)
    return figure, drawn


def finish(figure: Figure, x_label: str, handles: Sequence[Line2D | Patch]) -> None:
    """Write below all panels what their axes are, and below that the legend.

    Args:
        figure: Of :func:`draw_panels`.
        x_label: The axes, with their unit.
        handles: Entries of the legend; may be none.
    """
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    columns = max(1, int(figure.get_figwidth() / (0.55 + 10 * LETTER * longest)))
    lines = -(-len(handles) // columns)
    # A label makes room for the lines that it has, which a legend below it does not.
    figure.supxlabel(x_label + "\n" * round(1.3 * lines + 0.7), fontsize=10)
    if handles:
        figure.legend(handles=handles, loc="lower left", ncols=columns)


def legend_marker(label: str, marker: str, **form: Any) -> Line2D:
    """Return an entry of a legend: a marker with what it stands for."""
    return Line2D([], [], **{"marker": marker, "markersize": 6.5, "label": shortened(label), **form})


def label_factors(axis: Axis) -> None:
    """Label a logarithmic axis by plain numbers, between the powers of ten as well where it is short."""
    first, last = axis.get_view_interval()
    leading = "23456789" if last / first < SHORTEST else "25" if last / first < SHORT else ""

    def between(value: float, _: object) -> str:
        return f"{value:,.5g}" if f"{value:e}"[0] in leading else ""

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.5g}"))
    axis.set_minor_formatter(FuncFormatter(between))
    axis.grid(True)
