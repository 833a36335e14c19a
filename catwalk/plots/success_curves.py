"""Plot of the share of items on which an attack succeeds against ε."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from catwalk.plots.panels import Look, draw_panels, finish, legend_marker
from catwalk.plots.style import house_style
from catwalk.poisoning.success_curve import SuccessCurve

NORMS = {"linf": "L∞", "l2": "L2"}
"""How the norms are written."""


def draw_success_curves(curves: Mapping[str, SuccessCurve], *, title: str) -> Figure:
    """Draw a staircase for each curve, which rises at every ε at which one more item falls.

    Args:
        curves: By what is to stand in the legend, at least one, all of one norm.
        title: What was attacked.

    Raises:
        ValueError: If the norms differ.
    """
    norms = sorted({curve.norm for curve in curves.values()})
    if len(norms) > 1:
        raise ValueError(f"curves: must be of one norm, got {' and '.join(norms)}")
    reached = {name: np.unique(curve.epsilons[np.isfinite(curve.epsilons)]) for name, curve in curves.items()}
    end = 1.05 * max((float(at[-1]) for at in reached.values() if len(at)), default=1.0)
    handles = []
    with house_style():
        y_label = "items that succeed"
        figure, (axes,) = draw_panels([NORMS[norms[0]]], width=3.4, height=2.8, title=title, y_label=y_label)
        for place, (name, curve) in enumerate(curves.items()):
            x, look = np.concatenate([[0.0], reached[name], [end]]), Look.at(place)
            form = {"color": look.colour, "linestyle": look.line, "linewidth": 1.6}
            axes.step(x, curve.shares(x), where="post", **form)
            handles.append(legend_marker(name, "", **form))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set(xlim=(0, end), ylim=(-0.03, 1.03))
        axes.grid(True)
        finish(figure, "ε in grey levels", handles)
    return figure
