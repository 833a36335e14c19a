"""Metrics of detectors, against brute force, torchmetrics, scikit-learn where it is installed, and simulation."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc

from catwalk.errors import CatwalkError
from catwalk.metrics import DetectionAUROC, DetectionRate
from catwalk.metrics.detection import auroc, auroc_interval, calibrated_threshold

CASES = [(1, 1, 2), (7, 3, 4), (40, 25, 5), (200, 150, 1000)]


def scores_with_ties(clean: int, poisoned: int, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(clean)
    draw = torch.randint(levels, (clean + poisoned,), generator=random).float() / levels
    return draw[:clean], draw[clean:] + (0.1 if levels > 10 else 0)


@pytest.mark.parametrize(("clean", "poisoned", "levels"), CASES)
def test_the_area_counts_pairs(clean: int, poisoned: int, levels: int) -> None:
    low, high = scores_with_ties(clean, poisoned, levels)
    pairs = [1.0 if b > a else 0.5 if a == b else 0.0 for a in low.tolist() for b in high.tolist()]
    assert auroc(low, high) == pytest.approx(np.mean(pairs), abs=1e-12)
    labels = torch.tensor([0] * clean + [1] * poisoned)
    assert auroc(low, high) == pytest.approx(float(binary_auroc(torch.cat([low, high]) / 2, labels)), abs=1e-6)


@pytest.mark.parametrize(("clean", "poisoned", "levels"), CASES)
def test_the_area_is_that_of_scikit_learn(clean: int, poisoned: int, levels: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    low, high = scores_with_ties(clean, poisoned, levels)
    expected = sklearn.roc_auc_score([0] * clean + [1] * poisoned, torch.cat([low, high]).numpy())
    assert auroc(low, high) == pytest.approx(expected, abs=1e-12)


def hanley_mcneil(true: float, clean: int, poisoned: int) -> float:
    """The standard error, from the two probabilities that it is usually written with."""
    both_poisoned, both_clean = true / (2 - true), 2 * true**2 / (1 + true)
    others = (clean + poisoned) / 2 - 1
    terms = true * (1 - true) + others * (both_poisoned - true**2) + others * (both_clean - true**2)
    return math.sqrt(terms / (clean * poisoned))


@pytest.mark.parametrize("area", [0.0, 0.03, 0.5, 0.8, 0.999, 1.0])
@pytest.mark.parametrize(("clean", "poisoned"), [(5, 3), (450, 60)])
def test_the_ends_of_the_interval_are_z_of_their_own_standard_errors_away(area, clean, poisoned) -> None:
    low, high = auroc_interval(area, clean, poisoned, 0.9)
    z = NormalDist().inv_cdf(0.95)
    assert 0 <= low <= area <= high <= 1
    for end in (low, high):
        if end not in (0.0, 1.0):
            assert abs(end - area) == pytest.approx(z * hanley_mcneil(end, clean, poisoned), rel=1e-6)
    assert (low == 0) == (area == 0)
    assert (high == 1) == (area == 1)


def test_the_interval_covers_at_its_rate() -> None:
    """Of normal scores, whose true area is known."""
    random, covered, runs = np.random.default_rng(0), 0, 400
    true = NormalDist().cdf(1.5 / math.sqrt(2))
    for _ in range(runs):
        clean, poisoned = torch.from_numpy(random.normal(0, 1, 80)), torch.from_numpy(random.normal(1.5, 1, 30))
        low, high = auroc_interval(auroc(clean, poisoned), 80, 30, 0.9)
        covered += low <= true <= high
    assert 0.85 <= covered / runs <= 0.97


@pytest.mark.parametrize("count", [99, 100, 450])
def test_the_threshold_keeps_its_promise_for_the_next_image(count: int) -> None:
    """Of n + 1 exchangeable scores, at most a share α exceed the threshold that the other n set."""
    random = np.random.default_rng(count)
    exceeded, runs = 0, 4000
    for _ in range(runs):
        scores = random.random(count + 1)
        exceeded += scores[-1] > calibrated_threshold(torch.from_numpy(scores[:-1]), 0.01)
    assert exceeded / runs <= 0.01 + 4 * math.sqrt(0.01 * 0.99 / runs)
    values = torch.from_numpy(random.permutation(count).astype(float))
    allowed = math.floor((count + 1) * 0.01 + 1e-9)  # of n + 1, one of which is the image itself
    assert (values > calibrated_threshold(values, 0.01)).sum() == allowed - 1


def test_a_threshold_needs_clean_images() -> None:
    with pytest.raises(CatwalkError, match="needs 99 clean items"):
        calibrated_threshold(torch.rand(98), 0.01)
    with pytest.raises(CatwalkError, match="false_positives"):
        calibrated_threshold(torch.rand(98), 1.0)


def test_metrics_in_batches_are_those_of_all_at_once() -> None:
    clean, poisoned = scores_with_ties(200, 150, 1000)
    scores = torch.cat([clean, poisoned])
    labels = torch.arange(350) >= 200
    order = torch.randperm(350, generator=torch.Generator().manual_seed(0))
    area, rate = DetectionAUROC(0.9), DetectionRate(0.5, 0.9)
    for rows in order.split(64):
        area.update(scores[rows], labels[rows])
        rate.update(scores[rows])
    found = area.compute()
    assert float(found["auroc"]) == auroc(clean, poisoned)
    ends = auroc_interval(auroc(clean, poisoned), 200, 150, 0.9)
    assert (float(found["auroc_low"]), float(found["auroc_high"])) == ends
    flagged = sum(score > 0.5 for score in scores.tolist())
    values = rate.compute()
    assert float(values["rate"]) == pytest.approx(flagged / 350)
    assert float(values["low"]) < float(values["rate"]) < float(values["high"])


def test_metrics_of_nothing() -> None:
    assert all(value.isnan() for value in DetectionAUROC().compute().values())
    assert all(value.isnan() for value in DetectionRate(0.5).compute().values())
