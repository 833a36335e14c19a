"""Confidence in a mean over users and seeds: where the true mean may lie, by a bootstrap over both.

A matrix of S seeds × U users is crossed: the same users in every seed. Its cells are taken as
``d_su = μ + a_s + b_u + e_su``, and what is asked for is μ, the mean over all users and all seeds that might have been.
Resampling rows and columns as they are, and taking percentiles, does not cover at its rate with few seeds: three seeds
have ten different resamples. So each level is resampled in the way that its number allows:

- *Users*, of whom there are many, as they are: the studentised bootstrap, which follows skewed counts.
- *Seeds*, of which there are few, in the normal model: the mean square of the seeds over a draw of χ² / (S − 1) with
  S − 1 degrees of freedom is one that they may have, and less the mean square of the rest it is what they add, never
  below 0. Where seeds are all that matters this is Student's t with S − 1 degrees of freedom, and the more seeds there
  are the nearer it comes to the interval of users alone where they add nothing.

This is the generalised confidence interval of a mean in the two-way random model (Weerahandi 1993, Journal of the
American Statistical Association 88), with the users' part bootstrapped. ``docs/statistics.md`` shows how it covers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]

GROUPS = 128
"""Users are resampled in at most so many groups of the same, or nearly the same, value."""

FEWEST = 0.99
"""Share of the resamples of users that must have a t."""

BLOCK = 2**21
"""Counts of resampled users that are in memory at a time."""


@dataclass(frozen=True)
class MeanSquares:
    """The two-way analysis of variance of a matrix with one observation in a cell.

    Attributes:
        seeds: Mean square of the seeds, of expectation σ²ₑ + U σ²ₐ; 0 for one seed.
        users: Mean square of the users, of expectation σ²ₑ + S σ²_b.
        rest: Mean square of what is left, of expectation σ²ₑ; 0 for one seed.
        num_seeds: S, at least 1.
        num_users: U, at least 2.
    """

    seeds: float
    users: float
    rest: float
    num_seeds: int
    num_users: int


def mean_squares(matrix: Array) -> MeanSquares:
    """Return the mean squares of a matrix ``(S, U)``."""
    num_seeds, num_users = matrix.shape
    by_seed, by_user = matrix.mean(axis=1), matrix.mean(axis=0)
    mean = by_seed.mean()
    users = float(num_seeds * np.square(by_user - mean).sum() / (num_users - 1))
    if num_seeds == 1:
        return MeanSquares(0.0, users, 0.0, num_seeds, num_users)
    seeds = float(num_users * np.square(by_seed - mean).sum() / (num_seeds - 1))
    left = sum(float(np.square(row - own - by_user + mean).sum()) for row, own in zip(matrix, by_seed, strict=True))
    return MeanSquares(seeds, users, left / ((num_seeds - 1) * (num_users - 1)), num_seeds, num_users)


class Confidence:
    """A confidence distribution: where the true value may lie, as a mixture of normal distributions.

    Args:
        centres: Their means ``(R,)``.
        variances: Their variances ``(R,)``; of 0, a point.
    """

    def __init__(self, centres: Array, variances: Array) -> None:
        self.centres = centres
        self.spreads = np.sqrt(variances)

    def below(self, value: float) -> float:
        """Return the confidence that the true value is at most so much; never under 1 / (R + 1)."""
        return self._share(value - self.centres)

    def above(self, value: float) -> float:
        """Return the confidence that the true value is at least so much; never under 1 / (R + 1)."""
        return self._share(self.centres - value)

    def p_value(self) -> float:
        """Return the two-sided p-value of a true value of 0; never under 2 / (R + 1)."""
        return min(1.0, 2 * min(self.below(0.0), self.above(0.0)))

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the ends of the interval, which leaves out 0 exactly where :meth:`p_value` is below 1 − confidence."""
        if not self.spreads.any() and np.ptp(self.centres) == 0:
            return float(self.centres[0]), float(self.centres[0])
        tail = (1 - confidence) / 2
        low = self._first(lambda value: self.below(value) >= tail)
        high = -self._first(lambda value: self.above(-value) >= tail)
        return low, high

    def _share(self, reach: Array) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(self.spreads > 0, special.ndtr(reach / self.spreads), reach >= 0)
        return float((shares.sum() + 1) / (len(shares) + 1))

    def _first(self, enough: Callable[[float], bool]) -> float:
        """Return the smallest value at which a condition holds that holds from there on, by bisection from 0."""
        step = float(np.ptp(self.centres) + np.median(self.spreads) + np.abs(self.centres).max())
        tolerance = 1e-9 * step
        left = right = 0.0
        if enough(0.0):
            while enough(left):
                left, right, step = left - step, left, 2 * step
        else:
            while not enough(right):
                left, right, step = right, right + step, 2 * step
        while right - left > tolerance:
            middle = (left + right) / 2
            left, right = (left, middle) if enough(middle) else (middle, right)
        return right


def of_mean(matrix: Array, resamples: int, seed: int) -> Confidence:
    """Return the confidence in the mean of a matrix.

    Args:
        matrix: ``(S, U)``, at least 1 × 2, crossed.
        resamples: R, the resamples of users, and the draws for the seeds.
        seed: Of the generator.
    """
    generator = np.random.default_rng(seed)
    deviations = users_part(matrix.mean(axis=0), resamples, generator)
    return Confidence(matrix.mean() + deviations, seeds_part(mean_squares(matrix), resamples))


def users_part(values: Array, resamples: int, generator: np.random.Generator) -> Array:
    """Return what the choice of users may have added to a mean: minus its standard error times bootstrapped t.

    Users with the same value are resampled together, by the multinomial distribution of their number. A resample in
    which all values are the same has no t. Few such are replaced by others; where they are many, as with a handful of
    users or of users who differ from the rest, the quantiles of Student's t with U − 1 degrees of freedom are taken.

    Args:
        values: The value of each user ``(U,)``, at least two.
        resamples: R.
        generator: Of the resamples.

    Returns:
        ``(R,)``; 0 where all users have the same value.
    """
    number = len(values)
    groups, counts = grouped(values - values.mean())
    if len(groups) == 1:
        return np.zeros(resamples)
    rows = max(1, BLOCK // len(groups))
    t = np.empty(resamples)
    for first in range(0, resamples, rows):
        taken = generator.multinomial(number, counts / number, size=min(rows, resamples - first)).astype(np.float64)
        means = taken @ groups / number
        variances = taken @ np.square(groups) / number - np.square(means)
        varied = variances > 1e-12 * np.square(groups).max()
        with np.errstate(divide="ignore", invalid="ignore"):
            t[first : first + rows] = np.where(varied, means / np.sqrt(variances / (number - 1)), np.nan)
    usual = t[np.isfinite(t)]
    if len(usual) < FEWEST * resamples:
        t = generator.permutation(stats.t.ppf((np.arange(resamples) + 0.5) / resamples, number - 1))
    else:
        t[~np.isfinite(t)] = usual[: resamples - len(usual)]
    return -np.sqrt(values.var(ddof=1) / number) * t


def grouped(values: Array) -> tuple[Array, NDArray[np.int64]]:
    """Return the different values and the number of each, at most :data:`GROUPS`: neighbours become their mean.

    The borders of groups are spread evenly over the range, and as many over the ranks, so that neither a few extreme
    values nor many small ones fall into one group.
    """
    # rounded, so that sums of the same numbers in another order are one group
    largest = float(np.abs(values).max())
    decimals = 12 - math.frexp(largest)[1] * 3 // 10
    groups, counts = np.unique(np.round(values, decimals), return_counts=True)
    if len(groups) <= GROUPS:
        return groups, counts
    shares = np.linspace(0, 1, GROUPS // 2)
    borders = np.unique([groups[0] + np.ptp(groups) * shares, np.quantile(values, shares)])
    places = np.searchsorted(borders[1:-1], groups, side="right")
    numbers = np.bincount(places, counts)
    filled = numbers > 0
    return np.bincount(places, counts * groups)[filled] / numbers[filled], numbers[filled].astype(np.int64)


def seeds_part(squares: MeanSquares, draws: int, generator: np.random.Generator | None = None) -> Array:
    """Return the variances that seeds may add to a mean ``(R,)``, from that of the smallest χ² on.

    Args:
        squares: Of the matrix.
        draws: R.
        generator: Shuffles them; without one, they are in order.
    """
    if squares.num_seeds == 1:
        return np.zeros(draws)
    possible = squares.seeds / mean_square_draws(squares.num_seeds - 1, draws) - squares.rest
    variances = np.maximum(possible, 0) / (squares.num_seeds * squares.num_users)
    return variances if generator is None else generator.permutation(variances)


@lru_cache(maxsize=32)
def mean_square_draws(degrees: int, draws: int) -> Array:
    """Return evenly spread quantiles of χ² over its degrees of freedom ``(R,)``."""
    quantiles: Array = stats.chi2.ppf((np.arange(draws) + 0.5) / draws, degrees) / degrees
    quantiles.flags.writeable = False
    return quantiles
