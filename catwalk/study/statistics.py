"""What an attack did to a metric, with an interval, and a verdict in words.

An effect is paired: a metric of every user in every seed, attacked minus clean, with the same users and seeds.
:mod:`catwalk.study.confidence` says how its interval is made, ``docs/statistics.md`` how it covers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from catwalk.errors import CatwalkError
from catwalk.study.confidence import Array, Confidence, MeanSquares, mean_squares, of_mean, seeds_part, users_part

Verdict = Literal["pushed", "lowered", "no effect", "cannot tell"]

RESAMPLES = 10_000
"""Resamples of users behind every interval, by default."""

MOST_CONFIDENT = 0.995
"""Largest confidence of an interval for which these are enough."""

MOST_SEEDS = 1000
"""No more seeds than these are looked at by :func:`seeds_needed`."""


@dataclass(frozen=True)
class Interval:
    """A value with the interval that holds the true one at the stated rate.

    Attributes:
        mean: What was measured.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    def within(self, limit: float) -> bool:
        """Return whether the whole interval lies within ± limit."""
        return -limit <= self.low and self.high <= limit


@dataclass(frozen=True)
class EffectSize:
    """A metric with and without an attack, and the difference.

    Attributes:
        clean: Mean without the attack, over users and seeds.
        attacked: Mean with it.
        difference: Attacked minus clean, in the metric's own unit, such as places in a list.
        relative: The same as a share of the clean mean; None where that is 0.
        standardised: The difference over the standard deviation of the users' differences within a seed (pooled over
            seeds, so that it does not depend on their number); None where that is 0.
        p_value: Two-sided, of no difference: below 1 − confidence exactly where the interval leaves out 0.
        seeds: S. With one the interval is about users alone: of this training, not of others.
        users: U.
        squares: The mean squares of seeds, users and the rest.
    """

    clean: float
    attacked: float
    difference: Interval
    relative: Interval | None
    standardised: float | None
    p_value: float
    seeds: int
    users: int
    squares: MeanSquares

    def limit(self, smallest_effect: float) -> float:
        """Return the smallest effect of interest in the metric's own unit.

        Args:
            smallest_effect: As a share of the clean mean; where that is 0, in the metric's own unit already.
        """
        return smallest_effect * (abs(self.clean) or 1.0)


def paired_effect(
    clean: ArrayLike, attacked: ArrayLike, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> EffectSize:
    """Return what an attack did to a metric.

    The result is the same in whatever order the users are, and depends on nothing but the arguments.

    Args:
        clean: The metric without the attack ``(S, U)``, a row for each seed and a column for each user.
        attacked: The metric with it ``(S, U)``, of the same seeds and users.
        confidence: Rate at which intervals hold the true value, within 0..1.
        resamples: Of users, at least 1,000, and 20 for each that an end of the interval leaves out.
        seed: Of the generator.

    Raises:
        CatwalkError: If the shapes differ or are not seeds × users, with fewer than two users, or with values that are
            NaN or infinite.
    """
    before, after = _matrix(clean, "clean"), _matrix(attacked, "attacked")
    if before.shape != after.shape:
        raise CatwalkError(
            f"attacked: needs the seeds and users of clean, {_size(before)}; got {_size(after)}; compare the same ones"
        )
    _check(confidence, resamples)
    order = np.lexsort((*before, *after))
    before, after = before[:, order], after[:, order]
    difference = after - before
    squares = mean_squares(difference)
    base, mean = float(before.mean()), float(difference.mean())
    found = of_mean(difference, resamples, seed)
    relative = None
    if base:
        # the ratio moves with both means, to first order as the mean of this
        moved = (difference - mean / base * before) / base
        relative = _interval(of_mean(moved, resamples, seed), 0.0, confidence, shift=mean / base)
    spread = math.sqrt(difference.var(axis=1, ddof=1).mean())
    return EffectSize(
        clean=base,
        attacked=float(after.mean()),
        difference=_interval(found, mean, confidence),
        relative=relative,
        standardised=mean / spread if spread else None,
        p_value=found.p_value(),
        seeds=squares.num_seeds,
        users=squares.num_users,
        squares=squares,
    )


def holm(p_values: Sequence[float] | Array) -> Array:
    """Return p-values adjusted for their number, in the same order (Holm 1979).

    Where those below a level count as found, the chance of any wrong one is at most that level, whatever their
    dependence.

    Args:
        p_values: Within 0..1, of hypotheses that are looked at together.

    Raises:
        CatwalkError: If one is outside.
    """
    values = np.asarray(p_values, dtype=np.float64).reshape(-1)
    if not ((values >= 0) & (values <= 1)).all():
        raise CatwalkError(f"p_values: must lie within 0..1; got {[float(value) for value in values]}; leave out NaN")
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def verdict(effect: EffectSize, p_adjusted: float, smallest_effect: float, confidence: float = 0.95) -> Verdict:
    """Return what may be said of an effect.

    - ``no effect``: the whole interval lies within ± the smallest effect of interest, whether or not it holds 0;
    - ``pushed``, ``lowered``: otherwise, an adjusted p-value below 1 − confidence;
    - ``cannot tell``: otherwise.

    Args:
        effect: With intervals of the same confidence.
        p_adjusted: Its p-value after :func:`holm`.
        smallest_effect: See :meth:`EffectSize.limit`.
        confidence: Within 0..1.
    """
    if effect.difference.within(effect.limit(smallest_effect)):
        return "no effect"
    if p_adjusted >= 1 - confidence:
        return "cannot tell"
    return "pushed" if effect.difference.mean > 0 else "lowered"


def seeds_needed(
    effect: EffectSize, smallest_effect: float, confidence: float = 0.95, *, p_adjusted: float | None = None
) -> int | None:
    """Return how many seeds would tell, were the difference and all variances what they were measured as.

    Args:
        effect: The effect.
        smallest_effect: See :meth:`EffectSize.limit`.
        confidence: Within 0..1.
        p_adjusted: Its p-value after :func:`holm`, if it was adjusted: what it is times the p-value is then asked of
            more seeds as well.

    Returns:
        The number of seeds that there are if :func:`verdict` tells already; otherwise the smallest one above at which
        it is expected to, at most :data:`MOST_SEEDS`. None where no such number is, as users differ too much; and with
        one seed, which does not tell how much seeds differ.
    """
    adjusted = effect.p_value if p_adjusted is None else p_adjusted
    if verdict(effect, adjusted, smallest_effect, confidence) != "cannot tell":
        return effect.seeds
    if effect.seeds == 1:
        return None
    tests = max(1.0, adjusted / effect.p_value)
    size, limit = abs(effect.difference.mean), effect.limit(smallest_effect)

    def tells(seeds: int) -> bool:
        squares = with_seeds(effect.squares, seeds)
        return size > half_width(squares, 1 - (1 - confidence) / tests) or (
            size < limit and size + half_width(squares, confidence) <= limit
        )

    few, many = effect.seeds, MOST_SEEDS
    if few >= many or not tells(many):
        return None
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if tells(middle) else (middle, many)
    return many


def verdict_sentence(
    found: Verdict,
    effect: EffectSize,
    *,
    attack: str,
    extractor: str,
    category: str,
    recommender: str,
    top_k: int,
    smallest_effect: float,
    confidence: float = 0.95,
    needed: int | None = None,
) -> str:
    """Return a verdict on the places of a category in plain words.

    Args:
        found: What :func:`verdict` returned.
        effect: The effect on CHR@K.
        attack: What was done, such as ``PGD (ε = 8)``.
        extractor: The CNN.
        category: The category whose images were attacked.
        recommender: The recommender.
        top_k: K.
        smallest_effect: See :meth:`EffectSize.limit`.
        confidence: That of the intervals.
        needed: What :func:`seeds_needed` returned; said where the verdict is ``cannot tell``.
    """
    mean, low, high = effect.difference.mean, effect.difference.low, effect.difference.high
    half = max(high - low, 1e-6) / 2
    decimals = min(6, max(0, 1 - math.floor(math.log10(half)))) if high > low else 2

    def number(value: float) -> str:
        text = f"{value:,.{decimals}f}"
        return text.replace("-", "−") if float(text.replace(",", "")) else text.lstrip("-")

    interval = f"{100 * confidence:g}% interval {number(low)} to {number(high)}"
    share = "" if effect.relative is None else f"{_percent(effect.relative.mean)}, "
    seeds = f"{effect.seeds} seeds" if effect.seeds > 1 else "1 seed (the interval is of users alone)"
    runs = f"{seeds}, {effect.users:,} users"
    change = f"{number(abs(mean))} {'fewer' if mean < 0 else 'more'} places in {top_k} ({share}{interval}), {runs}"
    what = f"{attack} on CNN {extractor}"
    if found == "no effect":
        limit = f"{effect.limit(smallest_effect):.3g} places in {top_k}"
        limit = limit if effect.clean == 0 else f"{100 * smallest_effect:g}% ({limit})"
        return (
            f"{what} had no effect on {category} in {recommender} larger than {limit}: "
            f"{number(mean)} places ({interval}), {runs}."
        )
    if found != "cannot tell":
        return f"{what} {found} {category} in {recommender}: {change}."
    if low > 0 or high < 0:
        change = f"{change}, which leaves out 0 by itself, but not as one of several attacks (Holm's correction)"
    if effect.seeds == 1:
        remedy = "one seed does not tell how much seeds differ: run three or more"
    elif needed is None:
        remedy = f"{MOST_SEEDS:,} seeds would not either: users differ too much"
    else:
        remedy = f"about {needed} seeds would"
    return f"Whether {what} changed {category} in {recommender} cannot be told: {change}; {remedy}."


@dataclass(frozen=True)
class EffectDifference:
    """How far one effect differs from another.

    Attributes:
        difference: The second minus the first, with its interval.
        p_value: Two-sided, of effects that are the same.
        same_users: The users are the same, and were paired; otherwise they are taken as independent.
        same_seeds: The seeds are the same as well, and were paired.
    """

    difference: Interval
    p_value: float
    same_users: bool
    same_seeds: bool


def difference_of_effects(
    first: ArrayLike,
    second: ArrayLike,
    *,
    users: tuple[Sequence[str], Sequence[str]],
    seeds: tuple[Sequence[int], Sequence[int]],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> EffectDifference:
    """Return how far an effect differs from another that was measured elsewhere.

    Args:
        first: Attacked minus clean ``(S, U)``.
        second: The same of the other ``(S', U')``.
        users: The ids of the users of both, ``U`` and ``U'`` of them, in any order.
        seeds: The seeds of both, ``S`` and ``S'`` of them, in any order. They are paired where users and seeds are the
            same.
        confidence: Rate at which the interval holds the true difference, within 0..1.
        resamples: As of :func:`paired_effect`.
        seed: Of the generator.

    Raises:
        CatwalkError: If a matrix is none, holds NaN, or has another size than its users and seeds.
    """
    _check(confidence, resamples)
    one = _in_order(_matrix(first, "first"), users[0], seeds[0], "first")
    two = _in_order(_matrix(second, "second"), users[1], seeds[1], "second")
    same_users = sorted(users[0]) == sorted(users[1])
    same_seeds = same_users and sorted(seeds[0]) == sorted(seeds[1])
    if same_seeds:
        found = of_mean(two - one, resamples, seed)
    else:
        generator = np.random.default_rng(seed)
        rows = two.mean(axis=0), one.mean(axis=0)
        if same_users:
            deviations = users_part(rows[0] - rows[1], resamples, generator)
        else:
            deviations = users_part(rows[0], resamples, generator) - users_part(rows[1], resamples, generator)
        variances = [seeds_part(mean_squares(matrix), resamples, generator) for matrix in (one, two)]
        found = Confidence(float(two.mean() - one.mean()) + deviations, variances[0] + variances[1])
    mean = float(two.mean() - one.mean())
    return EffectDifference(_interval(found, mean, confidence), found.p_value(), same_users, same_seeds)


def with_seeds(squares: MeanSquares, seeds: int) -> MeanSquares:
    """Return the mean squares that are expected with another number of seeds, at least 2 of them."""
    by_seed = max(0.0, squares.seeds - squares.rest)
    by_user = max(0.0, squares.users - squares.rest) / squares.num_seeds
    # what is expected where the users' and the seeds' own variances are those that were found, and not below 0
    return MeanSquares(squares.rest + by_seed, squares.rest + seeds * by_user, squares.rest, seeds, squares.num_users)


def half_width(squares: MeanSquares, confidence: float) -> float:
    """Return half the width of the interval of a mean with these mean squares, were the users normal."""
    draws = 1000
    variances = seeds_part(squares, draws) + squares.users / (squares.num_seeds * squares.num_users)
    low, high = Confidence(np.zeros(draws), variances).interval(confidence)
    return (high - low) / 2


def _interval(found: Confidence, mean: float, confidence: float, shift: float = 0.0) -> Interval:
    low, high = found.interval(confidence)
    return Interval(mean + shift, low + shift, high + shift)


def _matrix(values: ArrayLike, name: str) -> Array:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] < 1 or matrix.shape[1] < 2:
        raise CatwalkError(
            f"{name}: must be a matrix of at least 1 seed × 2 users; got the shape {matrix.shape}; give a row per seed"
        )
    wrong = ~np.isfinite(matrix)
    if wrong.any():
        row, column = (int(place) for place in np.argwhere(wrong)[0])
        raise CatwalkError(
            f"{name}: must be finite; got {matrix[row, column]} in row {row}, column {column}, and {int(wrong.sum())} "
            "such values; leave out users without a value"
        )
    return matrix


def _size(matrix: Array) -> str:
    return f"{matrix.shape[0]} × {matrix.shape[1]:,}"


def _check(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise CatwalkError(f"confidence: must lie within 0..1, ends excluded; got {confidence}; 0.95 is usual")
    fewest = max(1000, math.ceil(40 / (1 - confidence)))
    if resamples < fewest:
        raise CatwalkError(f"resamples: must be at least {fewest:,} for confidence {confidence}; got {resamples:,}")


def _in_order(matrix: Array, users: Sequence[str], seeds: Sequence[int], name: str) -> Array:
    """Return a matrix in the order of its seeds and users."""
    if matrix.shape != (len(seeds), len(users)):
        raise CatwalkError(
            f"{name}: needs a row for each of {len(seeds)} seeds and a column for each of {len(users):,} users; "
            f"got {_size(matrix)}"
        )
    rows = sorted(range(len(seeds)), key=seeds.__getitem__)
    columns = sorted(range(len(users)), key=users.__getitem__)
    return matrix[rows][:, columns]


def _percent(share: float) -> str:
    text = f"{100 * share:+.{1 if abs(share) < 0.0995 else 0}f}%"
    return text.replace("-", "−") if float(text[:-1]) else "0%"
