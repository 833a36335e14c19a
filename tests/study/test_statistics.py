"""Intervals, p-values and verdicts of effects, against SciPy, brute force and simulation."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from catwalk.errors import CatwalkError
from catwalk.study.confidence import GROUPS, MeanSquares, grouped, mean_squares, of_mean, users_part
from catwalk.study.statistics import (
    EffectSize,
    Interval,
    Verdict,
    difference_of_effects,
    holm,
    paired_effect,
    seeds_needed,
    verdict,
    verdict_sentence,
)


def places(seeds: int, users: int, more: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return places of a category in the top 20, without and with an attack that gives so many more."""
    generator = np.random.default_rng(seed)
    clean = generator.binomial(20, 0.15, (seeds, users))
    return clean, np.minimum(clean + generator.poisson(more, (seeds, users)), 20)


def crossed(generator: np.random.Generator, seeds: int, users: int, a: float, b: float, e: float) -> np.ndarray:
    """Return differences of mean 0 whose seeds, users and rest have these standard deviations."""
    return (
        a * generator.normal(size=(seeds, 1))
        + b * generator.normal(size=users)
        + e * generator.normal(size=(seeds, users))
    )


def effect(mean: float, low: float, high: float, clean: float = 2.0, p_value: float = 0.5) -> EffectSize:
    squares = MeanSquares(1.0, 1.0, 1.0, 3, 5000)
    return EffectSize(clean, clean + mean, Interval(mean, low, high), None, None, p_value, 3, 5000, squares)


def test_one_seed_is_the_paired_test_of_scipy() -> None:
    generator = np.random.default_rng(3)
    clean = generator.normal(3, 1, (1, 800))
    attacked = clean + generator.normal(0.04, 1, (1, 800))
    found = paired_effect(clean, attacked)
    expected = scipy.stats.ttest_rel(attacked[0], clean[0])
    low, high = expected.confidence_interval(0.95)
    width = high - low
    assert found.difference.mean == pytest.approx((attacked - clean).mean())
    assert found.difference.low == pytest.approx(low, abs=0.03 * width)
    assert found.difference.high == pytest.approx(high, abs=0.03 * width)
    assert 0.01 < expected.pvalue < 0.2
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.1)
    bootstrap = scipy.stats.bootstrap(((attacked - clean)[0],), np.mean, random_state=np.random.default_rng(0))
    assert found.difference.low == pytest.approx(bootstrap.confidence_interval.low, abs=0.04 * width)
    assert found.difference.high == pytest.approx(bootstrap.confidence_interval.high, abs=0.04 * width)
    assert found.seeds == 1
    assert found.users == 800


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_users_who_are_alike_leave_the_t_of_the_seeds(confidence: float) -> None:
    of_seeds = np.array([0.3, 0.9, 0.4, 1.1])
    found = paired_effect(np.ones((4, 50)), np.ones((4, 50)) + of_seeds[:, None], confidence=confidence)
    expected = scipy.stats.ttest_1samp(of_seeds, 0)
    low, high = expected.confidence_interval(confidence)
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high), abs=3e-3 * (high - low))
    assert found.p_value == pytest.approx(expected.pvalue, abs=2e-4)


def test_mean_squares_are_those_of_least_squares() -> None:
    matrix = np.random.default_rng(1).normal(size=(3, 7))
    seeds, users = np.indices(matrix.shape).reshape(2, -1)

    def left(*factors: np.ndarray) -> float:
        columns = [np.ones((21, 1)), *(np.eye(factor.max() + 1)[factor] for factor in factors)]
        design = np.hstack(columns)
        return float(np.square(matrix.ravel() - design @ np.linalg.lstsq(design, matrix.ravel())[0]).sum())

    found = mean_squares(matrix)
    rest = left(seeds, users)
    assert found.seeds == pytest.approx((left(users) - rest) / 2)
    assert found.users == pytest.approx((left(seeds) - rest) / 6)
    assert found.rest == pytest.approx(rest / 12)


def test_skewed_users_are_resampled_with_their_own_error() -> None:
    values = np.random.default_rng(5).geometric(0.2, 60) * (np.random.default_rng(6).random(60) < 0.3)
    generator = np.random.default_rng(7)
    taken = values[generator.integers(0, 60, (20_000, 60))]
    t = (taken.mean(axis=1) - values.mean()) / scipy.stats.sem(taken, axis=1)
    expected = -scipy.stats.sem(values) * np.quantile(t, [0.025, 0.5, 0.975])
    found = users_part(values.astype(float), 20_000, np.random.default_rng(8))
    assert np.quantile(found, [0.975, 0.5, 0.025]) == pytest.approx(expected, rel=0.05, abs=0.01)
    assert expected[0] > 1.2 * -expected[2], "the distribution is not skewed"


def test_many_values_are_grouped_without_moving_their_mean() -> None:
    values = np.concatenate([np.random.default_rng(0).standard_cauchy(3000), [7.5] * 100])
    groups, counts = grouped(values)
    assert len(groups) <= GROUPS
    assert counts.sum() == 3100
    assert groups @ counts == pytest.approx(values.sum())
    assert counts @ np.square(groups) == pytest.approx(np.square(values).sum(), rel=0.01)
    few, counts = grouped(np.array([3.0, 1.0, 3.0, 3.0]))
    assert (few.tolist(), counts.tolist()) == ([1, 3], [1, 3])


@pytest.mark.parametrize("users", [2, 500])
def test_a_handful_that_differ_have_students_t(users: int) -> None:
    values = np.zeros(users)
    values[0] = 1.0
    low, high = np.quantile(users_part(values, 1000, np.random.default_rng(0)), [0.025, 0.975])
    expected = scipy.stats.sem(values) * scipy.stats.t.ppf(0.975, users - 1)
    assert (low, high) == pytest.approx((-expected, expected), rel=0.1)


@pytest.mark.parametrize(
    ("a", "b", "e"), [(1.0, 1.0, 1.0), (0.15, 0.5, 1.0)], ids=["seeds differ", "seeds differ little"]
)
def test_intervals_of_three_seeds_cover_where_percentiles_do_not(a: float, b: float, e: float) -> None:
    generator = np.random.default_rng(11)
    runs, users, resamples = 200, 40, 1000
    covered = percentiles = 0
    for _ in range(runs):
        matrix = crossed(generator, 3, users, a, b, e)
        low, high = of_mean(matrix, resamples, 0).interval(0.95)
        covered += low <= 0 <= high
        if a < 1:
            continue
        seeds = generator.multinomial(3, [1 / 3] * 3, resamples)
        drawn = generator.multinomial(users, [1 / users] * users, resamples)
        low, high = np.quantile(np.einsum("rs,su,ru->r", seeds, matrix, drawn, optimize=True), [0.025, 0.975])
        percentiles += low <= 0 <= high
    # so few would be chance once in a thousand times
    enough = scipy.stats.binom.ppf(0.001, runs, 0.95)
    assert covered >= enough
    if a == 1.0:  # nothing but the seeds matters: the rate itself
        assert covered <= scipy.stats.binom.ppf(0.999, runs, 0.95)
        assert percentiles < enough


def test_p_values_tell_what_intervals_tell() -> None:
    clean, attacked = places(3, 200, more=0.0)
    change = np.random.default_rng(2).normal(0, 1, (3, 200))
    told = set()
    for shift in np.linspace(-0.4, 0.4, 25):
        found = paired_effect(clean, attacked + change + shift, resamples=1000)
        outside = found.difference.low > 0 or found.difference.high < 0
        assert outside == (found.p_value < 0.05)
        told.add(outside)
    assert told == {True, False}


def test_effects_do_not_depend_on_the_order_of_users_or_seeds() -> None:
    clean, attacked = places(3, 300)
    found = paired_effect(clean, attacked)
    order = np.random.default_rng(0).permutation(300)
    assert paired_effect(clean[:, order], attacked[:, order]) == found
    turned = paired_effect(clean[::-1], attacked[::-1])
    assert (turned.difference.low, turned.p_value) == pytest.approx((found.difference.low, found.p_value))
    assert paired_effect(clean, attacked, seed=1) != found


@pytest.mark.parametrize("seeds", [1, 3])
def test_an_attack_that_does_nothing(seeds: int) -> None:
    clean, _ = places(seeds, 100)
    found = paired_effect(clean, clean)
    assert found.difference == Interval(0, 0, 0)
    assert found.relative == Interval(0, 0, 0)
    assert found.standardised is None
    assert found.p_value == 1
    assert verdict(found, 1.0, 0.05, 0.95) == "no effect"
    assert verdict(found, 1.0, 0.0, 0.95) == "no effect"


def test_relative_and_standardised() -> None:
    clean, attacked = places(3, 400)
    change = attacked - clean
    found = paired_effect(np.full((3, 400), 4.0), 4.0 + change)
    assert found.relative is not None
    scaled = [value / 4 for value in (found.difference.mean, found.difference.low, found.difference.high)]
    assert [found.relative.mean, found.relative.low, found.relative.high] == pytest.approx(scaled)
    spread = np.sqrt(np.mean([np.std(row, ddof=1) ** 2 for row in change]))
    assert found.standardised == pytest.approx(change.mean() / spread)
    assert paired_effect(np.zeros((3, 400)), change).relative is None


def test_a_share_varies_with_both_means() -> None:
    """The share's interval against a bootstrap of the ratio of means, where the clean mean varies as well."""
    generator = np.random.default_rng(4)
    clean = generator.gamma(1, 2, (1, 1000))
    attacked = 1.3 * clean + generator.normal(0, 0.2, (1, 1000))
    found = paired_effect(clean, attacked).relative
    assert found is not None
    expected = scipy.stats.bootstrap(
        (clean[0], attacked[0]),
        lambda before, after, axis: after.mean(axis) / before.mean(axis) - 1,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=2000,
        random_state=np.random.default_rng(0),
    ).confidence_interval
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.08 * width)


@pytest.mark.parametrize(
    ("clean", "attacked", "settings", "message"),
    [
        ([[1, 2], [3, 4]], [[1, 2]], {}, "attacked: needs the seeds and users of clean, 2 × 2; got 1 × 2"),
        ([1, 2], [1, 2], {}, r"clean: must be a matrix of at least 1 seed × 2 users; got the shape \(2,\)"),
        ([[1]], [[1]], {}, "clean: must be a matrix of at least 1 seed × 2 users"),
        ([[1, 2]], [[1, np.nan]], {}, "attacked: must be finite; got nan in row 0, column 1, and 1 such"),
        ([[1, 2]], [[1, 2]], {"confidence": 95}, "confidence: must lie within 0..1"),
        ([[1, 2]], [[1, 2]], {"resamples": 999}, "resamples: must be at least 1,000"),
        ([[1, 2]], [[1, 2]], {"confidence": 0.999}, "resamples: must be at least 40,000"),
    ],
)
def test_what_cannot_be_measured(clean: list, attacked: list, settings: dict, message: str) -> None:
    with pytest.raises(CatwalkError, match=message):
        paired_effect(clean, attacked, **settings)


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    """An adjusted p-value is the largest that Bonferroni gives to any set of hypotheses with this one."""
    generator = np.random.default_rng(0)
    for number in (1, 2, 5):
        p_values = np.round(generator.random(number) ** 3, 2)  # with ties
        expected = [
            max(
                min(1.0, len(chosen) * min(p_values[each] for each in chosen))
                for size in range(1, number + 1)
                for chosen in itertools.combinations(range(number), size)
                if one in chosen
            )
            for one in range(number)
        ]
        assert holm(p_values) == pytest.approx(expected)
    assert holm([]).shape == (0,)
    with pytest.raises(CatwalkError, match=r"p_values: must lie within 0\.\.1"):
        holm([0.5, float("nan")])


@pytest.mark.parametrize(
    ("low", "mean", "high", "p_adjusted", "clean", "expected"),
    [
        (0.05, 0.2, 0.35, 0.01, 2, "pushed"),
        (0.05, 0.2, 0.35, 0.06, 2, "cannot tell"),
        (-0.35, -0.2, -0.05, 0.01, 2, "lowered"),
        (0.05, 0.08, 0.1, 0.0001, 2, "no effect"),
        (-0.02, 0.04, 0.1, 1, 2, "no effect"),
        (-0.02, 0.04, 0.11, 1, 2, "cannot tell"),
        (-0.11, -0.04, 0.02, 1, 2, "cannot tell"),
        (-0.04, 0.0, 0.04, 1, 0, "no effect"),
        (0.02, 0.04, 0.06, 0.01, 0, "pushed"),
    ],
)
def test_verdicts(low: float, mean: float, high: float, p_adjusted: float, clean: float, expected: Verdict) -> None:
    assert verdict(effect(mean, low, high, clean), p_adjusted, 0.05, 0.95) == expected


def test_seeds_needed_where_seeds_alone_matter() -> None:
    """With users alike, the half-width is that of Student's t."""
    unsure = replace(effect(0.5, -1, 2, p_value=0.4), squares=MeanSquares(5000 * 0.36, 0.0, 0.0, 3, 5000))

    def half_width(seeds: int, level: float = 0.95) -> float:
        return scipy.stats.t.ppf((1 + level) / 2, seeds - 1) * 0.6 / np.sqrt(seeds)

    expected = next(seeds for seeds in itertools.count(4) if half_width(seeds) < 0.5)
    assert seeds_needed(unsure, 0.05) == expected
    adjusted = next(seeds for seeds in itertools.count(4) if half_width(seeds, 0.975) < 0.5)
    assert seeds_needed(unsure, 0.05, p_adjusted=0.8) == adjusted > expected
    small = replace(unsure, difference=Interval(0.01, -1.4, 1.5))
    assert seeds_needed(small, 0.25) == next(seeds for seeds in itertools.count(4) if 0.01 + half_width(seeds) <= 0.5)


def test_seeds_needed_where_there_are_enough_or_never_will_be() -> None:
    assert seeds_needed(effect(0.5, 0.2, 0.8, p_value=0.01), 0.05) == 3
    users = replace(effect(0.5, -1, 2), squares=MeanSquares(1.0, 3 * 5000 * 0.36, 1.0, 3, 5000))
    assert seeds_needed(users, 0.05) is None
    assert seeds_needed(replace(users, seeds=1, squares=MeanSquares(0.0, 1.0, 0.0, 1, 5000)), 0.05) is None


def sentence(found: Verdict, of: EffectSize, needed: int | None = None) -> str:
    names = {"attack": "PGD (ε = 8)", "extractor": "T", "category": "Sandal", "recommender": "VBPR"}
    return verdict_sentence(found, of, **names, top_k=20, smallest_effect=0.05, needed=needed)


def test_sentences() -> None:
    relative = Interval(0.35, 0.2, 0.5)
    pushed = replace(effect(1.23, 0.88, 1.58, clean=3.4), relative=relative)
    change = "1.23 more places in 20 (+35%, 95% interval 0.88 to 1.58), 3 seeds, 5,000 users"
    assert sentence("pushed", pushed) == f"PGD (ε = 8) on CNN T pushed Sandal in VBPR: {change}."
    lowered = effect(-1.23, -1.58, -0.88, clean=0)
    change = "1.23 fewer places in 20 (95% interval −1.58 to −0.88), 3 seeds, 5,000 users"
    assert sentence("lowered", lowered) == f"PGD (ε = 8) on CNN T lowered Sandal in VBPR: {change}."
    nothing = replace(effect(-0.02, -0.1, 0.06, clean=3.4), relative=Interval(-0.006, -0.03, 0.02))
    assert sentence("no effect", nothing) == (
        "PGD (ε = 8) on CNN T had no effect on Sandal in VBPR larger than 5% (0.17 places in 20): "
        "−0.020 places (95% interval −0.100 to 0.060), 3 seeds, 5,000 users."
    )
    unsure = replace(effect(0.3, -0.4, 1.0, clean=3.4), relative=Interval(0.088, -0.1, 0.3))
    assert sentence("cannot tell", unsure, 8) == (
        "Whether PGD (ε = 8) on CNN T changed Sandal in VBPR cannot be told: 0.30 more places in 20 "
        "(+8.8%, 95% interval −0.40 to 1.00), 3 seeds, 5,000 users; about 8 seeds would."
    )
    assert sentence("cannot tell", unsure).endswith("; 1,000 seeds would not either: users differ too much.")
    one = sentence("cannot tell", replace(unsure, seeds=1))
    assert "1 seed (the interval is of users alone), 5,000 users; one seed does not tell" in one


def test_difference_of_effects_that_are_paired() -> None:
    first, second = (after - before for before, after in (places(3, 400, 0.3), places(3, 400, 0.6, seed=1)))
    names = [f"user {number}" for number in range(400)]
    found = difference_of_effects(first, second, users=(names, names), seeds=([0, 1, 2], [0, 1, 2]))
    effect_of_it = paired_effect(first, second)
    assert found.difference.mean == pytest.approx(effect_of_it.difference.mean)
    width = effect_of_it.difference.high - effect_of_it.difference.low
    assert found.difference.low == pytest.approx(effect_of_it.difference.low, abs=0.02 * width)
    assert (found.same_users, found.same_seeds) == (True, True)
    order = np.random.default_rng(0).permutation(400)
    shuffled = second[[2, 0, 1]][:, order], [names[each] for each in order]
    again = difference_of_effects(first, shuffled[0], users=(names, shuffled[1]), seeds=([0, 1, 2], [2, 0, 1]))
    assert again == found
    same = difference_of_effects(first, first, users=(names, names), seeds=([0, 1, 2], [0, 1, 2]))
    assert same.difference == Interval(0, 0, 0)
    assert same.p_value == 1


def test_difference_of_effects_of_other_users_or_seeds() -> None:
    generator = np.random.default_rng(9)
    shared = generator.normal(size=500)
    first, second = (shared + generator.normal(mean, 0.3, (1, 500)) + np.zeros((1, 500)) for mean in (0.0, 0.2))
    names, others = ([f"{shop} {number}" for number in range(500)] for shop in "ab")
    found = difference_of_effects(first, second, users=(names, others), seeds=([0], [0]))
    expected = scipy.stats.ttest_ind(second[0], first[0], equal_var=False).confidence_interval()
    width = expected.high - expected.low
    assert (found.same_users, found.same_seeds) == (False, False)
    assert (found.difference.low, found.difference.high) == pytest.approx(expected, abs=0.03 * width)
    found = difference_of_effects(first, second, users=(names, names), seeds=([0], [1]))
    expected = scipy.stats.ttest_rel(second[0], first[0]).confidence_interval()
    assert (found.same_users, found.same_seeds) == (True, False)
    assert (found.difference.low, found.difference.high) == pytest.approx(
        expected, abs=0.03 * (expected[1] - expected[0])
    )
    with pytest.raises(CatwalkError, match="second: needs a row for each of 1 seeds and a column for each of 2 users"):
        difference_of_effects(first, second, users=(names, names[:2]), seeds=([0], [0]))


def test_difference_of_effects_of_seeds_that_are_not_paired() -> None:
    """With users alike, the interval is between Welch's, which is narrower, and the fewer degrees of freedom."""
    first, second = np.array([0.1, 0.5, 0.3, 0.6]), np.array([1.1, 1.4, 1.9, 1.2, 1.6])
    names = ["a", "b", "c"]
    found = difference_of_effects(
        np.repeat(first[:, None], 3, axis=1),
        np.repeat(second[:, None], 3, axis=1),
        users=(names, names),
        seeds=(range(4), range(5)),
    )
    error = np.sqrt(first.var(ddof=1) / 4 + second.var(ddof=1) / 5)
    half = found.difference.high - found.difference.mean
    welch = scipy.stats.ttest_ind(second, first, equal_var=False).confidence_interval()
    assert (welch.high - welch.low) / 2 < half < scipy.stats.t.ppf(0.975, 3) * error
    assert found.difference.mean == pytest.approx(second.mean() - first.mean())
