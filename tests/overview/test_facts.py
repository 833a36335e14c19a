"""The facts of random shops, against counting in plain Python."""

import statistics
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catwalk.overview import facts
from catwalk.overview.facts import CategoryFacts, ImageFacts, LabelFacts, PurchaseFacts, SplitFacts
from catwalk.overview.time_facts import TimeFacts, ties
from catwalk.overview.weaknesses import weaknesses
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.interactions import Interactions
from catwalk.shop.labelled_images import LabelledImages

Pairs = list[tuple[int, int, int]]
"""User, item and timestamp of every purchase."""


def make_catalogue(categories: list[int], num_categories: int) -> Catalogue:
    return Catalogue(
        folder=Path("shop"),
        name="Shop",
        item_ids=tuple(f"i{number}" for number in range(len(categories))),
        images=tuple(f"{number}.png" for number in range(len(categories))),
        categories=np.array(categories, dtype=np.int64),
        category_names=tuple(f"c{number}" for number in range(num_categories)),
    )


def make_interactions(pairs: Pairs, num_users: int) -> Interactions:
    users, items, timestamps = np.array(pairs, dtype=np.int64).T
    ids = tuple(f"u{number}" for number in range(num_users))
    return Interactions(ids, users, items, timestamps, num_repeats=3, time_type=pa.int64())


def timed(timestamps: list[int] | np.ndarray, time_type: pa.DataType | None) -> Interactions:
    """Return purchases of one user, of an item each."""
    number = np.arange(len(timestamps))
    return Interactions(("u",), np.zeros_like(number), number, np.asarray(timestamps), 0, time_type)


@st.composite
def shops(draw: st.DrawFn) -> tuple[Catalogue, Interactions]:
    """Draw a shop in which every user buys, and some items or categories may be empty."""
    num_categories = draw(st.integers(1, 6))
    categories = draw(st.lists(st.integers(0, num_categories - 1), min_size=1, max_size=14))
    num_users = draw(st.integers(1, 7))
    bought = [draw(st.sets(st.integers(0, len(categories) - 1), min_size=1, max_size=12)) for _ in range(num_users)]
    pairs = [(user, item, draw(st.integers(0, 3))) for user, items in enumerate(bought) for item in items]
    return make_catalogue(categories, num_categories), make_interactions(draw(st.permutations(pairs)), num_users)


@given(shops())
@settings(max_examples=60, deadline=None)
def test_purchases_are_those_counted_one_by_one(shop: tuple[Catalogue, Interactions]) -> None:
    catalogue, interactions = shop
    found = PurchaseFacts.of(catalogue, interactions)
    per_user = list(Counter(interactions.users.tolist()).values())
    bought = Counter(interactions.items.tolist())
    per_item = sorted((bought[item] for item in range(len(catalogue))), reverse=True)
    assert (found.users, found.purchases, found.repeats) == (len(per_user), len(interactions), 3)
    assert found.density == pytest.approx(len(interactions) / (len(per_user) * len(catalogue)))
    assert found.per_user_mean == pytest.approx(statistics.fmean(per_user))
    assert (found.per_user_median, found.per_user_most) == (statistics.median(per_user), max(per_user))
    assert found.per_item_mean == pytest.approx(statistics.fmean(per_item))
    assert (found.per_item_median, found.per_item_most) == (statistics.median(per_item), per_item[0])
    assert found.never_bought == per_item.count(0)
    assert found.top_items == max(1, round(len(catalogue) / 5))
    assert found.top_share == pytest.approx(sum(per_item[: found.top_items]) / sum(per_item))
    assert 2 * sum(per_item[: found.half_items]) >= sum(per_item) > 2 * sum(per_item[: found.half_items - 1])
    for group in found.user_groups:
        assert group.users == sum(group.first <= count <= (group.last or 99) for count in per_user)
        assert group.share == pytest.approx(group.users / len(per_user))
    assert sum(group.users for group in found.user_groups) == len(per_user)


@given(shops())
@settings(max_examples=60, deadline=None)
def test_categories_and_pairs_are_those_that_the_rules_admit(shop: tuple[Catalogue, Interactions]) -> None:
    catalogue, interactions = shop
    with mock.patch.object(facts, "MIN_ITEMS", 2):
        found = facts.category_facts(catalogue, interactions)
    of_item = catalogue.categories.tolist()
    items = Counter(of_item)
    bought = Counter(of_item[item] for item in interactions.items.tolist())
    rate = {category: bought[category] / items[category] for category in items}
    large = [category for category in items if items[category] >= 2]
    middle = statistics.median(rate[category] for category in large) if large else 0
    assert Counter(category.name for category in found) == Counter(catalogue.category_names)
    reached = 0
    for category, following in zip(found, [*found[1:], None], strict=True):
        number = catalogue.category_names.index(category.name)
        assert (category.items, category.purchases) == (items[number], bought[number])
        assert category.share == pytest.approx(bought[number] / len(interactions))
        assert category.per_item == (pytest.approx(rate[number]) if items[number] else None)
        assert category.is_source == (number in large and rate[number] < middle)
        assert category.is_target == (number in large and 2 * reached < len(interactions))
        assert following is None or (following.purchases, following.items) <= (category.purchases, category.items)
        reached += bought[number]

    sources = [category for category in found if category.is_source]
    targets = [category for category in found if category.is_target]
    admitted = {}
    for source in sources:
        ratios = {
            (source.name, target.name): source.per_item / target.per_item
            for target in targets
            if source.per_item < target.per_item
        }
        admitted.update(sorted(ratios.items(), key=lambda ratio: ratio[1])[:2])
    pairs = facts.promising_pairs(found, count=3)
    assert len(pairs) == min(3, len(admitted))
    ratios = [pair.ratio for pair in pairs]
    assert ratios == pytest.approx(sorted(admitted.values())[: len(pairs)])
    assert ratios == [pytest.approx(admitted[pair.source.name, pair.target.name]) for pair in pairs]


def test_the_least_popular_source_goes_first_and_fills_no_list_alone() -> None:
    def category(name: str, per_item: float, items: int = 30, is_source: bool = False) -> CategoryFacts:
        return CategoryFacts(name, items, int(items * per_item), 0.1, per_item, is_source, not is_source)

    targets = [category("six", 6), category("ten", 10), category("eight", 8)]
    sources = [category("two", 2, is_source=True), category("one", 1, is_source=True)]
    larger = category("one of 40", 1, 40, is_source=True)
    found = facts.promising_pairs([*targets, *sources, larger], count=5)
    assert [(pair.source.name, pair.target.name) for pair in found] == [
        *(("one of 40", "ten"), ("one", "ten"), ("one of 40", "eight"), ("one", "eight"), ("two", "ten"))
    ]
    assert [pair.ratio for pair in found] == [0.1, 0.1, 0.125, 0.125, 0.2]


@given(shops())
@settings(max_examples=60, deadline=None)
def test_ties_are_those_found_user_by_user(shop: tuple[Catalogue, Interactions]) -> None:
    _, interactions = shop
    times: dict[int, list[int]] = {}
    for user, timestamp in zip(interactions.users.tolist(), interactions.timestamps.tolist(), strict=True):
        times.setdefault(user, []).append(timestamp)
    several = [own for own in times.values() if len(own) > 1]
    tied = sum(own.count(max(own)) > 1 for own in several)
    assert ties(interactions) == (len(several), tied)


def test_without_purchases_the_largest_category_is_first() -> None:
    found = facts.category_facts(make_catalogue([0, 2, 2, 1, 2, 1], 4), None)
    assert [(category.name, category.items) for category in found] == [("c2", 3), ("c1", 2), ("c0", 1), ("c3", 0)]
    assert {(category.purchases, category.share, category.per_item) for category in found} == {(None, None, None)}
    assert facts.promising_pairs(found) == ()


def test_of_equally_popular_categories_the_larger_is_first_and_half_of_the_purchases_is_enough() -> None:
    catalogue = make_catalogue([0] * 30 + [1] * 40, 2)
    pairs = [(0, item, 0) for item in range(20)] + [(0, item, 0) for item in range(30, 50)]
    found = facts.category_facts(catalogue, make_interactions(pairs, 1))
    assert [(category.name, category.purchases) for category in found] == [("c1", 20), ("c0", 20)]
    assert [(category.is_source, category.is_target) for category in found] == [(True, True), (False, False)]


def test_a_single_category_has_nothing_to_be_led_to() -> None:
    catalogue = make_catalogue([0] * 40, 1)
    found = facts.category_facts(catalogue, make_interactions([(0, item, 0) for item in range(40)], 1))
    assert (found[0].is_source, found[0].is_target) == (False, True)
    assert facts.promising_pairs(found) == ()


SECONDS = {
    "hour": [0, 3599, 3600, 80 * 3600 + 7],
    "day": [0, 86399, 86400, 100 * 86400],
    "week": [0, 604799, 604800, 700 * 86400],
    "month": [0, 30 * 86400, 31 * 86400, 60 * 86400, 2900 * 86400],
    "year": [0, 364 * 86400, 366 * 86400, 30 * 366 * 86400],
}
"""Seconds after the first of January 2004, a Thursday, by the period that they should be counted in."""


def beginning(period: str, moment: datetime) -> str:
    """Return the beginning of a period as ISO 8601 has it, by the calendar of Python."""
    if period == "week":
        days = int(moment.timestamp()) // 86400
        return datetime.fromtimestamp((days - days % 7) * 86400, timezone.utc).strftime("%Y-%m-%d")
    return moment.strftime({"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}[period])


@pytest.mark.parametrize(("unit", "factor"), [("unix seconds", 1), ("unix milliseconds", 1000), ("dates", 10**6)])
@pytest.mark.parametrize("period", SECONDS)
def test_purchases_over_time_are_counted_by_the_calendar(period: str, unit: str, factor: int) -> None:
    start = int(datetime(2004, 1, 1, tzinfo=timezone.utc).timestamp())
    seconds = [start + offset for offset in SECONDS[period]]
    time_type = pa.timestamp("us", "UTC") if unit == "dates" else pa.int64()
    found = TimeFacts.of(timed([factor * second for second in seconds], time_type))
    assert (found.read_as, found.period) == (unit, period)
    moments = [datetime.fromtimestamp(second, timezone.utc) for second in seconds]
    expected = Counter(beginning(period, moment) for moment in moments)
    assert {edge: count for edge, count in zip(found.edges[:-1], found.counts, strict=True) if count} == expected
    assert found.edges[0] == beginning(period, moments[0])
    assert found.edges[-2] == beginning(period, moments[-1])
    assert found.first == "2004-01-01"
    last = moments[-1].strftime("%Y-%m-%dT%H:%M:%S").removesuffix("T00:00:00")
    assert (found.last, found.different) == (last, len(seconds))


def test_days_are_not_counted_by_the_hour() -> None:
    days = np.array(["2020-02-28", "2020-03-01", "2020-03-01"], dtype="datetime64[us]")
    found = TimeFacts.of(timed(days.astype(np.int64), pa.timestamp("us")))
    assert (found.period, found.first, found.last, found.different) == ("day", "2020-02-28", "2020-03-01", 2)
    assert found.edges == ("2020-02-28", "2020-02-29", "2020-03-01", "2020-03-02")
    assert found.counts == (1, 0, 2)


def test_dates_of_nanoseconds_are_read_as_such() -> None:
    moments = np.array(["2020-02-28T10:00:00.123456789", "2020-03-28"], dtype="datetime64[ns]")
    found = TimeFacts.of(timed(moments.astype(np.int64), pa.timestamp("ns")))
    assert (found.read_as, found.first, found.last) == ("dates", "2020-02-28T10:00:00", "2020-03-28")


@pytest.mark.parametrize(
    "timestamps",
    [
        [3, 1, 2, 2],
        [7],
        list(range(1000)),
        [0, 10**9],
        [0.25, 0.5, 0.5, 1e6],
        [1.5, 1.5],
        [-(10**18), 0, 10**18],
        [631151999, 1600000000],  # the first lies in 1989
    ],
    ids=str,
)
def test_other_numbers_are_counted_in_bars_of_one_width(timestamps: list[float]) -> None:
    values = np.array(timestamps)
    found = TimeFacts.of(timed(values, pa.from_numpy_dtype(values.dtype)))
    assert (found.read_as, found.first, found.last) == ("numbers", min(timestamps), max(timestamps))
    edges, counts = found.edges, found.counts
    assert len(edges) == len(counts) + 1 <= 62
    assert np.diff(edges) == pytest.approx(edges[1] - edges[0])
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        assert count == sum(low <= value < high or value == high == edges[-1] for value in timestamps)
    assert sum(counts) == len(timestamps)


@given(
    st.lists(st.one_of(st.none(), st.tuples(st.integers(1, 3), st.integers(1, 3), st.sampled_from("LP"))), max_size=9)
)
@settings(max_examples=60, deadline=None)
def test_images_are_counted_by_size_and_mode(headers: list[facts.Header | None]) -> None:
    images = [f"{number}.png" for number in range(len(headers))]
    found = ImageFacts.of(images, headers)
    readable = [header for header in headers if header is not None]
    assert found.unreadable == headers.count(None)
    assert found.first_unreadable == (images[headers.index(None)] if None in headers else None)
    assert {(width, height): count for width, height, count in found.sizes} == Counter(
        (width, height) for width, height, _ in readable
    )
    assert found.different_sizes == len({header[:2] for header in readable})
    assert found.modes == Counter(mode for *_, mode in readable)
    for extreme, choose in ((found.smallest, min), (found.largest, max)):
        if not readable:
            assert extreme is None
            continue
        assert extreme is not None
        image, width, height = extreme
        assert headers[images.index(image)][:2] == (width, height)
        assert width * height == choose(width * height for width, height, _ in readable)


def test_what_makes_a_study_weak_is_named() -> None:
    catalogue = make_catalogue([0, 1, 1], 3)
    interactions = make_interactions([(0, 0, 5), (1, 1, 5), (2, 1, 6), (2, 0, 6)], 3)
    labelled = LabelledImages(Path("shop"), ("a", "b"), np.array([0, 2]), np.array([0, 2]), catalogue.category_names)
    categories = facts.category_facts(catalogue, interactions)
    found = weaknesses(
        categories,
        ImageFacts.of(["x", "y", "z"], [(2, 3, "L"), (3, 2, "L"), None]),
        LabelFacts.of(labelled, own_file=True, files=ImageFacts.of(["a"], [(2, 2, "L")])),
        PurchaseFacts.of(catalogue, interactions),
        SplitFacts("leave-one-out", train=3, validation=0, test=1, tested_users=1, cold=1),
        TimeFacts.of(interactions),
        facts.promising_pairs(categories),
    )
    beginnings = [
        "1 user can be tested, fewer than 500",
        "67% of the users have a single purchase",
        "the order in the table decides the test item of 1 user:",
        "1 held-out purchase of items that nobody buys",
        "nobody bought 1 item",
        "no pair of categories is promising",
        "category 'c2' has no item",
        "category 'c0' has a single item",
        "2 categories have no image to train the CNN on: 'c1', 'c2'",
        "1 item image is unreadable, first of all z",
        "item images come in 2 sizes",
    ]
    assert [sentence[: len(start)] for sentence, start in zip(found, beginnings, strict=True)] == beginnings


def test_a_large_even_shop_has_no_weakness_but_its_pairs() -> None:
    catalogue = make_catalogue([item % 2 for item in range(80)], 2)
    pairs = [(user, (user + step) % 80, step) for user in range(600) for step in range(2)]
    interactions = make_interactions(pairs, 600)
    labelled = LabelledImages(Path("shop"), ("a", "b"), np.array([0, 1]), np.array([0, 0]), catalogue.category_names)
    categories = facts.category_facts(catalogue, interactions)
    same = ImageFacts.of(["x", "y"], [(2, 2, "L"), (2, 2, "RGB")])
    found = weaknesses(
        categories,
        same,
        LabelFacts.of(labelled, own_file=False, files=None),
        PurchaseFacts.of(catalogue, interactions),
        SplitFacts("leave-one-out", train=600, validation=0, test=600, tested_users=600, cold=0),
        TimeFacts.of(interactions),
        facts.promising_pairs(categories),
    )
    assert len(found) == 1
    assert found[0].startswith("no pair of categories is promising")


def test_ids_times_shared_photographs_and_the_seen_future_make_a_study_weak() -> None:
    categories = [CategoryFacts("Röcke", 1), CategoryFacts("Ro\u0308cke", 1)]
    images = ImageFacts.of(["a"], [(1, 1, "L")], [["a", "a", "b"], ["c", "c"]])
    purchases = PurchaseFacts.of(make_catalogue([0, 0], 1), make_interactions([(0, 0, 1), (0, 1, 2)], 1))
    split = SplitFacts("leave-one-out", train=9, validation=0, test=600, tested_users=600, cold=0, seen_future=7)
    labels = LabelFacts(True, {}, (), None)
    found = weaknesses(categories, images, labels, purchases, split, None, [], ["a remark"])
    assert "a remark" in found
    assert any(r"the categories 'R\xf6cke' and 'Ro\u0308cke' are two spellings" in line for line in found)
    assert any("5 items share their photograph with others, 3 of them a:" in line for line in found)
    assert any("of 600 tested purchases 7 are earlier" in line and "DateSplit" in line for line in found)
