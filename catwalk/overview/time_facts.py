"""Facts about the times of a shop's purchases."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from catwalk.shop.interactions import Interactions

MAX_BINS = 120
"""Bars of the purchases over time, at most, where a year is not too short for that."""


TIME_UNITS = {"h": "hour", "D": "day", "W": "week", "M": "month", "Y": "year"}
"""NumPy's names of the periods of which one is a bar, and ours."""


ReadAs = Literal["dates", "unix seconds", "unix milliseconds", "numbers"]


@dataclass(frozen=True)
class TimeFacts:
    """When things were bought.

    Attributes:
        read_as: What the timestamps are. Numbers of which all lie between the years 1990 and 2100 as Unix seconds, or
            as Unix milliseconds, are taken for that.
        first: The earliest, a date or a number.
        last: The latest.
        different: Number of different timestamps.
        several_users: Users with at least two purchases.
        tied_users: Those of them whose last purchase has the timestamp of another of theirs.
        period: What a bar of the purchases over time is: hour, day, week, month or year, or a width.
        edges: Beginnings of the ``B`` bars and the end of the last, dates or numbers.
        counts: Purchases in each of the ``B`` bars.
    """

    read_as: ReadAs
    first: str | float
    last: str | float
    different: int
    several_users: int
    tied_users: int
    period: str
    edges: tuple[str, ...] | tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, interactions: Interactions) -> "TimeFacts | None":
        """Compute them; None where the tables do not tell time, or each in its own way."""
        if interactions.time_type is None:
            return None
        read_as, moments = _as_moments(interactions)
        first, last = _ends(interactions.timestamps if moments is None else moments)
        several, tied = ties(interactions)
        period, edges, counts = _bin_numbers(interactions.timestamps) if moments is None else _bin_dates(moments)
        different = len(np.unique(interactions.timestamps))
        return cls(read_as, first, last, different, several, tied, period, edges, counts)


def ties(interactions: Interactions) -> tuple[int, int]:
    """Return how many users have several purchases, and in how many of them the last two have the same timestamp."""
    order = np.lexsort((interactions.timestamps, interactions.users))
    users, timestamps = interactions.users[order], interactions.timestamps[order]
    ends = np.flatnonzero(np.append(users[1:] != users[:-1], True))
    ends = ends[ends > 0]
    ends = ends[users[ends] == users[ends - 1]]
    return len(ends), int((timestamps[ends] == timestamps[ends - 1]).sum())


def _as_moments(interactions: Interactions) -> tuple[ReadAs, NDArray[np.datetime64] | None]:
    """Return what the timestamps are, and the moments in seconds unless they are mere numbers."""
    timestamps, kind = interactions.timestamps, interactions.time_type
    units: dict[str, ReadAs] = {"s": "unix seconds", "ms": "unix milliseconds"}
    years = ("1990", "2100")
    if kind is not None and pa.types.is_timestamp(kind):
        units, years = {kind.unit: "dates"}, ("1700", "2200")  # others cannot be drawn
    for unit, name in units.items():
        earliest, latest = np.array(years, dtype=f"datetime64[{unit}]").astype(np.int64)
        if (timestamps >= earliest).all() and (timestamps < latest).all():
            return name, timestamps.astype(np.int64).astype(f"datetime64[{unit}]").astype("datetime64[s]")
    return "numbers", None


def _ends(values: NDArray[np.generic]) -> tuple[str | float, str | float]:
    """Return the smallest and the largest value; of whole days the days."""
    if values.dtype.kind == "M":
        return str(_whole_days(values.min())), str(_whole_days(values.max()))
    return values.min().item(), values.max().item()


def _whole_days(moment: np.datetime64) -> np.datetime64:
    day = moment.astype("datetime64[D]")
    return day if day == moment else moment


def _bin_dates(moments: NDArray[np.datetime64]) -> tuple[str, tuple[str, ...], tuple[int, ...]]:
    """Return the period, the edges and the counts of bars of whole hours, days, weeks (from Thursday), months or years.

    A number of days that is no whole number would give bars of unequal lengths.
    """
    days_only = bool((moments.astype("datetime64[D]") == moments).all())
    for unit in TIME_UNITS:
        numbers = moments.astype(f"datetime64[{unit}]").astype(np.int64)
        if numbers.max() - numbers.min() < MAX_BINS and not (unit == "h" and days_only):
            break
    start = numbers.min()
    counts = np.bincount(numbers - start)
    edges = (start + np.arange(len(counts) + 1)).astype(f"datetime64[{unit}]")
    shown = edges.astype("datetime64[D]") if unit == "W" else edges
    return TIME_UNITS[unit], tuple(shown.astype(str).tolist()), tuple(counts.tolist())


def _bin_numbers(timestamps: NDArray[np.generic]) -> tuple[str, tuple[float, ...], tuple[int, ...]]:
    """Return the width, the edges and the counts of at most half of :data:`MAX_BINS` bars of one width."""
    values = timestamps.astype(np.float64)
    width = (values.max() - values.min()) / (MAX_BINS // 2)
    if timestamps.dtype.kind == "i" or width == 0:
        width = np.ceil(max(width, 1))
    bins = int((values.max() - values.min()) // width) + 1
    edges = values.min() + width * np.arange(bins + 1)
    places = np.minimum(((values - values.min()) // width).astype(np.int64), bins - 1)
    return f"{width:.6g}", tuple(edges.tolist()), tuple(np.bincount(places, minlength=bins).tolist())
