"""Purchases and their division, against plain Python."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catwalk.catalogue import Catalogue
from catwalk.errors import CatwalkError
from catwalk.interactions import Interactions, leave_one_out, read_split

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


def split_by_hand(rows, validation):
    kept, users = read_by_hand(rows)
    train, held_out = [], {"validation": [], "test": []}
    dropped = set()
    for user in users:
        history = sorted((time, line, item) for line, owner, item, time in kept if owner == user)
        test = history.pop() if len(history) >= 2 else None
        tuned = history.pop() if validation and test is not None and len(history) >= 2 else None
        for name, event in (("test", test), ("validation", tuned)):
            held_out[name].append(-1 if event is None else ITEMS.index(event[2]))
            if event is not None:
                dropped.add(event[1])
    train = [(users.index(owner), ITEMS.index(item)) for line, owner, item, _ in kept if line not in dropped]
    return users, train, held_out


events = st.lists(
    st.tuples(st.sampled_from(["u", "007", "v", "w"]), st.sampled_from(ITEMS), st.integers(-2, 3)),
    min_size=1,
    max_size=25,
)


@settings(max_examples=120, deadline=None)
@given(rows=events, validation=st.booleans())
def test_leave_one_out_is_that_of_plain_python(shared_catalogue, rows, validation):
    write(shared_catalogue, rows)
    interactions = Interactions.read(shared_catalogue)
    kept, users = read_by_hand(rows)
    assert interactions.user_ids == tuple(users)
    assert [users[user] for user in interactions.users] == [user for _, user, _, _ in kept]
    assert [ITEMS[item] for item in interactions.items] == [item for _, _, item, _ in kept]
    assert interactions.timestamps.tolist() == [time for _, _, _, time in kept]
    assert interactions.num_repeats == len(rows) - len(kept)

    users, train, held_out = split_by_hand(rows, validation)
    for split in (leave_one_out(interactions, validation), read_split(shared_catalogue, validation)):
        assert split.user_ids == tuple(users)
        assert list(zip(split.users.tolist(), split.items.tolist(), strict=True)) == train
        assert split.validation.tolist() == held_out["validation"]
        assert split.test.tolist() == held_out["test"]
        expected = [sum(user == owner for owner, _ in train) for user in range(len(users))]
        assert split.purchases_per_user.tolist() == expected


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
    split = read_split(catalogue, validation=True)
    assert split.test.tolist() == [1]
    assert split.validation.tolist() == [3]


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
    split = read_split(catalogue, validation=True)
    assert split.user_ids == ("5",)
    assert (split.test.tolist(), split.validation.tolist()) == ([1], [2])


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
        read_split(catalogue)


class TestPublishedSplits:
    def write(self, catalogue, **parts):
        for name, rows in parts.items():
            write(catalogue, rows, f"splits/{name}.csv")

    def test_they_are_used_as_they_are(self, catalogue):
        self.write(
            catalogue,
            train=[("b", "i0", 9), ("a", "i1", 9), ("b", "i3", 1), ("b", "i3", 2)],
            validation=[("a", "i4", 1)],
            test=[("c", "02", 0), ("b", "i5", 0)],
        )
        for validation in (False, True):
            split = read_split(catalogue, validation)
            assert split.user_ids == ("b", "a", "c")
            assert list(zip(split.users.tolist(), split.items.tolist(), strict=True)) == [(0, 0), (1, 1), (0, 3)]
            assert split.validation.tolist() == [-1, 4, -1]
            assert split.test.tolist() == [5, -1, 2]

    def test_they_go_before_the_interactions(self, catalogue):
        write(catalogue, [("z", "i0", 1)])
        self.write(catalogue, train=[("a", "i1", 1)], test=[("a", "i0", 1)])
        split = read_split(catalogue)
        assert split.user_ids == ("a",)
        assert split.validation.tolist() == [-1]

    def test_parts_may_tell_time_in_different_ways(self, catalogue):
        self.write(catalogue, train=[("a", "i1", 1)], validation=[("a", "i3", 1.5)], test=[("a", "i0", "2020-01-01")])
        assert read_split(catalogue).test.tolist() == [0]

    @pytest.mark.parametrize("parts", [["train"], ["test"], ["validation"], ["train", "validation"]])
    def test_train_and_test_are_needed(self, catalogue, parts):
        write(catalogue, [("z", "i0", 1)])
        self.write(catalogue, **{name: [("a", "i1", 1)] for name in parts})
        with pytest.raises(CatwalkError, match=r"splits needs both train\.csv and test\.csv"):
            read_split(catalogue)

    def test_an_empty_folder_is_no_split(self, catalogue):
        write(catalogue, [("z", "i0", 1), ("z", "i1", 2)])
        (catalogue.folder / "splits").mkdir()
        assert read_split(catalogue).test.tolist() == [1]

    @pytest.mark.parametrize("part", ["validation", "test"])
    def test_two_items_of_a_user(self, catalogue, part):
        self.write(catalogue, train=[("a", "i1", 1)], test=[("b", "i0", 1)])
        self.write(catalogue, **{part: [("a", "i0", 1), ("a", "i3", 1)]})
        with pytest.raises(CatwalkError, match=rf"{part}\.csv holds more than one item of a user; one is supported"):
            read_split(catalogue)

    @pytest.mark.parametrize(("part", "other"), [("validation", "train"), ("test", "train"), ("test", "validation")])
    def test_an_item_of_a_user_in_two_parts(self, catalogue, part, other):
        self.write(catalogue, train=[("a", "i1", 1), ("b", "i4", 2)], test=[("b", "i0", 1)])
        rows = {part: [("a", "i5", 1)], other: [("a", "i5", 1), ("c", "i4", 2)]}
        self.write(catalogue, **rows)
        message = rf"{part}\.csv holds an item that the same user has in {other}\.csv"
        with pytest.raises(CatwalkError, match=message):
            read_split(catalogue)

    def test_an_item_of_two_users_in_two_parts_is_fine(self, catalogue):
        self.write(catalogue, train=[("a", "i1", 1), ("b", "i0", 1)], test=[("b", "i1", 1)])
        assert read_split(catalogue).test.tolist() == [-1, 1]
