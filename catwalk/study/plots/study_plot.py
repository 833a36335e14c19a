"""A plot of a study, and what all of them say alike."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from catwalk.plots.panels import COLOURS, MARKERS
from catwalk.study.effects import Effect
from catwalk.study.results import StudyResults

SYMBOLS = {
    **{"o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross", "X": "x"},
    **{"*": "star", "<": "triangle-left", ">": "triangle-right", "p": "pentagon", "h": "hexagon", "8": "octagon"},
    "d": "diamond-tall",
}
"""What Plotly calls the markers of matplotlib."""


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


def percent(results: StudyResults) -> str:
    """Return the rate of the study's intervals."""
    return f"{100 * results.manifest['statistics']['confidence']:g}%"


def panel_of(effect: Effect, several: bool) -> str:
    """Return the panel of an effect: its recommender, and its protocol where there are several."""
    return f"{effect.recommender}, {effect.protocol}" if several else effect.recommender


def protocols_of(effects: Iterable[Effect]) -> list[str]:
    """Return the names of the protocols, in their order."""
    return list(dict.fromkeys(effect.protocol for effect in effects))


def source_of(results: StudyResults) -> str:
    """Return the attacked category."""
    return str(results.manifest["source"])


def attack_of_cell(cell: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what tells the images of a cell from others."""
    return cell["protocol"], cell["extractor"], cell["attack"]


def hover(
    effect: Effect, panel: str, kind: str, x: float, y: float, interval: tuple[float | None, float | None]
) -> dict[str, Any]:
    """Return a point for hovering, with what it is filtered by and what its interval says."""
    low, high = interval
    point = {"panel": panel, "series": effect.extractor, "kind": kind, "x": x, "y": y, "low": low, "high": high}
    about = {
        name: getattr(effect, name) or "" for name in ("attack", "extractor", "recommender", "scenario", "protocol")
    }
    return {**point, **about, "note": effect.verdict}


def interactive(points: list[dict[str, Any]], labels: Mapping[str, str], **form: Any) -> dict[str, Any]:
    """Return what ``report.js`` draws: points, labels of the axes, and the looks of the drawing beside it."""
    looks = {"colours": [to_hex(colour) for colour in COLOURS], "symbols": [SYMBOLS[marker] for marker in MARKERS]}
    return {"points": points, **labels, **looks, **form}
