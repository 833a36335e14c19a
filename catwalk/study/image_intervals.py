"""Intervals of what an attack did to its images on average, over the images."""

import math
from collections.abc import Sequence

from scipy import stats


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
