"""Times as tables tell them: whole numbers that became floats, several units in one column, and times of no era."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from catwalk.errors import CatwalkError
from catwalk.shop.ids import lost_digits

ERA = ("1990", "2100")
"""Purchases that are studied lie in these years, the second excluded. Unix times of different units do not overlap in
it: seconds have nine or ten digits, milliseconds three more, and so on."""

UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
"""Units of Unix times by NumPy's names, the coarsest first."""

FACTOR = 1000
"""Of each unit to the next."""


@dataclass(frozen=True)
class CheckedTimes:
    """Times after a check.

    Attributes:
        times: ``(M,)``, of one unit.
        repaired: How many were repaired, by kind.
        remarks: What is doubtful about them, a sentence each.
    """

    times: NDArray[Any]
    repaired: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def era(unit: str) -> tuple[int, int]:
    """Return where :data:`ERA` begins and ends, in a unit of Unix time."""
    first, last = np.array(ERA, dtype=f"datetime64[{unit}]").astype(np.int64).tolist()
    return first, last


def units_of(times: NDArray[Any]) -> NDArray[np.int8]:
    """Return the place in :data:`UNITS` of the unit in which each number lies in :data:`ERA`; -1 if in none."""
    found = np.full(len(times), -1, dtype=np.int8)
    for place, unit in enumerate(UNITS):
        first, last = era(unit)
        found[(times >= first) & (times < last)] = place
    return found


def trim_times(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return times, as text, without the blanks around them."""
    return pa.compute.utf8_trim_whitespace(texts)


def check_times(times: NDArray[Any], source: str) -> CheckedTimes:
    """Repair what is certain, and say what is doubtful.

    - Floats that are all whole become integers.
    - Numbers of which the positive ones lie in :data:`ERA`, each in a unit of its own, are Unix times: all are brought
      to the finest of these units. Numbers of which at least half lie in it, in one unit, are Unix times as well, and
      others are doubtful. Any other numbers are taken for what they are: an order.
    - Dates and Unix times outside :data:`ERA`, and negative numbers, are doubtful.

    Args:
        times: int64, float64 or ``datetime64`` ``(M,)``.
        source: Where they stand, for the message.

    Raises:
        CatwalkError: If Unix times are in several units, and it is not certain in which each of them is.
    """
    if not len(times):
        return CheckedTimes(times)
    if times.dtype.kind == "M":
        is_outside: NDArray[np.bool_] = (times < _date(0)) | (times >= _date(1))
        return CheckedTimes(times, remarks=_outside(times, is_outside))
    repaired: dict[str, int] = {}
    if times.dtype.kind == "f":
        values = times.astype(np.float64)
        if (np.trunc(values) == values).all() and (np.abs(values) < 2**63).all():
            times = values.astype(np.int64)
            repaired["times in a column of floats that were all whole numbers"] = len(times)
    units = units_of(times)
    present = np.unique(units[units >= 0])
    positive = times > 0
    if len(present) > 1 and 2 * (units >= 0).sum() >= positive.sum():
        strange = positive & (units < 0)
        names = list(UNITS.values())
        examples = [f"{_example(times, units == place)} in {names[place]}" for place in present]
        if strange.any():
            raise CatwalkError(
                f"{source}: times are in several units, {' and '.join(examples)}, and {int(strange.sum()):,} in none "
                f"that gives a year from {ERA[0]} to {int(ERA[1]) - 1}, such as {_example(times, strange)}: bring them "
                "to one unit"
            )
        finest = int(present[-1])
        coarser = (units >= 0) & (units < finest)
        factors = FACTOR ** (finest - np.where(coarser, units, finest).astype(np.int64))
        repaired |= {
            f"times in {names[place]}, brought to {names[finest]}": int((units == place).sum())
            for place in present[:-1].tolist()
        }
        times = times * factors
        units[coarser] = finest
    if 2 * (units >= 0).sum() >= max(positive.sum(), 1):
        return CheckedTimes(times, repaired, _outside(times, units < 0))
    if (times == 0).all():
        return CheckedTimes(times, repaired, ("all times are 0: the order of the rows decides",))
    negative = times < 0
    if negative.any():
        remark = f"{int(negative.sum()):,} of {len(times):,} times are negative, such as {_example(times, negative)}"
        return CheckedTimes(times, repaired, (remark,))
    return CheckedTimes(times, repaired)


def times_without_digits(texts: pa.Array | pa.ChunkedArray) -> tuple[str, ...]:
    """Return a sentence on times in scientific notation whose last digits are lost, or nothing."""
    is_short = pa.compute.match_substring(texts, "e", ignore_case=True)
    short = [text for text in texts.filter(is_short).to_pylist() if lost_digits(text)]
    if not short:
        return ()
    return (
        f"{len(short):,} of {len(texts):,} times are in scientific notation such as {short[0]!r}, and their last "
        "digits are lost: purchases that were apart may have become simultaneous",
    )


def _date(place: int) -> np.datetime64:
    return np.datetime64(ERA[place], "D")


def _outside(times: NDArray[Any], is_outside: NDArray[np.bool_]) -> tuple[str, ...]:
    count = int(is_outside.sum())
    if not count:
        return ()
    kinds = {"zero": times == 0, "negative": times < 0} if times.dtype.kind != "M" else {}
    parts = [f"{int(kind.sum()):,} {name}" for name, kind in kinds.items() if kind.any()]
    listed = f" ({', '.join(parts)})" if parts else ""
    return (
        f"{count:,} of {len(times):,} times lie outside the years {ERA[0]} to {int(ERA[1]) - 1}, such as "
        f"{_example(times, is_outside)}{listed}: they may be no times of purchases",
    )


def _example(times: NDArray[Any], chosen: NDArray[np.bool_]) -> str:
    return str(times[np.flatnonzero(chosen)[0]])
