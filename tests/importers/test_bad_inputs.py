"""What is wrong with a source is said in one line; nothing is written, and the source stays as it is.

In the expected messages ``{source}`` and ``{dest}`` are the folders, and ``***`` is what another library says.
"""

import gzip
import os
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from publishers import picture, shop_options, tree_of, write, write_fashion, write_hm, write_shop, write_tree

from catwalk.cli.main import main

PHOTOGRAPH = "images/010/0108775015.jpg"
UNDECODED = "remove the file to leave its item out, or give --leave-out-damaged"
NO_TIME = (
    "is no time, or not of the kind of those above: numbers, or dates and times such as 2020-01-31 and "
    "2020-01-31T12:00, all or none with a time zone"
)


@dataclass(frozen=True)
class Bad:
    """A way to spoil a source, and what is said of it."""

    name: str
    spoil: Callable[[Path], object] | None
    message: str
    options: tuple[str, ...] = ()
    places: tuple[str, ...] = ("{source}", "{dest}")


def put(path, content):
    """Overwrite a file of the source."""
    return lambda source: write(source / path, content)


def change(path, old, new):
    """Replace the first occurrence of some bytes in a file of the source."""

    def spoil(source):
        content = (source / path).read_bytes()
        assert old in content
        (source / path).write_bytes(content.replace(old, new, 1))

    return spoil


def add(path, content):
    """Append to a file of the source."""
    return lambda source: (source / path).write_bytes((source / path).read_bytes() + content)


def cut(path, share=0.5):
    """Cut a file of the source short."""

    def spoil(source):
        content = (source / path).read_bytes()
        (source / path).write_bytes(content[: int(len(content) * share)])

    return spoil


def drop(path):
    return lambda source: (source / path).unlink()


def folder_instead(path):
    def spoil(source):
        (source / path).unlink(missing_ok=True)
        (source / path).mkdir()

    return spoil


def link(path, target):
    def spoil(source):
        write(source.parent / "elsewhere" / "secret.jpg", picture(99))
        if (source / path).is_file():
            (source / path).unlink()
        (source / path).symlink_to(target)

    return spoil


def parquet(name, **columns):
    return lambda source: pa.parquet.write_table(pa.table(columns), source / name)


def text_of(content):
    """Return an array of one text that is made of any bytes, UTF-8 or not."""
    ends = pa.py_buffer(np.array([0, len(content)], dtype=np.int32))
    return pa.StringArray.from_buffers(1, ends, pa.py_buffer(content))


def png_announcing(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


HM = [
    Bad(
        "no folder", lambda source: os.rename(source, source.with_name("moved")), "source: there is no folder {source}"
    ),
    Bad("no articles", drop("articles.csv"), "{source}/articles.csv does not exist"),
    Bad("articles.csv is a folder", folder_instead("articles.csv"), "{source}/articles.csv is no file"),
    Bad("no transactions", drop("transactions_train.csv"), "{source}/transactions_train.csv does not exist"),
    Bad("empty file", put("articles.csv", ""), "{source}/articles.csv cannot be read: Empty CSV file"),
    Bad(
        "header alone",
        put("articles.csv", "article_id,product_type_name\n"),
        "{source}/articles.csv has a header and no rows",
    ),
    Bad(
        "no such category column",
        None,
        "{source}/articles.csv lacks the column 'colour'; it has article_id, prod_name, product_type_name, "
        "index_group_name, detail_desc; --category names it",
        ("--category", "colour"),
    ),
    Bad(
        "column twice",
        change("articles.csv", b"prod_name", b"article_id"),
        "{source}/articles.csv has the column 'article_id' 2 times",
    ),
    Bad(
        "UTF-16",
        put("articles.csv", "article_id,product_type_name\n1,Bag\n".encode("utf-16")),
        "{source}/articles.csv, line 1 is not UTF-8; save the file in that encoding",
    ),
    Bad(
        "Latin-1",
        change("articles.csv", b"Sling bag", "Tasche für alles".encode("latin-1")),
        "{source}/articles.csv, line 6 is not UTF-8; save the file in that encoding",
    ),
    Bad(
        "NUL",
        change("articles.csv", b"Sling bag", b"Sling\0bag"),
        "{source}/articles.csv, line 6 holds a NUL byte: this is no text, or damaged",
    ),
    Bad(
        "ragged row",
        change("transactions_train.csv", b"2018-09-21,00cd,", b"2018-09-21,"),
        "{source}/transactions_train.csv, line 5 has 4 cells and the header 5, separated by commas",
    ),
    Bad(
        "open quotation mark",
        change("articles.csv", b"Jersey boxers", b'"Jersey boxers'),
        "{source}/articles.csv, line 5: a quotation mark is not closed, or is to be doubled",
    ),
    Bad(
        "stray quotation mark",
        change("articles.csv", b"Sling bag", b'12" bag'),
        "{source}/articles.csv, line 6 has a quotation mark inside a cell; double it and quote the cell",
    ),
    Bad(
        "no article id",
        change("articles.csv", b"0126589003", b""),
        "{source}/articles.csv, row 4: 'article_id' is empty",
    ),
    Bad(
        "no product type",
        change("articles.csv", b"Underwear body", b""),
        "{source}/articles.csv, row 4: 'product_type_name' is empty",
    ),
    Bad(
        "article twice",
        change("articles.csv", b"0108775044", b"0108775015"),
        "{source}/articles.csv, row 2: article_id '0108775015' occurs a second time",
    ),
    Bad(
        "id that leads out of the folder",
        change("articles.csv", b"0108775044", b"../../secret"),
        "{source}/articles.csv, row 2: article_id '../../secret' cannot be the name of a file: no slashes, at most 200 "
        "bytes",
    ),
    Bad(
        "id that is a folder",
        change("articles.csv", b"0108775044", b".."),
        "{source}/articles.csv, row 2: article_id '..' cannot be the name of a file: no slashes, at most 200 bytes",
    ),
    Bad(
        "endless id",
        change("articles.csv", b"0108775044", b"7" * 300),
        f"{{source}}/articles.csv, row 2: article_id '{'7' * 80}' cannot be the name of a file: no slashes, at most "
        "200 bytes",
    ),
    Bad(
        "no such group",
        None,
        "group: no article has 'Kids' in the column index_group_name, which has Ladieswear, Menswear",
        ("--group", "Kids"),
    ),
    Bad(
        "no day",
        change("transactions_train.csv", b"2018-09-21", b"21.09.2018"),
        "{source}/transactions_train.csv, row 4: t_dat '21.09.2018' is no day such as 2020-01-31",
    ),
    Bad(
        "day that no calendar has",
        change("transactions_train.csv", b"2018-09-23", b"2018-02-30"),
        "{source}/transactions_train.csv, row 8: t_dat '2018-02-30' is no day such as 2020-01-31",
    ),
    Bad(
        "no customer",
        change("transactions_train.csv", b",00ef,", b",,"),
        "{source}/transactions_train.csv, row 5: 'customer_id' is empty",
    ),
    Bad(
        "bad first day", None, "first_day must be a day such as 2020-01-31, got '2020-1-1'", ("--first_day", "2020-1-1")
    ),
    Bad(
        "dates that leave nothing",
        None,
        "{source}: no purchase is left (8 purchases outside the dates)",
        ("--first_day", "2030-01-01"),
    ),
    Bad(
        "dates the wrong way round",
        None,
        "{source}: no purchase is left (8 purchases outside the dates)",
        ("--first_day", "2018-09-22", "--last_day", "2018-09-21"),
    ),
    Bad("core of 0", None, "core must be at least 1, got 0", ("--core", "0")),
    Bad(
        "core of nobody",
        None,
        "{source}: no purchase is left (8 purchases of users or items with fewer than 9 (repeated until nothing "
        "changes))",
        ("--core", "9"),
    ),
    Bad("core that is no number", None, "core: expected int, got five", ("--core", "five")),
    Bad("no such option", None, "***--color***", ("--color", "red")),
    Bad(
        "no photographs",
        lambda source: os.rename(source / "images", source / "pictures"),
        "{source}/articles.csv: 5 of 5 items have no image below {source}; that of item '0108775015' is "
        "'images/010/0108775015.jpg', and an image that is there is 'pictures/010/0108775015.jpg'",
    ),
    Bad("empty photograph", put(PHOTOGRAPH, b""), f"image {{source}}/{PHOTOGRAPH} cannot be read: ***; {UNDECODED}"),
    Bad(
        "web page for a photograph",
        put(PHOTOGRAPH, "<html>404</html>"),
        f"image {{source}}/{PHOTOGRAPH} cannot be read: ***; {UNDECODED}",
    ),
    Bad("photograph cut short", cut(PHOTOGRAPH), f"image {{source}}/{PHOTOGRAPH} cannot be read: ***; {UNDECODED}"),
    Bad(
        "photograph cut too short to be allowed",
        cut(PHOTOGRAPH, 0.1),
        f"image {{source}}/{PHOTOGRAPH} cannot be read: ***; {UNDECODED}",
        ("--allow_truncated", "true"),
    ),
    Bad(
        "decompression bomb",
        put(PHOTOGRAPH, png_announcing(100_000, 100_000)),
        f"image {{source}}/{PHOTOGRAPH} cannot be read: ***pixels***; {UNDECODED}",
    ),
    Bad(
        "image above the limit",
        put(PHOTOGRAPH, png_announcing(8_001, 8_000)),
        f"image {{source}}/{PHOTOGRAPH} cannot be read: 8001×8000 are more than 64,000,000 pixels; {UNDECODED}",
    ),
    Bad(
        "PostScript",
        put(PHOTOGRAPH, "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"),
        f"image {{source}}/{PHOTOGRAPH} cannot be read: it is a PostScript program, which would have to be run; "
        f"{UNDECODED}",
    ),
    Bad(
        "photograph behind a link",
        link(PHOTOGRAPH, "../../../elsewhere/secret.jpg"),
        f"image {{source}}/{PHOTOGRAPH} of article '0108775015' lies behind a link that leads out of {{source}}",
    ),
    Bad(
        "destination with something in it",
        lambda source: write(source.parent / "shop" / "mine.txt", "precious"),
        "{dest} exists and is not empty: give another folder or remove it",
    ),
    Bad(
        "destination that is a file",
        lambda source: write(source.parent / "shop", "precious"),
        "{dest} exists and is not a folder: give another folder",
    ),
]

TREE = [
    Bad(
        "two files with one stem",
        put("Bags/s1.png", picture(7, "PNG")),
        "source: {source}/Bags/s1.png and {source}/Shoes/s1.jpg both give the item 's1': rename one of them",
    ),
    Bad(
        "category behind a link",
        link("Hats", "../elsewhere"),
        "source: {source}/Hats is a link to a folder: put the folder itself there",
    ),
    Bad(
        "image behind a link",
        link("Shoes/s3.jpg", "../../elsewhere/secret.jpg"),
        "image {source}/Shoes/s3.jpg of item 's3' lies behind a link that leads out of {source}",
    ),
    Bad(
        "link to nothing",
        link("Shoes/s3.jpg", "absent.jpg"),
        "image {source}/Shoes/s3.jpg of item 's3' does not exist",
    ),
    Bad(
        "one category's folder",
        None,
        "source: {source}/Bags has no images in folders of categories, as in {source}/Bags/Shoes/item.jpg (2 images "
        "outside the folders of categories); or list them in a table with --items",
        places=("{source}/Bags", "{dest}"),
    ),
    Bad(
        "name that is not UTF-8",
        lambda source: Path(os.fsdecode(os.fsencode(source) + b"/Bags/sac\xe9.jpg")).write_bytes(picture(7)),
        "source: the name of {source}/Bags/sac\\xe9.jpg is not UTF-8: rename the file",
    ),
    Bad(
        "name with a backslash",
        put("Bags/b\\3.jpg", picture(7)),
        "source: the name of {source}/Bags/b\\3.jpg cannot be an item's id: no backslashes, at most 200 bytes",
    ),
    Bad("title without a table", None, "title names a column of ITEMS: give --items", ("--title", "label")),
    Bad("category without a table", None, "category names a column of ITEMS: give --items", ("--category", "label")),
    Bad("core without purchases", None, "core is about purchases: give --purchases", ("--core", "2")),
    Bad("time without purchases", None, "time is about purchases: give --purchases", ("--time", "when")),
    Bad(
        "destination among the categories",
        None,
        "dest: {source}/new lies in {source}, whose folders are categories: give another folder",
        places=("{source}", "{source}/new"),
    ),
    Bad(
        "purchases of another shop",
        put("log.csv", "user_id,item_id\nann,x1\nann,x2\nann,s1\n"),
        "{source}/log.csv: 2 of 3 purchases are of items that {source} does not have, such as 'x1'; its ids are "
        "like 'b1'",
        ("--purchases", "{source}/log.csv"),
    ),
]

SHOP = [
    Bad("no table", drop("items.csv"), "{source}/items.csv does not exist"),
    Bad("folder for a table", folder_instead("items.csv"), "{source}/items.csv is no file"),
    Bad(
        "no id column",
        change("items.csv", b"sku", b"SKU"),
        "{source}/items.csv lacks the column 'sku'; it has SKU, photo, department, label; --item names it",
    ),
    Bad(
        "no image column",
        change("items.csv", b"photo", b"image"),
        "{source}/items.csv lacks the column 'photo'; it has sku, image, department, label; --image names it",
    ),
    Bad(
        "no title column",
        None,
        "{source}/items.csv lacks the column 'name'; it has sku, photo, department, label; --title names it",
        ("--title", "name"),
    ),
    Bad("no category", change("items.csv", b"Bags", b""), "{source}/items.csv, row 2: 'department' is empty"),
    Bad(
        "id twice", change("items.csv", b"\n7,", b"\n007,"), "{source}/items.csv, row 2: sku '007' occurs a second time"
    ),
    Bad(
        "id with a slash",
        change("items.csv", b"x y", b"x/y"),
        "{source}/items.csv, row 3: sku 'x/y' cannot be the name of a file: no slashes, at most 200 bytes",
    ),
    Bad(
        "image above the folder",
        change("items.csv", b"photos/b.png", b"../elsewhere/secret.jpg"),
        "image '../elsewhere/secret.jpg' of item '7' must be a path below {source}",
    ),
    Bad(
        "image above the folder that is not there",
        change("items.csv", b"photos/b.png", b"photos/../../nothing.jpg"),
        "image 'photos/../../nothing.jpg' of item '7' must be a path below {source}",
    ),
    Bad(
        "image anywhere",
        change("items.csv", b"photos/b.png", b"/etc/passwd"),
        "image '/etc/passwd' of item '7' must be a path below {source}",
    ),
    Bad(
        "folder of images behind a link",
        lambda source: (
            os.rename(source / "photos", source.parent / "elsewhere"),
            (source / "photos").symlink_to("../elsewhere"),
        ),
        "image {source}/photos/a.jpg of item '007' lies behind a link that leads out of {source}",
    ),
    Bad(
        "most images absent",
        lambda source: os.rename(source / "photos", source / "Photos"),
        "{source}/items.csv: 4 of 4 items have no image below {source}; that of item '007' is 'photos/a.jpg', "
        "and an image that is there is 'Photos/a.jpg'",
    ),
    Bad(
        "endless path",
        change("items.csv", b"photos/b.png", b"7" * 300 + b".png"),
        f"{{source}}/items.csv: the image {{source}}/{'7' * 300}.png cannot be looked for: File name too long",
    ),
    Bad(
        "NUL in a path",
        parquet("items.parquet", sku=["1"], photo=["photos/a.jpg\0.png"], department=["Bags"]),
        "image 'photos/a.jpg\\x00.png' of item '1' must be a path below {source}",
        ("--items", "{source}/items.parquet"),
    ),
    Bad(
        "NUL in an id",
        parquet("items.parquet", sku=["1\0"], photo=["photos/a.jpg"], department=["Bags"]),
        "{source}/items.parquet, row 1: sku '1\\x00' cannot be the name of a file: no slashes, at most 200 bytes",
        ("--items", "{source}/items.parquet"),
    ),
    Bad(
        "no Parquet",
        put("items.parquet", "sku,photo\n"),
        "{source}/items.parquet cannot be read: ***",
        ("--items", "{source}/items.parquet"),
    ),
    Bad(
        "lists in Parquet",
        parquet("items.parquet", sku=[["1"]], photo=["photos/a.jpg"], department=["Bags"]),
        "{source}/items.parquet holds what is no text: ***",
        ("--items", "{source}/items.parquet"),
    ),
    Bad(
        "text in Parquet that is none",
        parquet("items.parquet", sku=text_of(b"caf\xe9"), photo=["photos/a.jpg"], department=["Bags"]),
        "{source}/items.parquet holds what is no text: ***",
        ("--items", "{source}/items.parquet"),
    ),
    Bad(
        "no user column",
        None,
        "{source}/log.csv lacks the column 'user'; it has customer, article, when; --user names it",
        ("--user", "user"),
    ),
    Bad(
        "one column for two things",
        None,
        "user, item and time must be different columns of {source}/log.csv, got article, article, when",
        ("--user", "article"),
    ),
    Bad(
        "purchases of other ids",
        put("log.csv", "customer,article,when\nann,SKU-7,1\nann,SKU-007,2\n"),
        "{source}/log.csv: 2 of 2 purchases are of items that {source}/items.csv does not have, such as 'SKU-7'; its "
        "ids are like '007'",
    ),
    Bad("purchase of nothing", add("log.csv", b"ann,,2020-01-01\n"), "{source}/log.csv, row 7: 'article' is empty"),
    Bad("no time", add("log.csv", b"ann,007,yesterday\n"), f"{{source}}/log.csv, row 7: when 'yesterday' {NO_TIME}"),
    Bad(
        "numbers among dates",
        add("log.csv", b"ann,007,1577836800\n"),
        f"{{source}}/log.csv, row 7: when '1577836800' {NO_TIME}",
    ),
    Bad(
        "time zones among none",
        add("log.csv", b"ann,007,2020-01-01T10:00:00Z\n"),
        f"{{source}}/log.csv, row 7: when '2020-01-01T10:00:00Z' {NO_TIME}",
    ),
    Bad(
        "a time that never comes",
        put("log.csv", "customer,article,when\nann,7,1.5\nann,007,inf\n"),
        f"{{source}}/log.csv, row 2: when 'inf' {NO_TIME}",
    ),
    Bad(
        "half a gzipped log",
        put("log.csv.gz", gzip.compress(os.urandom(64).hex().encode())[:40]),
        "{source}/log.csv.gz cannot be read: ***",
        ("--purchases", "{source}/log.csv.gz"),
    ),
]

FASHION = [
    Bad(
        "no labels",
        drop("t10k-labels-idx1-ubyte"),
        "source: {source} lacks t10k-labels-idx1-ubyte (with or without .gz, there or in FashionMNIST/raw)",
    ),
    Bad(
        "half a gzipped file",
        cut("train-images-idx3-ubyte.gz"),
        "{source}/train-images-idx3-ubyte.gz cannot be read, get it anew: ***",
    ),
    Bad(
        "half a file",
        cut("t10k-labels-idx1-ubyte"),
        "{source}/t10k-labels-idx1-ubyte is truncated: its header announces 28 bytes, it has 14; get it anew",
    ),
    Bad(
        "another file",
        put("t10k-images-idx3-ubyte", picture(0)),
        "{source}/t10k-images-idx3-ubyte is not an IDX file of unsigned bytes in 3 dimensions: it must begin with "
        "00000803, got ffd8ffe0",
    ),
    Bad(
        "unknown label",
        change("t10k-labels-idx1-ubyte", b"\x09", b"\x0a"),
        "{source}/t10k-labels-idx1-ubyte: labels must lie in 0..9, got 10",
    ),
    Bad(
        "too few items",
        None,
        "items must lie in 10..10000, the number of test photographs, got 5",
        ("--items", "5"),
    ),
    Bad("no users", None, "users must be at least 1, got 0", ("--users", "0")),
]
SYNTHETIC = [
    Bad("too few items", None, "items must be at least 6, got 5", ("--items", "5")),
    Bad("no users", None, "users must be at least 1, got 0", ("--users", "0")),
    Bad("images too small", None, "image_size must lie in 16..256, got 8", ("--image_size", "8")),
    Bad("negative seed", None, "seed must be at least 0, got -1", ("--seed", "-1")),
    Bad(
        "destination below a file",
        lambda source: write(source, "mine"),
        "{source}/shop cannot be ***",
        places=("{source}/shop",),
    ),
]

TABLE = [
    *((bad, "hm", write_hm) for bad in HM),
    *((bad, "tree", write_tree) for bad in TREE),
    *((bad, "shop", write_shop) for bad in SHOP),
    *((bad, "fashion-mnist", write_fashion) for bad in FASHION),
    *((bad, "synthetic", lambda source: None) for bad in SYNTHETIC),
]


def arguments(kind, bad, **folders):
    """Return the command line."""
    places = bad.places[-1:] if kind in ("fashion-mnist", "synthetic") else bad.places
    options = {"shop": shop_options(folders["source"]), "fashion-mnist": ["--source", "{source}", "--items", "10"]}
    options = [*options.get(kind, []), *bad.options]
    importer = "folder" if kind in ("tree", "shop") else kind
    return ["data", importer, *(text.format(**folders) for text in [*places, *options])]


@pytest.mark.parametrize(("bad", "kind", "write_source"), TABLE, ids=[f"{kind}: {bad.name}" for bad, kind, _ in TABLE])
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_touched(tmp_path, capsys, bad, kind, write_source):
    source, dest = tmp_path / "source", tmp_path / "shop"
    write_source(source)
    if bad.spoil is not None:
        bad.spoil(source)
    before = tree_of(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(arguments(kind, bad, source=source, dest=dest))
    assert caught.value.code == 2
    *bars, line = capsys.readouterr().err.splitlines()
    expected = re.escape(bad.message.format(source=source, dest=dest)).replace(re.escape("***"), ".+")
    assert re.fullmatch(f"catwalk: error: {expected}", line)
    assert not any("rror" in bar for bar in bars)
    assert tree_of(tmp_path) == before
