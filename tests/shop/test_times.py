"""Times as they come, against plain Python."""

import numpy as np
import pyarrow as pa
import pytest

from catwalk.errors import CatwalkError
from catwalk.shop.times import FACTOR, UNITS, check_times, times_without_digits

SECONDS = np.array([1_300_000_000, 1_500_000_000, 1_400_000_000, 1_600_000_000])


@pytest.mark.parametrize("fine", range(1, 4))
@pytest.mark.parametrize("coarse", range(3))
def test_two_units_become_the_finer_one(coarse, fine):
    if coarse >= fine:
        pytest.skip("not two units, the coarser first")
    powers = [FACTOR**coarse, FACTOR**fine, FACTOR**coarse, FACTOR**fine]
    times = np.array([int(second) * power for second, power in zip(SECONDS, powers, strict=True)])
    checked = check_times(times, "log.csv")
    assert checked.times.tolist() == [int(second) * FACTOR**fine for second in SECONDS]
    names = list(UNITS.values())
    assert checked.repaired == {f"times in {names[coarse]}, brought to {names[fine]}": 2}
    assert not checked.remarks


def test_sound_times_stay_as_they_are():
    for times in (SECONDS, SECONDS * 1000, np.arange(9), np.array([0.5, 2.0]), np.array([20200131, 20190101])):
        checked = check_times(times, "log.csv")
        assert checked.times is times
        assert not checked.repaired
        assert not checked.remarks


def test_floats_that_are_whole_become_integers():
    checked = check_times(SECONDS.astype(np.float64), "log.csv")
    assert checked.times.dtype == np.int64
    assert checked.times.tolist() == SECONDS.tolist()
    assert list(checked.repaired.values()) == [4]


@pytest.mark.parametrize(
    ("strange", "remark"),
    [
        (0, "1 of 5 times lie outside the years 1990 to 2099, such as 0 (1 zero)"),
        (-1, "1 of 5 times lie outside the years 1990 to 2099, such as -1 (1 negative)"),
        (12345, "1 of 5 times lie outside the years 1990 to 2099, such as 12345"),
        (253_402_300_799, "1 of 5 times lie outside the years 1990 to 2099, such as 253402300799"),
    ],
)
def test_times_of_no_era_are_told(strange, remark):
    times = np.append(SECONDS, strange)
    checked = check_times(times, "log.csv")
    assert checked.times.tolist() == times.tolist()
    assert checked.remarks[0].startswith(remark)
    mixed = np.append(times, SECONDS * 1000)
    if strange > 0:
        with pytest.raises(CatwalkError, match=rf"log\.csv: times are in several units, .* such as {strange}: bring"):
            check_times(mixed, "log.csv")
    else:
        assert check_times(mixed, "log.csv").times[-1] == SECONDS[-1] * 1000


def test_dates_of_no_era_negative_numbers_and_nothing_but_zeros_are_told():
    dates = np.array(["2020-01-01", "1970-01-01", "9999-12-31"], dtype="datetime64[us]")
    assert (
        check_times(dates, "x").remarks[0].startswith("2 of 3 times lie outside the years 1990 to 2099, such as 1970")
    )
    assert not check_times(dates[:1], "x").remarks
    assert check_times(np.array([3, -2, 5]), "x").remarks == ("1 of 3 times are negative, such as -2",)
    assert check_times(np.zeros(3), "x").remarks == ("all times are 0: the order of the rows decides",)


def test_times_whose_digits_are_lost_are_told():
    assert times_without_digits(pa.array(["1.4e9", "1400000000.0"]))[0].startswith("1 of 2 times are in scientific")
    assert not times_without_digits(pa.array(["1400000000", "5"]))
