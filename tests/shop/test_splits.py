"""The rules that hold purchases out, and published splits, against plain Python."""

import datetime
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catwalk.cli.main import main
from catwalk.errors import CatwalkError
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.interactions import Interactions
from catwalk.shop.splits import DateSplit, LastInFile, LeaveLastOut, LeaveRandomOut, RatioSplit, read_split

ITEMS = ("i0", "i1", "02", "i3", "i4", "i5")


def make_catalogue(folder):
    return Catalogue(folder, "shop", ITEMS, ("",) * 6, np.zeros(6, dtype=np.int64), ("c",))


@pytest.fixture
def catalogue(tmp_path):
    return make_catalogue(tmp_path)


def write(catalogue, rows, name="interactions.csv", header="user_id,item_id,timestamp"):
    path = catalogue.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(header + "\n" + "".join(f"{','.join(map(str, row))}\n" for row in rows))


def make(pairs):
    """Return interactions of users 0..3 with items at times; ``pairs`` is a dictionary from (user, item) to time."""
    users = list(dict.fromkeys(user for user, _ in pairs))
    return Interactions(
        user_ids=tuple(f"u{user}" for user in users),
        users=np.array([users.index(user) for user, _ in pairs]),
        items=np.array([item for _, item in pairs]),
        timestamps=np.array(list(pairs.values())),
        num_repeats=3,
        time_type=pa.int64(),
    )


def name_pairs(split, users, items):
    return [(split.user_ids[user], item) for user, item in zip(users.tolist(), items.tolist(), strict=True)]


def last_by_hand(bought, numbers, validation):
    """Hold out of each user's history, in order of time, the numbers that ``numbers`` makes of its length."""
    parts = {}
    for user in {user for user, *_ in bought}:
        history = sorted((time, row) for row, (owner, _, time) in enumerate(bought) if owner == user)
        for_validation, for_test = numbers(len(history))
        for place, (_, row) in enumerate(reversed(history)):
            held_out = "validation" if validation and place < for_test + for_validation else "train"
            parts[row] = "test" if place < for_test else held_out
    return parts


def ratio_by_hand(test_share, validation_share):
    def numbers(count):
        test, validation = (
            int(Fraction(share) * count + Fraction(1, 2))
            for share in (Fraction(test_share), Fraction(validation_share))
        )
        while test >= count:
            test -= 1
        while validation and test + validation >= count:
            validation -= 1
        return validation, test

    return numbers


def date_by_hand(test_from, validation_from):
    def divide(bought, validation):
        parts = {}
        for row, (_, _, time) in enumerate(bought):
            parts[row] = "test" if time >= test_from else "train"
            if validation and validation_from <= time < test_from:
                parts[row] = "validation"
        return parts

    return divide


def random_by_hand(seed):
    def divide(bought, validation):
        times = np.random.default_rng(seed).random(len(bought)).tolist()
        drawn = [(user, item, time) for (user, item, _), time in zip(bought, times, strict=True)]
        return last_by_hand(drawn, lambda count: (int(count >= 3), int(count >= 2)), validation)

    return divide


RULES = {
    "last": (
        LeaveLastOut(),
        lambda bought, validation: last_by_hand(bought, lambda n: (int(n >= 3), int(n >= 2)), validation),
    ),
    "random": (LeaveRandomOut(7), random_by_hand(7)),
    "default shares": (
        RatioSplit(),
        lambda bought, validation: last_by_hand(bought, ratio_by_hand("0.2", "0.1"), validation),
    ),
    "large shares": (
        RatioSplit(0.5, 0.375),
        lambda bought, validation: last_by_hand(bought, ratio_by_hand("0.5", "0.375"), validation),
    ),
    "date": (DateSplit(3, 1.5), date_by_hand(3, 1.5)),
}

events = st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 5)), st.integers(0, 5), min_size=1, max_size=24)


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("name", list(RULES))
@settings(max_examples=40, deadline=None)
@given(pairs=events)
def test_a_rule_divides_as_plain_python_does(name, validation, pairs):
    rule, divide = RULES[name]
    bought = [(f"u{user}", item, time) for (user, item), time in pairs.items()]
    parts = divide(bought, validation)
    trained = [user for row, (user, *_) in enumerate(bought) if parts[row] == "train"]
    expected = {
        part: [(user, item) for row, (user, item, _) in enumerate(bought) if parts[row] == part and user in trained]
        for part in ("train", "validation", "test")
    }
    interactions = make(pairs)
    if name == "date" and not all(expected[part] for part in ("validation", "test") if validation or part == "test"):
        with pytest.raises(CatwalkError, match=r"DateSplit.*: no user has purchases from .* on to hold out"):
            rule.split(interactions, 6, validation)
        return
    split = rule.split(interactions, 6, validation)
    assert split.user_ids == tuple(user for user in interactions.user_ids if user in trained)
    assert name_pairs(split, split.users, split.items) == expected["train"]
    for held_out, part in ((split.validation, "validation"), (split.test, "test")):
        assert sorted(name_pairs(split, held_out.users, held_out.items)) == sorted(expected[part])
        assert held_out.num_users == split.num_users
    assert split.purchases_per_user.tolist() == [trained.count(user) for user in split.user_ids]
    sold = {item for _, item in expected["train"]}
    cold = [item for part in ("validation", "test") for _, item in expected[part] if item not in sold]
    ties = {
        user
        for row, (user, _, time) in enumerate(bought)
        for other, (owner, _, its_time) in enumerate(bought)
        if user == owner and user in trained and time == its_time and parts[row] != parts[other]
    }
    assert split.num_ties == (0 if name == "random" else len(ties))  # what is drawn does not tie
    assert split.num_left_out == len(set(interactions.user_ids) - set(trained))
    assert split.num_cold == len(cold)
    assert split.num_repeats == 3
    asked = {user for part in ("validation", "test") for user, _ in expected[part]}
    assert split.num_asked == len(asked)


@pytest.mark.parametrize("validation", [False, True])
@settings(max_examples=60, deadline=None)
@given(pairs=events)
def test_the_last_in_the_file_divides_as_the_published_code_does(validation, pairs):
    """Item by item: of one that only the test has, a row goes to the training, and the others' rows are dropped."""
    bought = [(f"u{user}", item) for user, item in pairs]
    test, train, held_out = {}, [], []
    for user, item in bought:
        own = [other for name, other in bought if name == user]
        place = len(own) - own.index(item)
        if place == 1 and len(own) > 1:
            test[user] = item
        elif place == 2 and len(own) > 2 and validation:
            held_out.append((user, item))
        else:
            train.append((user, item))
    of_training = {item for _, item in train}
    dropped = 0
    for user, item in [(user, item) for user, item in bought if test.get(user) == item and item not in of_training]:
        if user not in test:
            continue
        train.append((user, item))
        others = [other for other, its in test.items() if its == item]
        dropped += len(others) - 1
        for other in others:
            del test[other]
    split = LastInFile().split(make(pairs), 6, validation)
    assert sorted(name_pairs(split, split.users, split.items)) == sorted(train)
    assert sorted(name_pairs(split, split.test.users, split.test.items)) == sorted(test.items())
    assert sorted(name_pairs(split, split.validation.users, split.validation.items)) == sorted(held_out)
    assert split.num_ties == 0
    told = [remark for remark in split.remarks if "neither trained on nor held out" in remark]
    assert told == ([f"{dropped} purchase{'s' * (dropped > 1)} neither trained on nor held out"] if dropped else [])


def test_leaving_a_random_one_out_depends_on_the_seed():
    pairs = {(0, item): 0 for item in range(6)}
    tests = {int(LeaveRandomOut(seed).split(make(pairs), 6).test.items[0]) for seed in range(20)}
    assert len(tests) > 3


MOMENTS = [
    (["2020-01-09", "2020-01-10", "2020-01-11"], "2020-01-10"),
    (["2020-01-09 23:59:59", "2020-01-10", "2020-01-10 00:00:01"], "2020-01-10"),
    (["2020-01-09 23:59:59", "2020-01-10 12:00", "2020-01-11"], "2020-01-10T12:00:00"),
    (
        ["2020-01-09 00:00:00.000000001", "2020-01-09 00:00:00.000000002", "2020-01-09 00:00:01"],
        "2020-01-09 00:00:00.000000002",
    ),
    (["2020-01-09 00:00:00.000000001", "2020-01-10", "2020-01-11"], "2020-01-10"),
    (["2020-01-09 23:59:59.999999", "2020-01-10", "2020-01-11"], "2020-01-09 23:59:59.999999001"),
    (["2020-01-09T23:00:00Z", "2020-01-10T00:00:00Z", "2020-01-11T00:00:00Z"], "2020-01-10"),
    (["2020-01-09T22:59:00Z", "2020-01-10T01:30:00+02:00", "2020-01-11T00:00:00Z"], "2020-01-10T00:30:00+01:00"),
    (["1500-01-01", "1700-01-01", "1999-01-01"], "1700-01-01"),
    ([9, 10, 200], 10),
    ([9, 10, 200], "10"),
    ([9, 10, 200], 9.5),
    ([9007199254740992, 9007199254740993, 9007199254740994], "9007199254740993"),
    ([9.5, 10.25, 200], 10.25),
    ([9.5, 10.25, 200], "1.025e1"),
]


@pytest.mark.parametrize(("times", "moment"), MOMENTS)
def test_a_date_split_compares_in_the_unit_of_the_timestamps(catalogue, times, moment):
    """The first purchase is before the moment, and the other two are not."""
    write(catalogue, [("u", item, time) for item, time in zip(ITEMS, times, strict=False)])
    split = read_split(catalogue, rule=DateSplit(moment))
    assert split.items.tolist() == [0]
    assert split.test.items.tolist() == [1, 2]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Rome"])
def test_a_date_split_of_parquet(catalogue, unit, zone):
    start = datetime.datetime(2020, 1, 1)
    moments = [start + datetime.timedelta(hours=hours) for hours in (47, 48, 49)]
    columns = {
        "user_id": ["u"] * 3,
        "item_id": ["i0", "i1", "02"],
        "timestamp": pa.array(moments, pa.timestamp(unit)).cast(pa.timestamp(unit, zone)),
    }
    pa.parquet.write_table(pa.table(columns), catalogue.folder / "interactions.parquet")
    assert read_split(catalogue, rule=DateSplit("2020-01-03")).test.items.tolist() == [1, 2]


DATES = [("u", "i0", "2020-01-01"), ("u", "i1", "2020-03-01"), ("v", "02", "2020-02-01")]
NUMBERS = [("u", "i0", 1), ("u", "i1", 3)]
WHERE = "to hold out, and some before to train on; the purchases are from 2020-01-01 00:00:00.000000 to 2020-03-01"


@pytest.mark.parametrize(
    ("rows", "rule", "message"),
    [
        (DATES, DateSplit("2021-01-01"), rf"test_from: no user has purchases from 2021-01-01 on {WHERE}"),
        (DATES, DateSplit("2020-01-01"), rf"test_from: no user has purchases from 2020-01-01 on {WHERE}"),
        (DATES, DateSplit("2020-03-01", "2020-02-02"), rf"validation_from: no user .* from 2020-02-02 on {WHERE}"),
        (DATES, DateSplit("2020-03-01"), "validation_from: give it, to hold out purchases for validation"),
        (DATES, DateSplit("2020-02-01", "2020-03-01"), "validation_from must be before test_from, got 2020-03-01 and"),
        (DATES, DateSplit(3), "test_from: must be a date or time without a time zone in ISO 8601, .*, got 3"),
        (DATES, DateSplit("2020-13-01"), "test_from: must be a date or time .* got '2020-13-01'"),
        (DATES, DateSplit("2020-02-01T00:00:00Z"), "test_from: must be a date or time without a time zone"),
        (NUMBERS, DateSplit("2020-02-01"), "test_from: must be a number, as the timestamps are, got '2020-02-01'"),
        (NUMBERS, DateSplit("nan"), "test_from: must be a number, as the timestamps are, got 'nan'"),
        (NUMBERS, DateSplit(4), "test_from: no user has purchases from 4 on to hold out, .* are from 1 to 3"),
    ],
)
def test_an_impossible_date_is_refused(catalogue, rows, rule, message):
    write(catalogue, rows)
    with pytest.raises(CatwalkError, match=rf"^DateSplit\.{message}"):
        read_split(catalogue, validation="validation_from" in message, rule=rule)


@pytest.mark.parametrize(
    ("make_rule", "message"),
    [
        (lambda: LeaveRandomOut(-1), "LeaveRandomOut.seed must be at least 0, got -1"),
        (lambda: RatioSplit(0), "RatioSplit.test_share must be more than 0 and less than 1, got 0"),
        (lambda: RatioSplit(0.2, 1.5), "RatioSplit.validation_share must be more than 0 and less than 1, got 1.5"),
        (lambda: RatioSplit(0.5, 0.5), "must leave something to train on, got 0.5 and 0.5"),
        (lambda: RatioSplit(float("nan")), "RatioSplit.test_share must be more than 0 and less than 1, got nan"),
    ],
)
def test_a_rule_refuses_what_it_cannot_do(make_rule, message):
    with pytest.raises(CatwalkError, match=message):
        make_rule()


def test_the_command_line_takes_a_rule(shop, caplog, capsys):
    data = [
        "--data=datamodules.InteractionTriplets",
        f"--data.dataset={shop}",
        "--data.split=catwalk.shop.splits.DateSplit",
    ]
    command = [
        "test",
        "--model=lightning_modules.Popularity",
        *data,
        "--trainer.logger=false",
        "--trainer.accelerator=cpu",
    ]
    times = sorted(Interactions.read(Catalogue.read(shop)).timestamps.tolist())
    with caplog.at_level("INFO"):
        main([*command, f"--data.split.test_from={times[-50]}"])
    assert f" {len(times) - 50} purchases to train on" in caplog.text
    with pytest.raises(SystemExit) as ended:
        main([*command, f"--data.split.test_from={times[-1] + 1}"])
    assert ended.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("catwalk: error: DateSplit.test_from: no user has purchases from")


def test_a_shop_without_interactions(catalogue):
    with pytest.raises(CatwalkError, match=r"has no interactions\.csv, which a recommender needs"):
        read_split(catalogue)


def named(split, held_out):
    return name_pairs(split, held_out.users, held_out.items)


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
            assert named(split, split.validation) == [("a", 4)]
            assert named(split, split.test) == [("b", 5), ("c", 2)]
            assert (split.num_repeats, split.num_ties) == (1, 0)

    def test_they_go_before_the_interactions(self, catalogue):
        write(catalogue, [("z", "i0", 1)])
        self.write(catalogue, train=[("a", "i1", 1)], test=[("a", "i0", 1)])
        split = read_split(catalogue)
        assert split.user_ids == ("a",)
        assert len(split.validation) == 0

    def test_a_rule_goes_before_them(self, catalogue):
        write(catalogue, [("z", "i0", 1), ("z", "i1", 2)])
        self.write(catalogue, train=[("a", "i1", 1)], test=[("a", "i0", 1)])
        split = read_split(catalogue, rule=LeaveLastOut())
        assert named(split, split.test) == [("z", 1)]

    def test_a_rule_needs_interactions(self, catalogue):
        self.write(catalogue, train=[("a", "i1", 1)], test=[("a", "i0", 1)])
        with pytest.raises(CatwalkError, match=r"has no interactions\.csv"):
            read_split(catalogue, rule=LeaveLastOut())

    def test_they_need_no_timestamps(self, catalogue):
        write(catalogue, [("b", "i0"), ("a", "i1"), ("b", "i0")], "splits/train.csv", "user_id,item_id")
        write(catalogue, [("a", "i0"), ("a", "i5")], "splits/test.csv", "user_id,item_id")
        split = read_split(catalogue)
        assert name_pairs(split, split.users, split.items) == [("b", 0), ("a", 1)]
        assert named(split, split.test) == [("a", 0), ("a", 5)]
        assert split.num_repeats == 1

    def test_parts_may_tell_time_in_different_ways(self, catalogue):
        self.write(catalogue, train=[("a", "i1", 1)], validation=[("a", "i3", 1.5)], test=[("a", "i0", "2020-01-01")])
        assert read_split(catalogue).test.items.tolist() == [0]

    @pytest.mark.parametrize("parts", [["train"], ["test"], ["validation"], ["train", "validation"]])
    def test_train_and_test_are_needed(self, catalogue, parts):
        write(catalogue, [("z", "i0", 1)])
        self.write(catalogue, **{name: [("a", "i1", 1)] for name in parts})
        with pytest.raises(CatwalkError, match=r"splits needs both train\.csv and test\.csv"):
            read_split(catalogue)

    def test_an_empty_folder_is_no_split(self, catalogue):
        write(catalogue, [("z", "i0", 1), ("z", "i1", 2)])
        (catalogue.folder / "splits").mkdir()
        assert read_split(catalogue).test.items.tolist() == [1]

    @pytest.mark.parametrize("part", ["validation", "test"])
    def test_several_items_of_a_user(self, catalogue, part):
        self.write(catalogue, train=[("a", "i1", 1)], test=[("b", "i0", 1)])
        self.write(catalogue, **{part: [("b", "i5", 1), ("a", "i3", 2), ("a", "i0", 1), ("a", "i3", 1)]})
        split = read_split(catalogue)
        assert sorted(named(split, getattr(split, part))) == [("a", 0), ("a", 3), ("b", 5)]
        assert split.num_repeats == 1

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
        split = read_split(catalogue)
        assert named(split, split.test) == [("b", 1)]


@pytest.mark.parametrize("share", [0.29, 0.57, 0.58, 0.1, 0.35, 0.145, 1e-7])
def test_a_share_is_rounded_as_the_decimal_that_it_is_written_as(share):
    """0.29 of 50 is 14.5, and 0.29 * 50 a little less in floats."""
    purchases = np.arange(1, 300)
    exact = [int((Decimal(repr(share)) * count).quantize(Decimal(1), ROUND_HALF_UP)) for count in purchases.tolist()]
    expected = np.minimum(exact, purchases - 1)
    assert RatioSplit(share).numbers(purchases)[1].tolist() == expected.tolist()
    validation, test = RatioSplit(1e-9, share).numbers(purchases)
    assert validation.tolist() == expected.tolist()
    assert not test.any()


@pytest.mark.parametrize(
    ("rule", "expected"), [(LeaveLastOut(), 1), (DateSplit(4), 0), (RatioSplit(0.5, 0.1), 1)], ids=repr
)
def test_tested_purchases_before_others_training_are_counted(tmp_path, rule, expected):
    users, items = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 2])
    times = np.array([1, 2, 3, 3, 5])
    interactions = Interactions(("a", "b"), users, items, times, 0, pa.int64())
    assert rule.split(interactions, 3).num_seen_future == expected
    assert rule.split(replace(interactions, time_type=pa.int64(), remarks=("r",)), 3).remarks == ("r",)


def test_users_are_spelled_in_one_way_in_all_parts_of_a_published_split(tmp_path):
    catalogue = Catalogue(tmp_path, "shop", ("0", "1"), ("", ""), np.zeros(2, dtype=np.int64), ("c",))
    (tmp_path / "splits").mkdir()
    for part, rows in (("train", "7.0,0\nb,0\n"), ("test", "7,1\nb\u200b,1\n")):
        (tmp_path / "splits" / f"{part}.csv").write_text(f"user_id,item_id\n{rows}")
    split = read_split(catalogue)
    assert split.user_ids == ("7", "b")
    assert split.test.counts.tolist() == [1, 1]
