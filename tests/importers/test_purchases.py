"""What is left out of purchases, beside plain loops over them."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from publishers import write

from catwalk.errors import CatwalkError
from catwalk.importers.image_tree import read_tree
from catwalk.importers.purchases import LONGEST_ID, Numbering, Purchases, check_ids, first_misfit, k_core

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60)


def purchases_of(triples):
    """Return purchases of users ``u0`` … and items ``i0`` … from (user, item, time)."""
    users, items, times = (np.array([triple[place] for triple in triples], dtype=np.int64) for place in range(3))
    return Purchases([f"u{n}" for n in range(7)], [f"i{n}" for n in range(7)], users, items, times)


def rows(purchases):
    return list(zip(purchases.users.tolist(), purchases.items.tolist(), purchases.timestamps.tolist(), strict=True))


def plain_core(pairs, least):
    """Return which pairs are in the core, by taking away one user or item that has too few at a time."""
    kept = set(range(len(pairs)))
    while True:
        for side in (0, 1):
            counts = Counter(pairs[row][side] for row in kept)
            few = [name for name, count in counts.items() if count < least]
            if few:
                kept = {row for row in kept if pairs[row][side] != few[0]}
                break
        else:
            return [row in kept for row in range(len(pairs))]


@settings(max_examples=150, deadline=None)
@given(pairs, st.integers(1, 5))
def test_the_core_is_what_is_left_when_one_after_the_other_is_taken_away(pairs, least):
    users, items = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    assert k_core(users, items, least).tolist() == plain_core(pairs, least)


@settings(max_examples=100, deadline=None)
@given(pairs, st.integers(1, 5))
def test_one_pass_drops_users_and_then_items(pairs, least):
    users, items = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    per_user = Counter(user for user, _ in pairs)
    per_item = Counter(item for user, item in pairs if per_user[user] >= least)
    expected = [per_user[user] >= least and per_item[item] >= least for user, item in pairs]
    assert k_core(users, items, least, one_pass=True).tolist() == expected


def test_one_pass_may_leave_users_with_fewer_and_the_core_does_not():
    pairs = [(0, 0), (0, 1), (1, 0), (1, 2), (2, 0), (2, 2)]
    users, items = np.array(pairs).T
    assert k_core(users, items, 2, one_pass=True).tolist() == [True, False, True, True, True, True]
    assert k_core(users, items, 2).tolist() == [False, False, True, True, True, True]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)), max_size=40))
def test_the_earliest_of_repeated_purchases_stays_in_its_place(triples):
    left = purchases_of(triples).without_repeats()
    expected = []
    for place, (user, item, time) in enumerate(triples):
        same = [(when, row) for row, (*pair, when) in enumerate(triples) if pair == [user, item]]
        if min(same) == (time, place):
            expected.append((user, item, time))
    assert rows(left) == expected
    assert left.left_out == {"repeated purchases of an item by the same user": len(triples) - len(expected)}


def test_what_is_left_out_is_counted_by_cause():
    purchases = purchases_of([(0, 0, 5), (1, 1, 6), (0, 2, 7), (2, 0, 8)])
    left = purchases.of_items(["i0", "i1"], "others").where(np.array([True, False, True]), "others").core(2)
    assert rows(left) == []
    assert left.left_out == {
        "others": 2,
        "purchases of users or items with fewer than 2 (repeated until nothing changes)": 2,
    }
    assert purchases.left_out == {}
    with pytest.raises(CatwalkError, match=r"log: no purchase is left \(2 others; 2 purchases of users or items"):
        left.check_some_left("log")
    with pytest.raises(CatwalkError, match=r"log: no purchase is left \(it has none\)"):
        purchases_of([]).check_some_left("log")
    purchases.check_some_left("log")
    assert purchases.items_bought == {"i0", "i1", "i2"}
    assert (len(set(purchases.users.tolist())), len(purchases)) == (3, 4)


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (None, None, "abcd"),
        ("2020-02-29", None, "bcd"),
        (None, "2020-02-29", "abc"),
        ("2020-02-29", "2020-02-29", "bc"),
    ],
)
def test_both_days_are_included_to_their_ends(first, last, expected):
    times = np.array(["2020-02-28T23:59", "2020-02-29T00:00", "2020-02-29T23:59", "2020-03-01T00:00"], "datetime64[m]")
    purchases = Purchases(["u"], list("abcd"), np.zeros(4, np.int64), np.arange(4), times)
    bounds = (None if day is None else np.datetime64(day) for day in (first, last))
    left = purchases.between(*bounds)
    assert "".join(left.columns()[1]) == expected
    assert left.left_out == {"purchases outside the dates": 4 - len(expected)}


@pytest.mark.parametrize(
    ("times", "written"),
    [
        (np.array([3, -2]), [3, -2]),
        (np.array([0.1, 2.5]), [0.1, 2.5]),
        (np.array(["2020-01-31", "1969-12-31"], "datetime64[D]"), ["2020-01-31", "1969-12-31"]),
        (np.array(["2020-01-31T10:00:01"], "datetime64[s]").repeat(2), ["2020-01-31T10:00:01"] * 2),
    ],
)
def test_times_are_written_as_the_publisher_gives_them(times, written):
    purchases = Purchases(["u", "v"], ["i"], np.array([1, 0]), np.array([0, 0]), times)
    assert purchases.columns() == (["v", "u"], ["i", "i"], written)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["007", "7", "", "ß", "u1"]), max_size=6), max_size=6))
def test_ids_are_numbered_by_their_first_appearance_whatever_the_batches(batches):
    numbering = Numbering()
    for batch in batches:
        numbering.add(pa.array(batch, pa.string()))
    ids, numbers = numbering.finish()
    flat = [name for batch in batches for name in batch]
    assert ids == list(dict.fromkeys(flat))
    assert [ids[number] for number in numbers] == flat
    assert numbers.dtype == np.int64


def test_the_first_text_that_does_not_fit_is_found_in_any_part():
    parts = [pa.array(["1", "2"]), pa.array([], pa.string()), pa.array(["3", "x", "4", "y"])]
    assert first_misfit(parts, pa.int64()) == 3
    with pytest.raises(ValueError, match="all are string"):
        first_misfit(parts, pa.string())


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a\\b", "a\0", "é" * (LONGEST_ID // 2 + 1)])
def test_an_id_that_is_no_name_of_a_file_is_refused(tmp_path, name):
    with pytest.raises(CatwalkError, match=r"table, row 2: sku .* cannot be the name of a file"):
        check_ids(["fine", name], tmp_path / "table", "sku")
    check_ids(["...", "a b", "é" * (LONGEST_ID // 2), ".a"], tmp_path / "table", "sku")


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x1b[31mb", "a\x7fb", "a\u2028b"])
def test_control_characters_in_ids_are_refused(tmp_path, name):
    with pytest.raises(CatwalkError, match=r"^[^\n]*table, row 2: sku 'a\\.*b' holds control characters") as caught:
        check_ids(["fine", name], tmp_path / "table", "sku")
    assert str(caught.value).isprintable()
    purchases = Purchases(["u", name], ["i"], np.array([0, 1]), np.array([0, 0]), np.arange(2))
    with pytest.raises(CatwalkError, match=r"log: the id of a user holds control characters: 'a\\"):
        purchases.tidied(["i"], "log", has_times=False)
    write(tmp_path / "tree" / "Shoes" / f"{name}.jpg", b"")
    with pytest.raises(CatwalkError, match=r"the name of .*tree.* holds control characters: rename it"):
        read_tree(tmp_path / "tree")


def test_a_core_below_1_is_refused():
    with pytest.raises(CatwalkError, match="core must be at least 1, got 0"):
        purchases_of([(0, 0, 0)]).core(0)
