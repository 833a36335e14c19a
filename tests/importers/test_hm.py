"""H&M's Kaggle layout, with its quirks."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from publishers import ARTICLES, TRANSACTIONS, picture, tree_of, write_csv, write_hm

from catwalk.importers.hm import hm, parse_day
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.decoding import decode
from catwalk.shop.images import load_images
from catwalk.shop.interactions import Interactions


@pytest.fixture
def source(tmp_path):
    return write_hm(tmp_path / "source")


def left_out(dest):
    return {
        cause: count for cause, count in json.loads((dest / "dataset.json").read_text())["left_out"].items() if count
    }


def rows(dest):
    return [tuple(line.split(",")) for line in (dest / "interactions.csv").read_text().splitlines()[1:]]


def test_the_folder_reads_back(source, tmp_path, capsys):
    hm(source, tmp_path / "shop")
    catalogue = Catalogue.read(tmp_path / "shop")
    assert catalogue.name == "H&M"
    assert catalogue.item_ids == tuple(ARTICLES)
    assert [catalogue.category_names[number] for number in catalogue.categories] == [
        category for _, category, _ in ARTICLES.values()
    ]
    for item, image in zip(catalogue.item_ids, catalogue.images, strict=True):
        assert image == f"images/{item[:3]}/{item}.jpg"
        assert (tmp_path / "shop" / image).read_bytes() == (source / image).read_bytes()
    assert rows(tmp_path / "shop") == [(user, item, day) for day, user, item in TRANSACTIONS]
    assert len(Interactions.read(catalogue)) == 8
    info = json.loads((tmp_path / "shop" / "dataset.json").read_text())
    assert info["counts"]["per_category"]["Vest top"] == {"items": 2, "interactions": 4}
    assert info["fingerprint"] == catalogue.fingerprint
    assert "not to be passed on" in info["licence"]
    assert "3 users with 2.67 purchases each" in capsys.readouterr().out


@pytest.mark.parametrize(
    "write",
    [
        lambda path, text: path.write_bytes(text.replace("\n", "\r\n").encode()),
        lambda path, text: path.write_bytes(b"\xef\xbb\xbf" + text.encode()),
        lambda path, text: path.write_text(text.replace("5-pocket", '""5-pocket""\nand a long,\r\nlong')),
        lambda path, text: path.write_text(text + "\n"),
        lambda path, text: path.write_text("".join(f"{line},more\n" for line in text.splitlines())),
    ],
    ids=["CRLF", "BOM", "line breaks in descriptions", "an empty line at the end", "another column"],
)
def test_forms_of_the_tables_make_no_difference(source, tmp_path, write):
    hm(source, tmp_path / "plain")
    for name in ("articles.csv", "transactions_train.csv"):
        write(source / name, (source / name).read_text())
    hm(source, tmp_path / "other")
    assert tree_of(tmp_path / "other") == tree_of(tmp_path / "plain")


def test_articles_without_photograph_or_purchase_are_left_out_and_counted(source, tmp_path):
    (source / "images" / "010" / "0108775015.jpg").unlink()
    with (source / "articles.csv").open("a") as file:
        file.write("0999999001,Never bought,Hat,Ladieswear,\n")
    (source / "images" / "099").mkdir()
    (source / "images" / "099" / "0999999001.jpg").write_bytes(picture(9))
    with (source / "transactions_train.csv").open("a") as file:
        file.write("2018-09-24,00ab,0000000001,0.1,2\n")
    hm(source, tmp_path / "shop")
    assert Catalogue.read(tmp_path / "shop").item_ids == tuple(ARTICLES)[1:]
    assert left_out(tmp_path / "shop") == {
        "articles without a photograph": 1,
        "articles that nobody bought": 1,
        "purchases of other articles": 1,
        "purchases of articles without a photograph": 3,
    }
    assert len(rows(tmp_path / "shop")) == 5


def test_the_first_of_repeated_purchases_stays(source, tmp_path):
    with (source / "transactions_train.csv").open("a") as file:
        file.write("2018-09-20,00ab,0108775015,0.1,1\n2018-09-19,00cd,0126589003,0.1,1\n")
    hm(source, tmp_path / "shop")
    assert left_out(tmp_path / "shop") == {"repeated purchases of an item by the same user": 2}
    kept = rows(tmp_path / "shop")
    assert kept[0] == ("00ab", "0108775015", "2018-09-20")
    assert kept[-1] == ("00cd", "0126589003", "2018-09-19")
    assert ("00cd", "0126589003", "2018-09-20") not in kept


def test_group_dates_and_another_category_column(source, tmp_path):
    hm(source, tmp_path / "shop", "prod_name", group="Ladieswear", first_day="2018-09-21", last_day="2018-09-22")
    expected = [
        (user, item, day)
        for day, user, item in TRANSACTIONS
        if ARTICLES[item][2] == "Ladieswear" and "2018-09-21" <= day <= "2018-09-22"
    ]
    assert rows(tmp_path / "shop") == expected
    catalogue = Catalogue.read(tmp_path / "shop")
    assert set(catalogue.category_names) == {ARTICLES[item][0] for _, item, _ in expected}
    assert left_out(tmp_path / "shop") == {
        "articles of other groups": 1,
        "articles that nobody bought": 1,
        "purchases of other articles": 1,
        "purchases outside the dates": 3,
    }


def test_a_shop_of_random_purchases_counts_as_plain_loops_do(source, tmp_path):
    random = np.random.default_rng(3)
    log = [
        (f"2020-01-{random.integers(1, 9):02d}", f"u{random.integers(9)}", list(ARTICLES)[random.integers(5) % 4])
        for _ in range(80)
    ]
    write_csv(source / "transactions_train.csv", ("t_dat", "customer_id", "article_id"), log)
    hm(source, tmp_path / "shop", core=3)
    first = {}
    for place, (day, user, item) in enumerate(log):
        if (user, item) not in first or (day, place) < first[user, item]:
            first[user, item] = (day, place)
    left = dict(first)
    while True:
        users, items = Counter(user for user, _ in left), Counter(item for _, item in left)
        smaller = {pair: when for pair, when in left.items() if users[pair[0]] >= 3 and items[pair[1]] >= 3}
        if len(smaller) == len(left):
            break
        left = smaller
    expected = [(user, item, day) for (user, item), (day, _) in sorted(left.items(), key=lambda entry: entry[1][1])]
    assert 0 < len(expected) < len(first) < 80
    assert rows(tmp_path / "shop") == expected
    assert left_out(tmp_path / "shop") == {
        "articles that nobody bought": 5 - len({item for _, item in left}),
        "repeated purchases of an item by the same user": 80 - len(first),
        "purchases of users or items with fewer than 3 (repeated until nothing changes)": len(first) - len(left),
    }


def test_truncated_photographs_are_taken_where_that_is_allowed(source, tmp_path):
    path = "images/010/0108775015.jpg"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 48, 3), dtype=np.uint8)).save(source / path)
    content = (source / path).read_bytes()
    (source / path).write_bytes(content[: len(content) // 2])
    hm(source, tmp_path / "shop", allow_truncated=True)
    info = json.loads((tmp_path / "shop" / "dataset.json").read_text())
    assert info["allow_truncated"] is True
    assert info["counts"]["truncated_images"] == 1
    catalogue = Catalogue.read(tmp_path / "shop")
    assert (catalogue.folder / path).read_bytes() == content[: len(content) // 2]
    levels = load_images(catalogue.folder, [path], None)
    assert np.array_equal(levels[0], decode(source / path, allow_truncated=True))


def test_the_first_day_of_all_counts_is_a_day():
    assert parse_day("1970-01-01", "first_day") == np.datetime64("1970-01-01")
    assert parse_day(None, "first_day") is None
