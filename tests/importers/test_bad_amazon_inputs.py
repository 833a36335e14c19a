"""What is wrong with Amazon's files is said in one line; nothing is written, and the source stays as it is.

In the expected messages ``{source}`` and ``{dest}`` are the folders, and ``***`` is what another library says.
"""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from amazon_files import WOMEN, Shop, write_release
from image_server import picture

from catwalk.cli.main import main
from catwalk.importers import json_lines

UNDECODED = "remove the file to leave its item out, or give --leave-out-damaged"
SKIP = "--skip-malformed leaves such lines out and counts them"


@dataclass(frozen=True)
class Bad:
    """A way to spoil a source, and what is said of it."""

    name: str
    spoil: Callable[[Path], object] | None
    message: str
    options: tuple[str, ...] = ()


def put(path, content):
    """Overwrite or add a file of the source."""
    data = content if isinstance(content, bytes) else content.encode()
    return lambda source: (source / path).write_bytes(data)


def replace(path, line, text):
    """Replace a line of a file of the source, counted from 1."""

    def spoil(source):
        lines = (source / path).read_bytes().split(b"\n")
        lines[line - 1] = text if isinstance(text, bytes) else text.encode()
        (source / path).write_bytes(b"\n".join(lines))

    return spoil


def pack(path, share=1.0, damage=False):
    """Gzip a file of the source, and keep so much of it, perhaps with a byte that is wrong."""

    def spoil(source):
        data = bytearray(gzip.compress((source / path).read_bytes()))
        if damage:
            data[-6] ^= 255  # of the checksum
        (source / path).write_bytes(data[: int(len(data) * share)])

    return spoil


def drop(path):
    return lambda source: shutil.rmtree(source / path) if (source / path).is_dir() else (source / path).unlink()


RELEASE = [
    Bad("no folder", drop(""), "source: there is no folder {source}"),
    Bad("no images", drop("original/images"), "source: there is no folder {source}/original/images"),
    Bad(
        "no numbered image",
        lambda source: [
            path.rename(path.with_name(f"x{path.name}")) for path in (source / "original/images").iterdir()
        ],
        "{source}/original/images has no image such as 0.jpg",
    ),
    Bad(
        "two images of an item",
        put("original/images/00.png", picture(0, "PNG")),
        "{source}/original/images has two images of item 0: 0.jpg and 00.png",
    ),
    Bad(
        "an image that is none",
        put("original/images/1.PNG", "none"),
        f"image {{source}}/original/images/1.PNG cannot be read: ***; {UNDECODED}",
    ),
    Bad("no training set", drop("trainingset.tsv"), "{source}/trainingset.tsv does not exist"),
    Bad("no test set", drop("testset.tsv"), "{source}/testset.tsv does not exist"),
    Bad(
        "three columns",
        put("testset.tsv", "a\t1\t5.0\n"),
        "{source}/testset.tsv must have 2 columns (user, item) or 4 (user, item, rating, timestamp) with tabs between "
        "them, and no header; its first line has 3",
    ),
    Bad(
        "commas",
        put("trainingset.tsv", "a,1\n"),
        "{source}/trainingset.tsv must have 2 columns (user, item) or 4 (user, item, rating, timestamp) with tabs "
        "between them, and no header; its first line has 1, separated by commas",
    ),
    Bad("empty", put("trainingset.tsv", ""), "{source}/trainingset.tsv must have 2 columns ***; its first line has 1"),
    Bad(
        "a header",
        replace("trainingset.tsv", 1, "user\titem"),
        "{source}/trainingset.tsv, row 1: item 'item' is no number of an image",
    ),
    Bad(
        "a path for an item",
        replace("testset.tsv", 2, "b\t../1"),
        "{source}/testset.tsv, row 2: item '../1' is no number of an image",
    ),
    Bad("no user", replace("testset.tsv", 2, "\t1"), "{source}/testset.tsv, row 2: 'user' is empty"),
    Bad("a ragged row", replace("trainingset.tsv", 3, "b"), "{source}/trainingset.tsv, line 3 has 1 cells ***"),
    Bad("a NUL", replace("trainingset.tsv", 2, "a\0\t1"), "{source}/trainingset.tsv, line 2 holds a NUL byte: ***"),
    Bad(
        "Latin-1", replace("trainingset.tsv", 2, b"J\xfcrgen\t1"), "{source}/trainingset.tsv, line 2 is not UTF-8; ***"
    ),
    Bad(
        "a time that is none",
        put("testset.tsv", "a\t1\t5.0\t10\na\t2\t5.0\tnoon\n"),
        "{source}/testset.tsv, row 2: timestamp 'noon' is no number",
    ),
    Bad(
        "no test purchase left",
        put("testset.tsv", "a\t77\n"),
        "{source}/testset.tsv: 1 of 1 purchases are of items that {source}/original/images does not have, such as "
        "'77'; its ids are like '0'",
    ),
    Bad(
        "classes of other columns",
        put("classes.csv", "image,class\n1,2\n"),
        "{source}/classes.csv lacks the column 'ImageID'; it has image, class",
    ),
    Bad(
        "a class of no item",
        put("classes.csv", "ImageID,ClassNum,ClassStr,Prob\n1.jpg,2,tench,1\n"),
        "{source}/classes.csv, row 1: ImageID '1.jpg' is no number of an image",
    ),
    Bad(
        "two classes of an item",
        put("classes.csv", "ImageID,ClassNum,ClassStr,Prob\n1,0,tench,1\n1,1,goldfish,1\n"),
        "{source}/classes.csv, row 2: item 1 has a second class, 'goldfish' beside 'tench'",
    ),
    Bad(
        "two tables of classes",
        lambda source: [(source / place / "classes.csv").touch() for place in ("", "original")],
        "{source} has two tables of classes, {source}/classes.csv and {source}/original/classes.csv: keep one of them",
    ),
    Bad("dest is not empty", put("../shop", "x"), "{dest} exists and is not a folder: give another folder"),
]

REVIEW = {"reviewerID": "A1", "asin": "B000000001", "unixReviewTime": 864000000, "overall": 5.0}
REVIEWS = [
    Bad("no reviews", drop("reviews"), "{source}/reviews does not exist"),
    Bad("no metadata", drop("metadata"), "{source}/metadata does not exist"),
    Bad("no folder of images", drop("images"), "images: there is no folder {source}/images"),
    Bad("empty reviews", put("reviews", ""), "{source}/reviews is empty"),
    Bad("empty metadata", put("metadata", gzip.compress(b"")), "{source}/metadata is empty"),
    Bad("cut off", pack("reviews", 0.7), "{source}/reviews ends too early: it was not downloaded whole"),
    Bad(
        "cut off in the metadata",
        pack("metadata", 0.9),
        "{source}/metadata ends too early: it was not downloaded whole",
    ),
    Bad("damaged", pack("reviews", damage=True), "{source}/reviews cannot be read: ***"),
    Bad(
        "swapped",
        replace("metadata", 1, json.dumps(REVIEW)),
        "metadata: {source}/metadata holds no metadata of items; ***",
    ),
    Bad(
        "no reviews in it",
        replace("reviews", 1, '{"asin": "B1", "title": "x"}'),
        "reviews: {source}/reviews holds no reviews; the fields of its first record are asin, title",
    ),
    Bad(
        "another release",
        replace("reviews", 1, '{"user_id": "A", "parent_asin": "B", "timestamp": 1}'),
        "reviews: {source}/reviews is of the release of 2023, and the metadata are of that of 2014",
    ),
    Bad("no JSON", replace("reviews", 3, '{"asin": '), "{source}/reviews, line 3 is no JSON object: ***; " + SKIP),
    Bad("a list", replace("reviews", 3, "[1, 2]"), "{source}/reviews, line 3 holds no object but '[1, 2]'; " + SKIP),
    Bad("Latin-1", replace("reviews", 4, b'{"a": "\xfc"}'), "{source}/reviews, line 4 is no JSON object: ***; " + SKIP),
    Bad(
        "no user",
        replace("reviews", 5, json.dumps(REVIEW | {"reviewerID": None})),
        "{source}/reviews, line 5 is no review: it needs texts in 'asin' and 'reviewerID'; " + SKIP,
    ),
    Bad(
        "a user with a line break",
        replace("reviews", 5, json.dumps(REVIEW | {"reviewerID": "A\n1"})),
        "{source}/reviews, line 5 is no review: it needs texts in 'asin' and 'reviewerID'; " + SKIP,
    ),
    Bad(
        "no time",
        replace("reviews", 6, json.dumps(REVIEW | {"unixReviewTime": "noon"})),
        "{source}/reviews, line 6 has no time in 'unixReviewTime' but 'noon'; " + SKIP,
    ),
    Bad(
        "a time of no era in any unit",
        replace("reviews", 6, json.dumps(REVIEW | {"unixReviewTime": 86400000000})),
        "{source}/reviews, line 6 has no time in 'unixReviewTime' but '86400000000'; " + SKIP,
    ),
    Bad(
        "code in the metadata",
        replace("metadata", 2, "{'asin': __import__('os').getcwd()}"),
        "{source}/metadata, line 2 is no JSON object: ***; " + SKIP,
    ),
    Bad(
        "nested too deeply",
        replace("metadata", 2, "{'asin': " + "[" * 5000),
        "{source}/metadata, line 2 is no JSON object: ***; " + SKIP,
    ),
    Bad(
        "an id that leads elsewhere",
        replace("metadata", 2, "{'asin': '../../etc/passwd', 'categories': []}"),
        "{source}/metadata, line 2 has no id of an item in 'asin' but '../../etc/passwd'; " + SKIP,
    ),
    Bad(
        "a line without an end",
        replace("metadata", 2, "{'asin': '" + "x" * 70_000),
        "{source}/metadata has a line longer than 30,000 bytes: is it the file?",
    ),
    Bad(
        "no such category",
        None,
        "category: no item of {source}/metadata has a path that begins with 'Clothing > Wome'; the most frequent "
        "beginnings are Sports (***); Clothing, Shoes & Jewelry > Women (***",
        ("--category=Clothing > Wome",),
    ),
    Bad(
        "a hole in the category",
        None,
        "category must be names with > between them, such as 'Clothing > Women', got 'Clothing > > Women'",
        ("--category=Clothing > > Women",),
    ),
    Bad("level 0", None, "level must be at least 1, got 0", ("--level=0",)),
    Bad("core 0", None, "core must be at least 1, got 0", ("--core=0",)),
    Bad("core too large", None, "{source}/reviews: no purchase is left (***", ("--core=99",)),
    Bad("no requests", None, "requests_per_second must be above 0, got 0", ("--requests_per_second=0",)),
    Bad(
        "images and downloads",
        None,
        "downloads: nothing is fetched where images are given; leave one of the two out",
        ("--downloads=x",),
    ),
    Bad("a rating that is none", None, "min_rating: expected ***, got many", ("--min_rating=many",)),
    Bad(
        "no stars",
        replace("reviews", 7, json.dumps(REVIEW | {"overall": "five"})),
        "{source}/reviews, line 7 has no number of stars in 'overall' but 'five'; " + SKIP,
        ("--min_rating=2",),
    ),
    Bad(
        "an image that is none",
        lambda source: [path.write_bytes(b"none") for path in (source / "images").iterdir()],
        "17 of 17 images cannot be read, all listed above; the first: image {source}/images/*** cannot be read: ***; "
        "remove the files to leave their items out, or give --leave-out-damaged",
    ),
    Bad("dest is not empty", put("../shop", "x"), "{dest} exists and is not a folder: give another folder"),
]


def write_reviews(source):
    shop = Shop(0)
    # Its second item is on sale, so that what replaces it in a test is missed by nobody.
    shop.reviews[:10] = [("A0001", shop.items[0][0], 10_000, 5)] * 10
    source.mkdir()
    for name, path in shop.write(source, "2014", compress=False).items():
        path.rename(source / name)
    shop.write_images(source / "images")


def tree_of(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


CASES = [("amazon-release", bad) for bad in RELEASE] + [("amazon-reviews", bad) for bad in REVIEWS]


@pytest.mark.parametrize(("kind", "bad"), CASES, ids=[f"{kind}, {bad.name}" for kind, bad in CASES])
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_touched(tmp_path, capsys, monkeypatch, kind, bad):
    monkeypatch.setattr(json_lines, "BLOCK", 5000)
    monkeypatch.setattr(json_lines, "LONGEST_LINE", 30_000)
    source, dest = tmp_path / "source", tmp_path / "shop"
    if kind == "amazon-release":
        write_release(source, range(6), [("a", 1), ("b", 2), ("b", 3)], [("a", 2), ("b", 4)])
        arguments = [str(source), str(dest)]
    else:
        write_reviews(source)
        files = [f"--{name}={source / name}" for name in ("reviews", "metadata", "images")]
        arguments = [str(dest), *files, f"--category={WOMEN}"]
    if bad.spoil is not None:
        bad.spoil(source)
    before = tree_of(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["data", kind, *arguments, *bad.options])
    assert caught.value.code == 2
    *bars, line = capsys.readouterr().err.splitlines()
    expected = re.escape(bad.message.format(source=source, dest=dest)).replace(re.escape("***"), ".+")
    assert re.fullmatch(f"catwalk: error: {expected}", line)
    assert not any("rror" in bar for bar in bars)
    assert tree_of(tmp_path) == before
