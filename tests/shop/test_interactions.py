"""Purchases as they are read, against plain Python."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catwalk.errors import CatwalkError
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.interactions import Interactions

ITEMS = ("i0", "i1", "02", "i3", "i4", "i5")


def make_catalogue(folder):
    return Catalogue(folder, "shop", ITEMS, ("",) * 6, np.zeros(6, dtype=np.int64), ("c",))


@pytest.fixture
def catalogue(tmp_path):
    return make_catalogue(tmp_path)


@pytest.fixture(scope="module")
def shared_catalogue(tmp_path_factory):
    return make_catalogue(tmp_path_factory.mktemp("shop"))


def write(catalogue, rows, name="interactions.csv"):
    path = catalogue.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"{','.join(map(str, row))}\n" for row in rows))


def read_by_hand(rows):
    """Keep the earliest row of each pair, ties by place in the file; return the kept rows and the users' order."""
    users, earliest = [], {}
    for line, (user, item, time) in enumerate(rows):
        if user not in users:
            users.append(user)
        key = (user, item)
        if key not in earliest or time < earliest[key][0]:
            earliest[key] = (time, line)
    kept = sorted((line, user, item, time) for (user, item), (time, line) in earliest.items())
    return kept, users


events = st.lists(
    st.tuples(st.sampled_from(["u", "007", "v", "w"]), st.sampled_from(ITEMS), st.integers(-2, 3)),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(rows=events)
def test_what_is_read_is_that_of_plain_python(shared_catalogue, rows):
    write(shared_catalogue, rows)
    interactions = Interactions.read(shared_catalogue)
    kept, users = read_by_hand(rows)
    assert interactions.user_ids == tuple(users)
    assert [users[user] for user in interactions.users] == [user for _, user, _, _ in kept]
    assert [ITEMS[item] for item in interactions.items] == [item for _, _, item, _ in kept]
    assert interactions.timestamps.tolist() == [time for _, _, _, time in kept]
    assert interactions.num_repeats == len(rows) - len(kept)


TIMES = [
    (["3", "10", "9"], "whole numbers, by value and not as text"),
    (["3.5", "10", "9.25"], "decimals"),
    (["-5", "1e3", "0"], "exponents"),
    (["2020-01-09", "2020-02-01", "2020-01-31"], "dates"),
    (["2020-01-09 23:00:00", "2020-01-10T01:00:00", "2020-01-10 00:00"], "dates and times"),
    (["2020-01-09T23:00:00Z", "2020-01-10T01:00:00Z", "2020-01-10T02:00:00+02:00"], "time zones"),
    (["2020-01-09 00:00:00.000000001", "2020-01-09 00:00:00.000000003", "2020-01-09 00:00:00.000000002"], "ns"),
    (["1500-01-01", "1999-01-01", "1700-01-01"], "long ago"),
]


@pytest.mark.parametrize("times", [times for times, _ in TIMES], ids=[name for _, name in TIMES])
def test_timestamps(catalogue, times):
    """The second row is the latest and the third the one before it."""
    write(catalogue, [("u", item, time) for item, time in zip(("i0", "i1", "i3"), times, strict=True)])
    interactions = Interactions.read(catalogue)
    assert interactions.items[np.argsort(interactions.timestamps)].tolist() == [0, 3, 1]


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Rome"])
def test_timestamps_of_parquet(catalogue, unit, zone):
    start = datetime.datetime(2020, 1, 1)
    moments = [start + datetime.timedelta(hours=hours) for hours in (1, 30, 5)]
    columns = {
        "user_id": [5, 5, 5],
        "item_id": ["i0", "i1", "02"],
        "timestamp": pa.array(moments, pa.timestamp("us")).cast(pa.timestamp(unit)).cast(pa.timestamp(unit, zone)),
    }
    pa.parquet.write_table(pa.table(columns), catalogue.folder / "interactions.parquet")
    interactions = Interactions.read(catalogue)
    assert interactions.user_ids == ("5",)
    assert interactions.items[np.argsort(interactions.timestamps)].tolist() == [0, 2, 1]


def test_numbers_in_parquet(catalogue):
    columns = {"user_id": ["u"] * 3, "item_id": ["i0", "i1", "02"], "timestamp": [9, 100, 20]}
    pa.parquet.write_table(pa.table(columns), catalogue.folder / "interactions.parquet")
    assert Interactions.read(catalogue).timestamps.tolist() == [9, 100, 20]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["yesterday", "1"], "neither all numbers nor all ISO 8601 dates .*the first is 'yesterday'"),
        (["1", "2020-01-01"], "neither all numbers nor all ISO 8601 dates"),
        (["2020-01-01T00:00:00Z", "2020-01-01"], "all or none of them with a time zone"),
        (["2020-13-01", "2020-01-01"], "neither all numbers"),
        (["1", "nan"], "row 2: timestamp 'nan' is no time"),
        (["inf", "1"], "row 1: timestamp 'inf' is no time"),
        (["1", ""], "row 2: 'timestamp' is empty"),
    ],
)
def test_bad_timestamps(catalogue, times, message):
    write(catalogue, [("u", item, time) for item, time in zip(ITEMS, times, strict=False)])
    with pytest.raises(CatwalkError, match=message):
        Interactions.read(catalogue)


def test_unknown_items_are_counted(catalogue):
    write(catalogue, [("u", "i0", 1), ("u", "2", 2), ("v", "i1", 3), ("v", "x", 4)])
    with pytest.raises(
        CatwalkError, match=r"interactions\.csv, row 2: item '2' is not in the catalogue \(2 such rows\)"
    ):
        Interactions.read(catalogue)


def test_a_shop_without_interactions(catalogue):
    with pytest.raises(CatwalkError, match=r"has no interactions\.csv, which a recommender needs"):
        Interactions.read(catalogue)


def test_interactions_need_timestamps(catalogue):
    (catalogue.folder / "interactions.csv").write_text("user_id,item_id\nu,i0\n")
    with pytest.raises(CatwalkError, match=r"interactions\.csv lacks the column 'timestamp'"):
        Interactions.read(catalogue)


def test_spellings_and_units_are_mended_and_told(catalogue):
    rows = [
        ("u", "i0", "1400000000"),
        ("u\u200b", "i1\u00a0", "1400000001000"),
        ("5.0", "i3", "1400000002"),
        ("5", "i4", 0),
    ]
    write(catalogue, rows)
    interactions = Interactions.read(catalogue)
    assert interactions.user_ids == ("u", "5")
    assert interactions.users.tolist() == [0, 0, 1, 1]
    assert interactions.items.tolist() == [0, 1, 3, 4]
    assert interactions.timestamps.tolist() == [1400000000000, 1400000001000, 1400000002000, 0]
    assert interactions.remarks == (
        "1 purchases spell their item's id otherwise than the catalogue: 'i1\\xa0' for 'i1'",
        "2 purchases spell their user's id otherwise than others: 'u\\u200b' for 'u'",
        "2 times in seconds, brought to milliseconds",
        "1 of 4 times lie outside the years 1990 to 2099, such as 0 (1 zero): they may be no times of purchases",
    )


def test_times_in_several_units_and_in_none_are_refused(catalogue):
    write(catalogue, [("u", "i0", 1400000000), ("u", "i1", 1400000000000), ("u", "i3", 77)])
    with pytest.raises(CatwalkError, match=r"interactions\.csv: times are in several units, 1400000000 in seconds and"):
        Interactions.read(catalogue)


def test_sound_interactions_have_no_remarks(catalogue):
    write(catalogue, [("u", "i0", 1400000000), ("\u00fc", "i1", 1400000001)])
    assert Interactions.read(catalogue).remarks == ()
