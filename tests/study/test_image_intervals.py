"""Intervals over images, against closed forms."""

import math
from statistics import NormalDist, fmean, stdev

import pytest

from catwalk.metrics.share_interval import share_interval
from catwalk.study.image_intervals import mean_interval


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("successes", "images"), [(0, 1), (1, 1), (0, 40), (3, 40), (20, 40), (40, 40), (7, 6000)])
def test_shares_have_wilsons_interval(successes: int, images: int, confidence: float) -> None:
    """The shares whose distance from the one measured is z standard errors of their own."""
    z, share = NormalDist().inv_cdf((1 + confidence) / 2), successes / images
    centre = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    low, high = share_interval(successes, images, confidence)
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-9)
    assert 0 <= low <= share <= high <= 1


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("values", [(1.0, 4.0), (0.5, 0.25, 2.0), (3.0, 3.0, 3.0)])
def test_means_have_students_interval(values: tuple[float, ...], confidence: float) -> None:
    """With one and two degrees of freedom Student's quantiles have closed forms."""
    half = confidence / 2  # beyond the median
    quantile = math.tan(math.pi * half) if len(values) == 2 else 2 * half / math.sqrt(2 * (0.5 + half) * (0.5 - half))
    width = quantile * stdev(values) / math.sqrt(len(values))
    mean = fmean(values)
    assert mean_interval(values, confidence) == pytest.approx((mean - width, mean + width), rel=1e-9)


@pytest.mark.parametrize("values", [(), (1.0,), (1.0, math.nan), (math.inf, 1.0)])
def test_means_without_an_interval(values: tuple[float, ...]) -> None:
    assert mean_interval(values, 0.95) is None
