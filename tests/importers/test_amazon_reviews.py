"""Amazon's reviews in the layouts of three releases, against plain loops over the same files."""

import ast
import json
import signal
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest
from amazon_files import LAYOUTS, ROOT, WOMEN, Shop
from image_server import ImageServer, picture

from catwalk.cli.main import main
from catwalk.errors import CatwalkError
from catwalk.importers import amazon_reviews as module
from catwalk.importers import download
from catwalk.importers.amazon_reviews import amazon_reviews, read_metadata
from catwalk.importers.json_lines import Records, parse_literal
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.columns import read_table


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rows(path, *columns):
    table = read_table(path, columns)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def check(dest, shop, release, expected):
    """Check a dataset folder against what plain loops say."""
    items, purchases, left_out = expected
    info = json.loads((dest / "dataset.json").read_text())
    assert {cause: count for cause, count in info["left_out"].items() if count} == left_out
    assert rows(dest / "items.csv", "item_id", "category") == [item[:2] for item in items]
    titles = read_table(dest / "items.csv", [], ["title"]).column("title").to_pylist()
    assert [title or "" for title in titles] == [item[2] for item in items]
    milliseconds = ".007" if release == "2023" else ""
    assert rows(dest / "interactions.csv", "user_id", "item_id", "timestamp") == [
        (user, item, f"{iso_day(day)}T00:00:00{milliseconds}") for user, item, day in purchases
    ]
    for item, path in rows(dest / "items.csv", "item_id", "image"):
        assert path.startswith(f"images/{item}.")
    assert len(Catalogue.read(dest)) == len(items) > 5
    assert info["counts"]["interactions"] == len(purchases) > 50
    assert release in info["source"]
    lines = sum(count for cause, count in left_out.items() if not cause.startswith(("items", "metadata")))
    assert lines + len(purchases) == len(shop.reviews)


def iso_day(day):
    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()


@pytest.mark.parametrize(
    ("release", "seed", "options"),
    [
        ("2014", 0, {"core": 3}),
        ("2018", 1, {"core": 5, "min_rating": 2}),
        ("2023", 2, {"core": 4, "one_pass": True, "level": 1}),
        ("2014", 3, {"core": 1, "level": 3, "min_rating": 4}),
        ("2023", 4, {"core": 5}),
    ],
)
def test_items_purchases_and_counts_equal_plain_loops(tmp_path, monkeypatch, release, seed, options):
    monkeypatch.setattr(module, "BATCH", 64)
    shop = Shop(seed)
    files = shop.write(tmp_path, release, compress=seed != 3)
    shop.write_images(tmp_path / "images")
    dest = tmp_path / "dest"
    amazon_reviews(dest, **files, images=tmp_path / "images", category=WOMEN, **options)
    check(dest, shop, release, shop.expected(**options))
    for item, path in rows(dest / "items.csv", "item_id", "image"):
        ending, form = [("jpg", "JPEG"), ("png", "PNG"), ("jpeg", "JPEG")][int(item[1:]) % 3]
        assert path.endswith(f".{ending}")
        assert (dest / path).read_bytes() == picture(int(item[1:]), form)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "is_public", lambda address: True)
    monkeypatch.setattr(download, "FIRST_WAIT", 0.005)
    with ImageServer() as server:
        yield server


def fetching(shop, server, tmp_path, release="2023"):
    """Return the options of an import that fetches; the server knows the image of every item."""
    server.answers = {f"/{name}.jpg": [picture(int(name[1:]))] for name, *_ in shop.items}
    files = shop.write(tmp_path, release, lambda item: server.url(f"/{item}.jpg"))
    return files | {"category": WOMEN, "requests_per_second": 1e6}


@pytest.mark.parametrize("release", ["2014", "2018", "2023"])
@pytest.mark.parametrize("one_pass", [False, True])
def test_the_core_is_that_without_the_items_whose_image_is_gone(tmp_path, server, release, one_pass):
    shop = Shop(5)
    options = fetching(shop, server, tmp_path, release)
    candidates = [item for item, *_ in shop.expected(5, one_pass)[0]]
    gone = candidates[::5]
    for item, answer in zip(gone, (404, 410, picture(0, "GIF", (1, 1))), strict=False):
        server.answers[f"/{item}.jpg"] = [answer]
    gone = gone[:3]
    dest = tmp_path / "dest"
    amazon_reviews(dest, core=5, one_pass=one_pass, **options)
    expected = shop.expected(5, one_pass, gone=gone)
    assert len(expected[0]) < len(candidates) - (0 if one_pass else len(gone) - 1)
    check(dest, shop, release, expected)
    assert server.asked == {f"/{item}.jpg": 1 for item in candidates}  # and no other item
    for item, path in rows(dest / "items.csv", "item_id", "image"):
        assert (dest / path).read_bytes() == picture(int(item[1:]))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["dest"]


def test_after_failures_the_same_command_goes_on(tmp_path, server):
    shop = Shop(6)
    options = fetching(shop, server, tmp_path)
    first, second, *_ = [item for item, *_ in shop.expected(5)[0]]
    server.answers[f"/{first}.jpg"] = [500] * 5 + server.answers[f"/{first}.jpg"]
    server.answers[f"/{second}.jpg"] = [403, *server.answers[f"/{second}.jpg"]]
    dest = tmp_path / "dest"
    with pytest.raises(CatwalkError, match=r"^2 of \d+ images could not be fetched \(1 status \d+; 1 status \d+\); "):
        amazon_reviews(dest, **options)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [".dest.downloads"]
    asked = dict(server.asked)
    amazon_reviews(dest, **options)
    asked[f"/{first}.jpg"] += 1
    asked[f"/{second}.jpg"] += 1
    assert server.asked == asked
    check(dest, shop, "2023", shop.expected(5))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["dest"]


def test_items_can_be_left_out_whose_image_cannot_be_fetched(tmp_path, server, capsys):
    shop = Shop(6)
    options = fetching(shop, server, tmp_path)
    items = [item for item, *_ in shop.expected(5)[0]]
    server.answers[f"/{items[0]}.jpg"] = [403]
    dest, downloads = tmp_path / "dest", tmp_path / "kept"
    amazon_reviews(dest, leave_out_failed=True, downloads=downloads, **options)
    expected = shop.expected(5, gone=items[:1])
    lost = "items whose image could not be fetched (status 403)"
    expected[2][lost] = expected[2].pop("items whose image is gone")
    check(dest, shop, "2023", expected)
    assert f"1 {lost}" in " ".join(capsys.readouterr().out.split())
    assert len(list(downloads.iterdir())) == len(items) - 1  # a folder of the user's stays


SCRIPT = """
import sys
from catwalk.importers import download
from catwalk.cli.main import main
download.is_public = lambda address: True
download.THREADS = 2
main(sys.argv[1:])
"""


def test_a_killed_import_goes_on_and_equals_an_uninterrupted_one(tmp_path, server):
    shop = Shop(7)
    options = fetching(shop, server, tmp_path)
    amazon_reviews(tmp_path / "whole", **options)
    items = list(server.asked)
    server.asked.clear()
    saved = dict(server.answers)
    process = None

    def kill(handler):
        process.kill()
        handler.close_connection = True

    server.answers[items[len(items) // 2]] = [kill, *saved[items[len(items) // 2]]]
    dest = tmp_path / "dest"
    command = ["data", "amazon-reviews", str(dest), *(f"--{name}={value}" for name, value in options.items())]
    project = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *command], cwd=project, stderr=subprocess.DEVNULL)
    assert process.wait(60) == -signal.SIGKILL
    assert not dest.exists()
    there = {path.stem for path in (tmp_path / ".dest.downloads").iterdir() if path.suffix == ".jpg"}
    server.asked.clear()
    server.answers = saved
    main(command)
    missing = [path for path in items if download.file_stem(server.url(path)) not in there]
    assert 0 < len(missing) < len(items)
    assert server.asked == dict.fromkeys(missing, 1)
    assert contents(dest) == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["dest", "whole"]


def test_the_same_command_writes_the_same_bytes_for_every_size_of_a_batch(tmp_path, monkeypatch):
    shop = Shop(8)
    files = shop.write(tmp_path, "2018")
    shop.write_images(tmp_path / "images")
    for batch in (1, 10_000):
        monkeypatch.setattr(module, "BATCH", batch)
        amazon_reviews(tmp_path / str(batch), **files, images=tmp_path / "images", category=WOMEN)
    assert contents(tmp_path / "1") == contents(tmp_path / "10000")


@pytest.mark.parametrize(
    ("release", "path", "category"),
    [
        ("2014", [ROOT, "Women", "Shoes", "Boots"], "Boots"),
        ("2018", [ROOT, "Women", "Shoes", "<div>Machine wash</div>", "Boots"], "Shoes"),
        ("2018", [ROOT, "Women", "", "Boots"], "Women"),
        ("2023", [ROOT, "Women", "Caf\u00e9\u200b\x00  Wear"], "Café Wear"),
        ("2023", [ROOT, "Women's"], None),
        ("2023", [ROOT], None),
        ("2023", None, None),
    ],
)
def test_the_category_is_a_name_of_the_path(tmp_path, release, path, category):
    record = {"2014": {"asin": "B1", "categories": [["Sports"], path]}, "2018": {"asin": "B1", "category": path}}
    record = record.get(release, {"parent_asin": "B1", "categories": path})
    other = {"parent_asin" if release == "2023" else "asin": "B2", "categories": [ROOT, "Women"], "title": "x"}
    (tmp_path / "meta").write_text(f"{json.dumps(record)}\n{json.dumps(other)}\n")
    goods = read_metadata(tmp_path / "meta", [ROOT, "Women"], 2)
    assert dict(zip(goods.ids, goods.categories, strict=True)) == ({"B1": category} if category else {}) | {
        "B2": "Women"
    }


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"imUrl": "http://a/1.jpg"}, "http://a/1.jpg"),
        ({"imUrl": "http://a/icons/no-img-sm._CB192198896_.gif"}, ""),
        ({"imageURL": ["http://a/s.jpg"], "imageURLHighRes": ["http://a/l.jpg", "http://a/2.jpg"]}, "http://a/l.jpg"),
        ({"imageURL": ["http://a/s.jpg"], "imageURLHighRes": []}, "http://a/s.jpg"),
        ({"image": ["http://a/s.jpg"]}, "http://a/s.jpg"),
        ({"images": [{"hi_res": "h", "large": "l", "thumb": "t"}]}, "l"),
        ({"images": [{"large": "other", "variant": "PT01"}, {"hi_res": "h", "large": None, "variant": "MAIN"}]}, "h"),
        ({"images": [{"thumb": "t", "large": None}, "junk"]}, "t"),
        ({"images": []}, ""),
        ({"images": [{}]}, ""),
        ({"imageURL": [3]}, ""),
        ({"imUrl": None}, ""),
    ],
)
def test_the_first_image_is_taken(fields, url):
    assert module._image_url(fields) == url


def test_pages_that_were_taken_for_titles_are_left_out(tmp_path):
    titles = ["Dress", "var aPageStart = (new Date()).getTime();"]
    lines = [json.dumps({"asin": f"B{row}", "category": ["A"], "title": title}) for row, title in enumerate(titles)]
    (tmp_path / "meta").write_text("\n".join(lines))
    goods = read_metadata(tmp_path / "meta", ["A"], 1)
    assert goods.ids == ["B0"]
    assert goods.left_out == {"items whose metadata are a page's code": 1}


def test_malformed_lines_can_be_left_out_and_are_counted(tmp_path):
    shop = Shop(9)
    files = shop.write(tmp_path, "2018", compress=False)
    shop.write_images(tmp_path / "images")
    for path in files.values():
        lines = path.read_text().splitlines()
        lines[3:3] = ["{broken", "", "[1]", '{"asin": 3}', '{"asin": "B", "reviewerID": "A", "unixReviewTime": "x"}']
        lines.insert(0, lines.pop())  # the file's first record is a sound one
        path.write_text("\r\n".join(lines))
    metadata = files["metadata"].read_text().splitlines()
    shop.items.insert(0, shop.items.pop())
    shop.reviews.insert(0, shop.reviews.pop())
    files["metadata"].write_text("\n".join(line for line in metadata if "unixReviewTime" not in line))
    amazon_reviews(tmp_path / "dest", **files, images=tmp_path / "images", category=WOMEN, skip_malformed=True)
    items, purchases, left_out = shop.expected(5)
    left_out |= {"malformed lines of metadata": 3, "malformed lines of reviews": 4}
    info = json.loads((tmp_path / "dest" / "dataset.json").read_text())
    assert {cause: count for cause, count in info["left_out"].items() if count} == left_out
    assert [row[0] for row in rows(tmp_path / "dest" / "items.csv", "item_id")] == [item[0] for item in items]
    assert info["counts"]["interactions"] == len(purchases)


LITERALS = [
    {"a": "plain", "b": 1.5, "c": [["x", "y"], []], "d": {}},
    {"a": "it's", "b": 'a "word"', "c": "both ' and \"", "d": "new\nline", "e": "tab\there"},
    {"a": "Zürich", "b": "\U0001f600 \\ /", "c": True, "d": None, "e": -1e-7},
    {"it's": "'", "b": '"', "c": '""', "d": "''", "e": "', '", "f": '", "'},
    {"a": "", "b": "{'x': \"y\"}", "c": "#", "d": "true", "e": 10**30},
    {"a": '", "b": "'},
]


@pytest.mark.parametrize("value", LITERALS)
@pytest.mark.parametrize("spelling", [repr, ascii])
def test_literals_are_what_python_reads(value, spelling):
    line = spelling(value).encode()
    assert parse_literal(line) == ast.literal_eval(line.decode()) == value


@pytest.mark.parametrize(
    "line",
    [
        b"{'a': __import__('os').getcwd()}",
        b"{'a': 'b}",
        b"{'a': nan}",
        b"{'a': \"b'}",
        b'{\'a\': "b"}"',
        b"{[]: 1}",
        b"[" * 9999,
    ],
)
def test_what_is_no_literal_is_refused(line):
    with pytest.raises(ValueError, match=r".+"):
        parse_literal(line)


def test_records_cross_the_blocks_in_which_a_file_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("catwalk.importers.json_lines.BLOCK", 7)
    values = [{"a": "x" * length} for length in range(20)]
    (tmp_path / "file").write_text("\n\n".join(map(json.dumps, values)))
    with Records(tmp_path / "file") as records:
        assert list(records) == values
    assert records.line == 39


def test_the_three_layouts_are_told_apart(tmp_path):
    shop = Shop(10)
    for release in LAYOUTS:
        files = shop.write(tmp_path, release)
        assert read_metadata(files["metadata"], [ROOT, "Women"], 2).release.year == release
