"""How often the intervals of a study's effects hold the true mean: simulated seeds and users, of known means.

    python benchmarks/coverage.py --json benchmarks/results/coverage.json

A line is a way in which differences come about: users, seeds and what is left are normal, or users gain whole places as
they do under an attack, most of them none. An interval of 95% should hold the true mean in 95% of the runs. With one
seed the true mean is that of this seed. Beside ours stand, for three seeds:

- *percentiles*: rows and columns drawn with replacement, and the 2.5% and 97.5% quantiles of their means;
- *Satterthwaite*: Student's t with the variance and the degrees of freedom that the mean squares give;
- *users' t*: the paired t-test over users of their means over seeds, as if there were no other seeds;
- *seeds' t*: Student's t of the seeds' means.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from record import Record, add_record_argument
from rich.console import Console
from rich.progress import track

from catwalk.study.confidence import mean_squares, of_mean

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, int], tuple[Array, Array]]
"""Draws differences ``(S, U)`` and the true mean of each seed, around the true mean of all."""

CONFIDENCE = 0.95
SEEDS = (1, 2, 3, 5, 10)


@dataclass(frozen=True)
class Case:
    """A way in which differences come about.

    Attributes:
        name: What the table calls it.
        mean: The true mean over all seeds and users.
        draw: Draws them.
        users: U.
    """

    name: str
    mean: float
    draw: Draw
    users: int = 500


def normal(seeds: float, users: float, rest: float) -> Draw:
    """Return the draws of normal parts with these standard deviations and mean 0."""

    def draw(generator: np.random.Generator, num_seeds: int, num_users: int) -> tuple[Array, Array]:
        of_seeds = seeds * generator.normal(size=num_seeds)
        of_users = users * generator.normal(size=num_users)
        return of_seeds[:, None] + of_users + rest * generator.normal(size=(num_seeds, num_users)), of_seeds

    return draw


def gains(share: float, seeds: float) -> Draw:
    """Return the draws of whole places: some users gain 1.5 on average, and in 4% of lists one is won or lost.

    Args:
        share: Of the users that the attack reaches. What they gain has a geometric distribution.
        seeds: Standard deviation, in logarithms, of the factor that a seed puts on all gains; its mean is 1.
    """

    def draw(generator: np.random.Generator, num_seeds: int, num_users: int) -> tuple[Array, Array]:
        factors = np.exp(seeds * generator.normal(size=num_seeds) - seeds**2 / 2)
        reached = generator.exponential(1.5, num_users) * (generator.random(num_users) < share)
        noise = generator.choice([-1, 0, 1], (num_seeds, num_users), p=[0.02, 0.96, 0.02])
        return generator.poisson(factors[:, None] * reached) + noise.astype(float), 1.5 * share * factors

    return draw


def failing(share: float) -> Draw:
    """Return the draws of trainings of which a share fails, and gains nothing where the others gain a place."""

    def draw(generator: np.random.Generator, num_seeds: int, num_users: int) -> tuple[Array, Array]:
        of_seeds = (generator.random(num_seeds) >= share).astype(float)
        return of_seeds[:, None] + generator.normal(size=(num_seeds, num_users)), of_seeds

    return draw


def cases() -> list[Case]:
    """Return all cases. ``√U`` as a unit makes seeds matter to a mean as much as single lists do."""
    root = 500**-0.5
    return [
        Case("normal: users alone differ", 0.0, normal(0, 1, 0)),
        Case("normal: lists alone differ, users and seeds do not", 0.0, normal(0, 0, 1)),
        Case("normal: users and lists", 0.0, normal(0, 1, 1)),
        Case("normal: seeds half as much as lists", 0.0, normal(0.5 * root, 0.5, 1)),
        Case("normal: seeds as much as lists", 0.0, normal(root, 0.5, 1)),
        Case("normal: seeds twice as much as users, no lists", 0.0, normal(2 * root, 1, 0)),
        Case("normal: seeds four times as much as lists", 0.0, normal(4 * root, 0.5, 1)),
        Case("normal: seeds alone", 0.0, normal(1, 0, 0.1)),
        Case("places: 2% of users reached, seeds alike", 0.03, gains(0.02, 0.0)),
        Case("places: 2% of users reached, seeds differ by 30%", 0.03, gains(0.02, 0.3)),
        Case("places: 2% of 5,000 users reached, seeds differ by 30%", 0.03, gains(0.02, 0.3), 5000),
        Case("places: 30% of users reached, seeds differ by 10%", 0.45, gains(0.3, 0.1)),
        Case("places: 30% of users reached, seeds differ by 50%", 0.45, gains(0.3, 0.5)),
        Case("one training in five fails", 0.8, failing(0.2)),
    ]


def ours(matrix: Array, resamples: int, generator: np.random.Generator) -> tuple[float, float]:
    return of_mean(matrix, resamples, int(generator.integers(2**32))).interval(CONFIDENCE)


def percentiles(matrix: Array, resamples: int, generator: np.random.Generator) -> tuple[float, float]:
    num_seeds, num_users = matrix.shape
    rows = generator.multinomial(num_seeds, [1 / num_seeds] * num_seeds, resamples) / num_seeds
    columns = generator.integers(0, num_users, (resamples, num_users), dtype=np.int32)
    means = sum(rows[:, [seed]] * matrix[seed][columns] for seed in range(num_seeds)).mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def satterthwaite(matrix: Array, resamples: int, generator: np.random.Generator) -> tuple[float, float]:
    found = mean_squares(matrix)
    parts = (max(found.seeds, found.rest), found.users, -found.rest)
    degrees = (found.num_seeds - 1, found.num_users - 1, (found.num_seeds - 1) * (found.num_users - 1))
    total = sum(parts)
    freedom = total**2 / sum(part**2 / each for part, each in zip(parts, degrees, strict=True))
    return student(float(matrix.mean()), total / (found.num_seeds * found.num_users), freedom)


def users_t(matrix: Array, resamples: int, generator: np.random.Generator) -> tuple[float, float]:
    values = matrix.mean(axis=0)
    return student(float(values.mean()), float(values.var(ddof=1)) / len(values), len(values) - 1)


def seeds_t(matrix: Array, resamples: int, generator: np.random.Generator) -> tuple[float, float]:
    values = matrix.mean(axis=1)
    return student(float(values.mean()), float(values.var(ddof=1)) / len(values), len(values) - 1)


def student(mean: float, variance: float, freedom: float) -> tuple[float, float]:
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * variance**0.5
    return mean - half, mean + half


OTHERS: Mapping[str, Callable[[Array, int, np.random.Generator], tuple[float, float]]] = {
    "percentiles": percentiles,
    "Satterthwaite": satterthwaite,
    "users' t": users_t,
    "seeds' t": seeds_t,
}


@dataclass
class Outcome:
    """How the intervals of one kind did.

    Attributes:
        held: Share that held the true mean.
        width: Their mean width over that of the narrowest normal interval with the right rate.
    """

    held: float
    width: float


def simulate(case: Case, num_seeds: int, runs: int, resamples: int, others: bool, number: int) -> dict[str, Outcome]:
    """Return how ours, and the others if they are asked for, did over so many runs."""
    generator = np.random.default_rng([number, num_seeds])
    ways = {"ours": ours, **(OTHERS if others else {})}
    ends: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    misses, truths = [], []
    for _ in range(runs):
        matrix, of_seeds = case.draw(generator, num_seeds, case.users)
        truths.append(float(of_seeds[0]) if num_seeds == 1 else case.mean)
        misses.append(float(matrix.mean()) - truths[-1])
        for name, way in ways.items():
            ends[name].append(way(matrix, resamples, generator))
    ideal = 2 * scipy.stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(np.mean(np.square(misses)))
    found = {}
    for name, intervals in ends.items():
        low, high = np.array(intervals).T
        held = ((low <= truths) & (truths <= high)).mean()
        found[name] = Outcome(float(held), float((high - low).mean() / ideal))
    return found


def shown(all_cases: list[Case]) -> Iterator[tuple[int, Case]]:
    """Yield the cases with their numbers, under a bar on stderr."""
    console = Console(stderr=True)
    yield from track(
        list(enumerate(all_cases)), "Cases", console=console, transient=True, disable=not sys.stderr.isatty()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300, help="of every case and number of seeds")
    parser.add_argument("--resamples", type=int, default=1000, help="of users")
    add_record_argument(parser)
    arguments = parser.parse_args()
    record = Record(arguments.json, None, ["numpy", "scipy"])
    coverage, widths, beside = [], [], []
    for number, case in shown(cases()):
        found = {
            seeds: simulate(case, seeds, arguments.runs, arguments.resamples, seeds == 3, number) for seeds in SEEDS
        }
        name = case.name
        coverage.append([name, *(f"{100 * found[seeds]['ours'].held:.1f}" for seeds in SEEDS)])
        widths.append([name, *(f"{found[seeds]['ours'].width:.2f}" for seeds in SEEDS)])
        three = [found[3][way] for way in ("ours", *OTHERS)]
        beside.append([name, *(f"{100 * each.held:.1f} ({each.width:.2f})" for each in three)])
        columns = [f"{seeds} seed{'s' if seeds > 1 else ''}" for seeds in SEEDS]
        tables = [
            record.table("coverage", ["differences", *columns], coverage),
            record.table("widths", ["differences", *columns], widths),
            record.table("others", ["differences", "ours", *OTHERS], beside),
        ]
    titles = (
        f"Intervals of 95% that hold the true mean, %, of {arguments.runs:,} each",
        "Their width, times the narrowest that would do with known variances",
        "Three seeds: %, and width",
    )
    for title, table in zip(titles, tables, strict=True):
        print(f"\n{title}\n\n{table}")


if __name__ == "__main__":
    main()
