"""Intervals of what an attack did to its images: of shares and of means, over the images."""

import math
from collections.abc import Sequence

from scipy import stats


def share_interval(successes: int, images: int, confidence: float) -> tuple[float, float]:
    """Return Wilson's interval of a share (Wilson, JASA 1927).

    Args:
        successes: Number of images that count, ``0..images``.
        images: Number of all, at least 1.
        confidence: In (0, 1).

    Example:
        >>> low, high = share_interval(8, 10, 0.95)
        >>> round(low, 2), round(high, 2)
        (0.49, 0.94)
    """
    interval = stats.binomtest(successes, images).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(values: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """Return Student's interval of a mean; None for fewer than two values, or where one is not a finite number.

    Args:
        values: One for each image.
        confidence: In (0, 1).
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    mean, error = sum(values) / len(values), float(stats.sem(values))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return mean - half, mean + half
