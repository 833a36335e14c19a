"""Small sources in the layouts of those who publish them, written by the tests of the importers."""

import gzip
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

ARTICLES = {
    "0108775015": ("Strap top", "Vest top", "Ladieswear"),
    "0108775044": ("Strap top", "Vest top", "Ladieswear"),
    "0111565001": ("20 den 1p Stockings", "Underwear Tights", "Ladieswear"),
    "0126589003": ("Jersey boxers", "Underwear body", "Menswear"),
    "0129085001": ("Sling bag", "Bag", "Ladieswear"),
}
TRANSACTIONS = [
    ("2018-09-20", "00ab", "0108775015"),
    ("2018-09-20", "00ab", "0111565001"),
    ("2018-09-20", "00cd", "0126589003"),
    ("2018-09-21", "00cd", "0108775015"),
    ("2018-09-22", "00ef", "0111565001"),
    ("2018-09-22", "00ef", "0108775044"),
    ("2018-09-22", "00ef", "0108775015"),
    ("2018-09-23", "00ab", "0129085001"),
]
ITEMS = [
    ("007", "photos/a.jpg", "Shoes", "Seven"),
    ("7", "photos/b.png", "Bags", 'A "seven", small'),
    ("x y", "photos/deep/c.jpg", "Shoes", ""),
    ("ß", "photos/d.jpg", "Bags", "Esszett"),
]
LOG = [
    ("ann", "007", "2020-01-03"),
    ("bob", "7", "2020-01-02"),
    ("ann", "7", "2020-01-01"),
    ("bob", "ß", "2020-01-04"),
    ("cem", "007", "2020-01-05"),
    ("cem", "7", "2020-01-05"),
]


def picture(number, image_format="JPEG", size=(12, 9)):
    """Return the bytes of an image file, another one for every number."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_csv(path, header, rows):
    def cell(text):
        return '"' + text.replace('"', '""') + '"' if '"' in text or "," in text else text

    write(path, "".join(",".join(map(cell, row)) + "\n" for row in [header, *rows]))


def write_hm(folder):
    """Write a source in the layout of H&M's Kaggle competition."""
    header = ("article_id", "prod_name", "product_type_name", "index_group_name", "detail_desc")
    write_csv(
        folder / "articles.csv",
        header,
        [(item, *texts, "Soft, with a 5-pocket look.") for item, texts in ARTICLES.items()],
    )
    header = ("t_dat", "customer_id", "article_id", "price", "sales_channel_id")
    write_csv(folder / "transactions_train.csv", header, [(*row, "0.0508", "2") for row in TRANSACTIONS])
    for number, item in enumerate(ARTICLES):
        write(folder / "images" / item[:3] / f"{item}.jpg", picture(number))
    return folder


def write_fashion(folder):
    """Write 20 training and 20 test images in Fashion-MNIST's layout, one file of which is gzipped."""
    for stem in ("train", "t10k"):
        images, labels = np.zeros((20, 28, 28), dtype=np.uint8), np.arange(20, dtype=np.uint8) % 10
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            write(folder / f"{stem}-{name}-ubyte", bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())
    packed = folder / "train-images-idx3-ubyte"
    write(folder / "train-images-idx3-ubyte.gz", gzip.compress(packed.read_bytes()))
    packed.unlink()
    return folder


def write_tree(folder):
    """Write images in folders of categories, with a log of purchases beside them."""
    for number, path in enumerate(("Shoes/s1.jpg", "Shoes/old/s2.PNG", "Bags/b1.jpg", "Bags/b2.jpg")):
        write(folder / path, picture(number, "PNG" if path.endswith("PNG") else "JPEG"))
    write_csv(folder / "log.csv", ("user_id", "item_id"), [("ann", "s1"), ("bob", "b1"), ("ann", "b1")])
    return folder


def write_shop(folder):
    """Write a shop's own tables, with columns of its own names, and the images that they name."""
    write_csv(folder / "items.csv", ("sku", "photo", "department", "label"), ITEMS)
    write_csv(folder / "log.csv", ("customer", "article", "when"), LOG)
    for number, (_, path, *_) in enumerate(ITEMS):
        write(folder / path, picture(number, "PNG" if path.endswith("png") else "JPEG"))
    return folder


def shop_options(folder, purchases=True):
    """Return the options that import what :func:`write_shop` writes."""
    options = ["--items", f"{folder}/items.csv", "--item", "sku", "--image", "photo", "--category", "department"]
    if purchases:
        options += ["--purchases", f"{folder}/log.csv", "--user", "customer", "--purchased_item", "article"]
        options += ["--time", "when"]
    return options


def tree_of(folder):
    """Return everything below a folder: the bytes of files, the targets of links, None for folders."""
    found = {}
    for place, folders, files in os.walk(os.fsencode(folder)):
        for name in [*folders, *files]:
            path = Path(os.fsdecode(os.path.join(place, name)))
            content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[path.relative_to(folder)] = content
    return found
