"""Confusion plot: the categories that a network saw in some images before an attack, and sees after it."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from catwalk.plots.style import BLUE, INK, house_style, new_figure, shortened

MOST = 12
"""Categories in a row or a column; the rest are counted together."""

OTHERS = "(others)"


def draw_confusion(before: Sequence[str], after: Sequence[str], title: str) -> Figure:
    """Draw how often which category became which: a row for what was seen, a column for what is seen now.

    Args:
        before: Category of each image before the attack, at least one.
        after: Category of each image now.
        title: Stands above all.
    """
    rows = _most_frequent(Counter(before))
    # What was seen before has a column even where nobody sees it now, and comes in the order of the rows.
    columns = _most_frequent({**dict.fromkeys(before, 0), **Counter(after)})
    columns.sort(key=lambda name: (name == OTHERS, rows.index(name) if name in rows else len(rows)))
    counts = np.zeros((len(rows), len(columns)), dtype=np.int64)
    for then, now in zip(before, after, strict=True):
        counts[_place(then, rows), _place(now, columns)] += 1
    shares = counts / counts.sum(axis=1, keepdims=True)
    with house_style():
        figure = new_figure(2.9 + 0.72 * max(len(columns), 5), 2.0 + 0.5 * len(rows))
        axes = figure.add_subplot()
        axes.imshow(shares, cmap=LinearSegmentedColormap.from_list("", ["white", BLUE]), vmin=0, vmax=1, aspect="auto")
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.55 else INK
                text = f"{count:,}\n{shares[row, column]:.0%}"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
        axes.set_yticks(range(len(rows)), [shortened(name, 22) for name in rows])
        labels = [shortened(name, 22) for name in columns]
        axes.set_xticks(range(len(columns)), labels, rotation=30, ha="right", rotation_mode="anchor")
        axes.set(xlabel="seen after the attack", ylabel="seen before")
        axes.set_title(title)
        axes.tick_params(length=0)
        axes.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="minor", length=0)
    return figure


def _most_frequent(counts: Mapping[str, int]) -> list[str]:
    """Return the names, the most frequent first, and ``others`` last where there are too many."""
    falling = sorted(counts, key=lambda name: (-counts[name], name))
    return falling if len(falling) <= MOST else [*falling[: MOST - 1], OTHERS]


def _place(name: str, names: list[str]) -> int:
    return names.index(name) if name in names else len(names) - 1
