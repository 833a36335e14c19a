"""Style of all plots: drawn without a display and without matplotlib's global state."""

import contextlib
import io
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from catwalk.files.atomic import write_bytes

INK, DIM, GREY, PALE = "#333333", "#666666", "#9a9a9a", "#e4e4e4"
BLUE, ORANGE, PURPLE, GREEN, SKY = "#0072b2", "#d55e00", "#cc79a7", "#009e73", "#56b4e9"
"""Of the palette of Okabe and Ito (2008), which colour-blind readers can tell apart."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    "text.color": INK,
    "text.usetex": False,
    "text.parse_math": False,  # names may hold dollars
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "white",
    "axes.grid": False,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "grid.color": PALE,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "savefig.dpi": "figure",
    "svg.hashsalt": "catwalk",  # or the identifiers in a file are others every time
}

BELOW: Final = "outside lower left"
"""Where legends are: nothing is drawn there."""

DPI = 110
SIZE = (8.0, 4.5)
"""Width and height of a figure in inches."""

LETTER = 0.0085
"""Mean width of a letter in inches, at a size of one point."""

LONGEST_NAME = 34
"""Letters of a category's name in a picture."""


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """Draw and save figures in the style meanwhile."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def new_figure(width: float = SIZE[0], height: float = SIZE[1]) -> Figure:
    """Return an empty figure that lays itself out, of a width and height in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a file, of the kind that its name says, whole or not at all."""
    write_bytes(path, drawn(figure, path.suffix.removeprefix(".")))


def drawn(figure: Figure, kind: str) -> bytes:
    """Return a figure as a file of a kind, such as ``svg`` or ``png``: the same bytes for the same figure."""
    picture = io.BytesIO()
    with house_style():
        figure.savefig(picture, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return picture.getvalue()


def count_axes(axes: Axes, x: bool = True) -> None:
    """Let an axis of counts have whole numbers with thousands apart, and a grid to read heights by."""
    for axis in (axes.xaxis, axes.yaxis) if x else (axes.yaxis,):
        axis.set_major_locator(MaxNLocator(integer=True))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.grid(True)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def wrapped(text: str, width: float, size: float = 10) -> str:
    """Return a text in lines that fit into a width in inches at a size in points; its own line breaks stay."""
    letters = max(int(width / (LETTER * size)), 8)
    text = text.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")  # the budget of an attack stays in one line
    return "\n".join(
        shortened(line, letters) for own in text.splitlines() for line in textwrap.wrap(own, letters) or [""]
    )


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """Return a name on one line, of letters that a picture can hold, cut where it is too long for it."""
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(name.split()))
    return line if len(line) <= longest else f"{line[: longest - 1].rstrip()}…"
