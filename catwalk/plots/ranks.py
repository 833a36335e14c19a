"""Plot of where attacked items rank before and after an attack."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from catwalk.plots.panels import Look, distinct, draw_panels, finish, label_factors, legend_marker
from catwalk.plots.style import GREY, house_style


@dataclass(frozen=True)
class RankPanel:
    """Ranks of the same items before and after.

    Attributes:
        title: Which recommender, network and attack.
        before: Mean rank of each item over the users, from 1, ``(n,)``.
        after: The same with the adversarial images, ``(n,)``.
        groups: The group of each item, such as its popularity, ``n`` names; empty where there is but one.
    """

    title: str
    before: ArrayLike
    after: ArrayLike
    groups: Sequence[str] = ()


def draw_ranks(panels: Sequence[RankPanel], *, title: str) -> Figure:
    """Draw a point for every item, its rank before against its rank after; below the diagonal it has risen.

    Each panel says what share of its items has risen.

    Args:
        panels: At least one, each with at least one item.
        title: What was measured.
    """
    groups = distinct(group for panel in panels for group in panel.groups)
    ranks = [(np.asarray(panel.before, float), np.asarray(panel.after, float)) for panel in panels]
    last = max(float(values.max()) for pair in ranks for values in pair) * 1.15
    first = max(min(float(values.min()) for pair in ranks for values in pair), 1) / 1.15
    names = [
        f"{panel.title}\n{(after < before).mean():.0%} of {len(before):,} items rise"
        for panel, (before, after) in zip(panels, ranks, strict=True)
    ]
    with house_style():
        y_label = "mean rank after; below the line: risen"
        figure, grid = draw_panels(names, width=3.1, height=3.2, title=title, y_label=y_label)
        for axes, panel, (before, after) in zip(grid, panels, ranks, strict=True):
            axes.plot([first, last], [first, last], color=GREY, linewidth=1, zorder=1)
            of_item = np.array(panel.groups or [""] * len(before), dtype=object)
            for place, name in enumerate(groups or [""]):
                look, chosen = Look.at(place), of_item == name
                form = {"marker": look.marker, "markersize": 4, "alpha": 0.75, **look.filled}
                axes.plot(before[chosen], after[chosen], **form)
            axes.set(xscale="log", yscale="log", xlim=(first, last), ylim=(first, last), aspect="equal")
            for axis in (axes.xaxis, axes.yaxis):
                label_factors(axis)
        handles = [
            legend_marker(name, Look.at(place).marker, **Look.at(place).filled) for place, name in enumerate(groups)
        ]
        finish(figure, "mean rank before (1 is first)", handles)
    return figure
