"""What the plots of a study show: the numbers that they are given, in grey as well, and the same bytes each time."""

import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from catwalk.plots.budgets import BudgetPoint, draw_budgets
from catwalk.plots.intervals import IntervalRow, draw_intervals
from catwalk.plots.panels import FILLS, LINES, MARKERS, Look
from catwalk.plots.ranks import RankPanel, draw_ranks
from catwalk.plots.scatter import Point, draw_scatter
from catwalk.plots.style import drawn, shortened

HOSTILE = "</text><script>alert(1)</script> $\\frac{ \x00\x1b[31m\u202e--> & \"'"

INTERVALS = [
    IntervalRow("VBPR", "FGSM", "T", 0.5, 0.25, 0.75, 0.1),
    IntervalRow("VBPR", "FGSM", "AT", 0.05, -0.02, 0.08, 0.1, is_decided=False),
    IntervalRow("VBPR", "Noise", "T", -0.25, -0.5, 0.125),
    IntervalRow("AMR", "FGSM", "AT", 1.5, 1.25, 1.75, 0.2),
]
BUDGETS = [
    BudgetPoint("VBPR", "T", "PGD", 8, 2.0, 1.5, 2.5),
    BudgetPoint("VBPR", "T", "PGD", 0, 1.0, 1.0, 1.0),
    BudgetPoint("VBPR", "T", "FGSM", 8, 1.25, 1.0, 1.5),
]
POINTS = [Point("", "T", "PGD", 0.001, 0.75, 0.5, 1.0), Point("", "AT", "FGSM", 0.1, 0.25)]
RANKS = [RankPanel("VBPR", np.array([10.0, 20, 400]), np.array([5.0, 40, 100]), ["cold", "tail", "cold"])]

DRAWN: dict[str, Callable[[str], Figure]] = {
    "intervals": lambda title: draw_intervals(INTERVALS, title=title, x_label="places"),
    "budgets": lambda title: draw_budgets(BUDGETS, title=title, y_label="CHR@20"),
    "scatter": lambda title: draw_scatter(POINTS, title=title, x_label="FL", y_label="SR", is_logarithmic=True),
    "ranks": lambda title: draw_ranks(RANKS, title=title),
}


def markers(axes: Axes) -> list[tuple[float, float]]:
    """Return where the markers of single points are."""
    found = [line.get_xydata()[0] for line in axes.lines if len(line.get_xydata()) == 1]
    return [(float(x), float(y)) for x, y in found]


def test_a_mean_stands_on_its_interval_in_its_panel_and_row() -> None:
    vbpr, amr = draw_intervals(INTERVALS, title="Effect", x_label="places").axes
    assert [axes.get_title() or axes.get_title("left") for axes in (vbpr, amr)] == ["VBPR", "AMR"]
    assert [text.get_text() for text in vbpr.get_yticklabels()] == ["FGSM", "Noise"]
    (t_x, t_y), (at_x, at_y), (noise_x, noise_y) = markers(vbpr)
    assert (t_x, at_x, noise_x) == (0.5, 0.05, -0.25)
    assert -0.5 < t_y < at_y < 0.5 < noise_y < 1.5  # series one below the other within a row
    spans = [line.get_xdata() for line in vbpr.lines if len(line.get_xdata()) == 2 and line.get_xdata()[0] != 0]
    assert [tuple(span) for span in spans] == [(0.25, 0.75), (-0.02, 0.08), (-0.5, 0.125)]
    bands = [(bar.get_x(), bar.get_width()) for bar in vbpr.patches]
    assert bands == [(-0.1, 0.2), (-0.1, 0.2)]  # a row without a margin has none
    assert markers(amr) == [(1.5, pytest.approx(at_y))]


def test_what_is_not_decided_is_hollow() -> None:
    vbpr, _ = draw_intervals(INTERVALS, title="Effect", x_label="places").axes
    fills = [line.get_fillstyle() for line in vbpr.lines if len(line.get_xydata()) == 1]
    assert fills == ["full", "none", "full"]


def test_budgets_rise_along_the_line_and_a_curve_is_an_attack_of_a_network() -> None:
    (axes,) = draw_budgets(BUDGETS, title="Budgets", y_label="CHR@20").axes
    pgd, fgsm = axes.lines
    assert list(pgd.get_ydata()) == [1.0, 2.0]  # given the other way round
    assert pgd.get_color() == fgsm.get_color()
    assert pgd.get_linestyle() != fgsm.get_linestyle()
    assert pgd.get_marker() != fgsm.get_marker()
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "8"]


def test_a_scatter_shows_both_metrics_and_the_interval() -> None:
    (axes,) = draw_scatter(POINTS, title="SR", x_label="FL", y_label="SR", is_logarithmic=True, shares="y").axes
    assert markers(axes) == [(0.001, 0.75), (0.1, 0.25)]
    assert axes.get_xscale() == "log"
    (interval,) = axes.collections
    assert interval.get_segments()[0].tolist() == [[0.001, 0.5], [0.001, 1.0]]


def test_an_axis_with_a_zero_is_not_logarithmic() -> None:
    points = [*POINTS, Point("", "T", "Noise", 0.0, 0.0)]
    (axes,) = draw_scatter(points, title="SR", x_label="FL", y_label="SR", is_logarithmic=True).axes
    assert axes.get_xscale() == "linear"


def test_ranks_stand_by_group_and_tell_how_many_rise() -> None:
    (axes,) = draw_ranks(RANKS, title="Ranks").axes
    _, cold, tail = axes.lines
    assert cold.get_xydata().tolist() == [[10, 5], [400, 100]]
    assert tail.get_xydata().tolist() == [[20, 40]]
    assert "67% of 3 items rise" in axes.get_title("left")


def test_six_series_differ_in_more_than_colour() -> None:
    looks = [Look.at(place) for place in range(6)]
    assert len({look.colour for look in looks}) == 6
    assert len({look.marker for look in looks}) == len({look.line for look in looks}) == 6
    assert len({look.fill for look in looks}) == 6
    assert Look.at(6).colour == looks[0].colour
    assert len(set(MARKERS)) == len(MARKERS) > len(FILLS) == len(set(map(str, LINES)))


@pytest.mark.parametrize("name", DRAWN)
def test_the_same_figure_has_the_same_bytes(name: str) -> None:
    first, again = (drawn(DRAWN[name]("Title"), "svg") for _ in range(2))
    assert first == again
    assert b"<dc:date>" not in first


@pytest.mark.parametrize("name", DRAWN)
def test_a_hostile_title_is_text_in_the_file(name: str) -> None:
    figure = DRAWN[name](shortened(HOSTILE, 200))
    root = ElementTree.fromstring(drawn(figure, "svg"))
    assert {element.tag.rpartition("}")[2] for element in root.iter()}.isdisjoint({"script", "a", "foreignObject"})
    assert Image.open(io.BytesIO(drawn(figure, "png"))).width > 400


def test_a_name_has_only_letters_that_a_picture_can_hold() -> None:
    assert (
        shortened("a\x00b\x1b\n c\u202e")
        == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER} c\N{REPLACEMENT CHARACTER}"
    )
