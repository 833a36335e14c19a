"""The plot of success against ε shows the shares that it was given."""

import math

import numpy as np
import pytest

from catwalk.plots.style import drawn
from catwalk.plots.success_curves import draw_success_curves
from catwalk.poisoning.success_curve import SuccessCurve


def curve(*epsilons: float, norm: str = "l2") -> SuccessCurve:
    return SuccessCurve("DDN (100)", norm, [str(number) for number in range(len(epsilons))], np.array(epsilons))


def test_a_step_for_every_item_that_falls() -> None:
    figure = draw_success_curves({"T": curve(10, 40, 10, math.inf), "AT": curve(80, 100)}, title="Sandals")
    (axes,) = figure.axes
    undefended, defended = axes.lines
    assert undefended.get_drawstyle() == defended.get_drawstyle() == "steps-post"
    assert list(zip(*undefended.get_data(), strict=True)) == [(0, 0), (10, 0.5), (40, 0.75), (pytest.approx(105), 0.75)]
    assert list(defended.get_ydata()) == [0, 0.5, 1, 1]
    assert undefended.get_linestyle() != defended.get_linestyle()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["T", "AT"]
    assert drawn(figure, "svg") == drawn(figure, "svg")


def test_nothing_that_succeeds_is_a_line_at_zero() -> None:
    (axes,) = draw_success_curves({"T": curve(math.inf)}, title="Sandals").axes
    assert list(axes.lines[0].get_ydata()) == [0, 0]


def test_two_norms_do_not_share_an_axis() -> None:
    with pytest.raises(ValueError, match="curves: must be of one norm, got l2 and linf"):
        draw_success_curves({"a": curve(1), "b": curve(1, norm="linf")}, title="")
