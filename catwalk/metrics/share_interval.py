"""Interval of a share."""


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
    from scipy import stats  # takes a while, which no help should wait for

    interval = stats.binomtest(successes, images).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
