"""ROC curves, against torchmetrics and counting."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_roc

from catwalk.plots.roc import RocCurve, draw_roc, roc_points
from catwalk.plots.style import drawn

RANDOM = np.random.default_rng(0)
CLEAN, ATTACKED = RANDOM.integers(10, size=40) / 20, RANDOM.integers(5, 20, size=25) / 20


def test_points_are_those_of_torchmetrics() -> None:
    false, true = roc_points(CLEAN, ATTACKED)
    scores = torch.from_numpy(np.concatenate([CLEAN, ATTACKED]))
    labels = torch.tensor([0] * 40 + [1] * 25)
    expected = binary_roc(scores, labels)
    assert false == pytest.approx(expected[0].numpy())
    assert true == pytest.approx(expected[1].numpy())


def test_a_curve_is_in_its_panel_and_the_figure_is_the_same_each_time() -> None:
    curves = [RocCurve("kNN", "PGD", torch.from_numpy(CLEAN), ATTACKED), RocCurve("Squeezing", "PGD", CLEAN, CLEAN)]
    figure = draw_roc(curves, false_positives=0.01, title="Detectors")
    panels = {axes.get_title("left") or axes.get_title(): axes for axes in figure.axes}
    assert set(panels) == {"kNN", "Squeezing"}
    line, curve = panels["kNN"].lines
    assert list(line.get_xdata()) == [0.01, 0.01]
    false, true = roc_points(CLEAN, ATTACKED)
    assert list(curve.get_ydata()) == pytest.approx(true)
    assert list(curve.get_xdata())[3:] == pytest.approx(np.maximum(false, curve.get_xdata()[0])[3:])
    assert drawn(figure, "svg") == drawn(draw_roc(curves, false_positives=0.01, title="Detectors"), "svg")
