"""Bar plot of the places in the lists that each category takes."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from catwalk.plots.style import BELOW, BLUE, GREY, INK, ORANGE, SIZE, house_style, new_figure, shortened, wrapped

LARGEST = 20
"""Categories that are drawn, beside source and target: those with the highest CHR@K."""


def draw_category_bars(
    now: Mapping[str, float],
    before: Mapping[str, float] | None,
    before_label: str | None,
    *,
    top_k: int,
    source: str,
    target: str | None,
    title: str,
) -> Figure:
    """Draw CHR@K of the largest categories, and of source and target whatever theirs is.

    Args:
        now: CHR@K of every category, in [0, K]: the bars.
        before: CHR@K before the attack: a mark on each bar; None where it is not known.
        before_label: When that was; None where there is none.
        top_k: K.
        source: Category that was attacked; it stands out.
        target: Category that the network shall see in its images; it stands out too. None for an attack that has none.
        title: What was measured.
    """
    falling = sorted(now, key=lambda name: (-now[name], name))
    shown = [name for rank, name in enumerate(falling) if rank < LARGEST or name in (source, target)]
    colours = [ORANGE if name == source else BLUE if name == target else GREY for name in shown]
    ends = [max(now[name], before[name] if before is not None else 0) for name in shown]
    longest = max(*ends, 1e-9)
    with house_style():
        figure = new_figure(SIZE[0], 1.9 + 0.24 * max(len(shown), 4))
        axes = figure.add_subplot()
        places = range(len(shown))
        axes.barh(places, [now[name] for name in shown], height=0.72, color=colours)
        for place, name, end in zip(places, shown, ends, strict=True):
            text = f"{now[name]:.3f}"
            if before is not None:
                mark = [before[name]] * 2, [place - 0.44, place + 0.44]
                axes.plot(*mark, color=INK, linewidth=2, solid_capstyle="butt")
                text += f"  ({now[name] - before[name]:+.3f})".replace("-", "\N{MINUS SIGN}")
            axes.text(end + 0.012 * longest, place, text, va="center", fontsize=8)
        axes.set_yticks(places, [shortened(name) for name in shown])
        axes.set(xlim=(0, 1.16 * longest), ylim=(len(shown) - 0.4, -0.6))
        axes.set_xlabel(f"CHR@{top_k}: mean number of places in a list of {top_k}")
        of = "" if len(shown) == len(now) else f": {len(shown)} of {len(now):,} categories"
        axes.set_title(wrapped(title + of, SIZE[0] - 1, 12))
        axes.tick_params(axis="y", length=0)
        axes.xaxis.grid(True)
        axes.spines["left"].set_visible(False)
        handles: list[Patch | Line2D] = [Patch(color=ORANGE, label=f"source: {shortened(source)}")]
        if target is not None:
            handles.append(Patch(color=BLUE, label=f"target: {shortened(target)}"))
        if before is not None:
            handles.append(Line2D([], [], color=INK, linewidth=2, label=before_label))
        figure.legend(handles=handles, loc=BELOW, ncols=3)
    return figure
