"""Plot of how many poisoned images a detector flags, against how many clean ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from catwalk.plots.panels import Look, distinct, draw_panels, finish, label_factors, legend_marker
from catwalk.plots.style import GREY, house_style


@dataclass(frozen=True)
class RocCurve:
    """Scores of clean and of attacked images.

    Attributes:
        panel: Panel that it is in: a detector.
        series: What its colour and line stand for: an attack.
        clean: Scores of clean images, ``(n,)``, at least one.
        attacked: Scores of attacked images, ``(m,)``, at least one.
    """

    panel: str
    series: str
    clean: ArrayLike
    attacked: ArrayLike


def roc_points(clean: ArrayLike, attacked: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the false and the true positive rates at all thresholds, from (0, 0) to (1, 1).

    Args:
        clean: Scores of clean images, ``(n,)``.
        attacked: Scores of attacked images, ``(m,)``.
    """
    low, high = np.sort(np.asarray(clean, float)), np.sort(np.asarray(attacked, float))
    thresholds = np.unique(np.concatenate([low, high]))[::-1]
    false, true = (1 - np.searchsorted(scores, thresholds, side="left") / len(scores) for scores in (low, high))
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def draw_roc(curves: Sequence[RocCurve], *, false_positives: float, title: str) -> Figure:
    """Draw ROC curves over a logarithmic axis of false positives, a panel for each detector.

    Args:
        curves: At least one.
        false_positives: The rate of interest, where a line stands.
        title: What was measured.
    """
    panels, series = distinct(curve.panel for curve in curves), distinct(curve.series for curve in curves)
    finest = min(1 / len(np.asarray(curve.clean)) for curve in curves)
    first = min(false_positives, finest) / 1.5
    with house_style():
        figure, grid = draw_panels(
            panels, width=3.1, height=3.0, title=title, y_label="attacked images that are flagged"
        )
        for axes, panel in zip(grid, panels, strict=True):
            axes.axvline(false_positives, color=GREY, linewidth=1, zorder=1)
            for curve in (curve for curve in curves if curve.panel == panel):
                look = Look.at(series.index(curve.series))
                false, true = roc_points(curve.clean, curve.attacked)
                # Where nothing clean is flagged the axis has no place: the curve begins at its left end.
                axes.step(np.maximum(false, first), true, where="post", color=look.colour, linestyle=look.line)
            axes.set(xscale="log", xlim=(first, 1), ylim=(-0.02, 1.02))
            axes.yaxis.grid(True)
            label_factors(axes.xaxis)
        handles = []
        for place, name in enumerate(series):
            look = Look.at(place)
            handles.append(legend_marker(name, "", color=look.colour, linestyle=look.line, linewidth=1.6))
        finish(figure, "clean images that are flagged", handles)
    return figure
