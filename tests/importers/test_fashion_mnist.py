"""Fashion-MNIST from IDX files that the tests write, and from Debian's package where it is installed."""

import gzip
import json
import os

import numpy as np
import pytest
from PIL import Image

from catwalk.errors import CatwalkError
from catwalk.importers import IMPORTERS, dataset_writer
from catwalk.importers import fashion_mnist as module
from catwalk.importers.fashion_mnist import CATEGORIES, CONTENTS, DEBIAN_FOLDER, fashion_mnist, read_idx
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.decoding import decode
from catwalk.shop.interactions import Interactions
from catwalk.shop.labelled_images import SPLITS, LabelledImages

needs_debian = pytest.mark.skipif(
    not DEBIAN_FOLDER.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


def write_source(folder, compress=True, train=40, test=60):
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    arrays = {}
    for stem, count in (("train", train), ("t10k", test)):
        arrays[f"{stem}-images-idx3-ubyte"] = random.integers(256, size=(count, 28, 28), dtype=np.uint8)
        arrays[f"{stem}-labels-idx1-ubyte"] = random.permutation(np.arange(count) % 10).astype(np.uint8)
    for name, array in arrays.items():
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return arrays


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def source(tmp_path):
    write_source(tmp_path / "source")
    return tmp_path / "source"


def test_the_folder_reads_back_with_the_pixels_of_the_source(tmp_path, capsys):
    arrays = write_source(tmp_path / "source")
    fashion_mnist(tmp_path / "shop", source=tmp_path / "source", items=20, users=30)
    shown = capsys.readouterr().out
    catalogue = Catalogue.read(tmp_path / "shop")
    assert catalogue.name == "Fashion-MNIST"
    assert catalogue.category_names == CATEGORIES
    assert len(catalogue) == 20
    images, labels = arrays["t10k-images-idx3-ubyte"], arrays["t10k-labels-idx1-ubyte"]
    for item, path, category in zip(catalogue.item_ids, catalogue.images, catalogue.categories, strict=True):
        index = int(item.removeprefix("t10k-"))
        assert item == f"t10k-{index:05d}"
        assert category == labels[index]
        with Image.open(catalogue.folder / path) as image:
            assert (image.mode, image.format) == ("L", "PNG")
        assert (decode(catalogue.folder / path) == images[index]).all()

    labelled = LabelledImages.read(catalogue, validation_share=0)
    for split, stem in (("train", "train"), ("test", "t10k")):
        rows = labelled.rows(split)
        assert [labelled.images[row] for row in rows] == [f"images/{split}/{n:05d}.png" for n in range(len(rows))]
        assert labelled.categories[rows].tolist() == arrays[f"{stem}-labels-idx1-ubyte"].tolist()
        for row, image in zip(rows, arrays[f"{stem}-images-idx3-ubyte"], strict=True):
            assert (decode(catalogue.folder / labelled.images[row]) == image).all()
    assert len(labelled.images) == 100
    assert set(labelled.splits) == {SPLITS.index("train"), SPLITS.index("test")}

    interactions = Interactions.read(catalogue)
    assert interactions.num_users == 30
    assert interactions.num_repeats == 0
    info = json.loads((tmp_path / "shop" / "dataset.json").read_text())
    assert info["counts"]["interactions"] == len(interactions)
    assert info["left_out"]["test photographs that are not on sale"] == 40
    assert info["simulated_purchases"]["parameters"]["mean_purchases"] == 3.5
    assert info["licence"].startswith("MIT")
    assert "arXiv:1708.07747" in info["source"]
    assert str(tmp_path) not in json.dumps(info)
    assert "SIMULATED" in shown
    assert "40 test photographs" in shown
    assert "not the published Fashion-MNIST" in shown  # random pixels are not


def test_the_interactions_are_sorted(tmp_path, source):
    fashion_mnist(tmp_path / "shop", source=source, items=30, users=200)
    header, *rows = (tmp_path / "shop" / "interactions.csv").read_text().splitlines()
    assert header == "user_id,item_id,timestamp"
    keys = [(int(row.split(",")[2]), row.split(",")[0]) for row in rows]
    assert keys == sorted(keys)


def test_the_seed_decides_every_byte(tmp_path, source):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fashion_mnist(tmp_path / name, source=source, items=20, users=30, seed=seed)
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again
    for file in ("items.csv", "interactions.csv", "dataset.json"):
        assert first[file] != other[file]


@pytest.mark.parametrize("layout", ["plain", "gzipped", "torchvision"])
def test_every_layout_gives_the_same(tmp_path, source, layout):
    fashion_mnist(tmp_path / "expected", source=source, items=20, users=30)
    folder = tmp_path / layout
    write_source(folder / "FashionMNIST" / "raw" if layout == "torchvision" else folder, compress=layout == "gzipped")
    fashion_mnist(tmp_path / "shop", source=folder, items=20, users=30)
    assert contents(tmp_path / "shop") == contents(tmp_path / "expected")


def damage(change, name="t10k-images-idx3-ubyte"):
    def apply(folder):
        path = folder / f"{name}.gz"
        path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))

    return apply


def cut_gzip(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1000])


def spoil_gzip(folder):
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(b"not gzip")


def remove(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()


def fewer_labels(folder):
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(39, dtype=np.uint8))))


def other_size(folder):
    array = np.zeros((60, 32, 32), dtype=np.uint8)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(array)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage(lambda data: b"\0\0\x0d\3" + data[4:]), "t10k-images-idx3-ubyte.gz is not an IDX file.*got 00000d03"),
        (damage(lambda data: data[:-1]), "t10k-images-idx3-ubyte.gz is truncated"),
        (damage(lambda data: data[:9]), "t10k-images-idx3-ubyte.gz is truncated within its header"),
        (damage(lambda data: b""), "t10k-images-idx3-ubyte.gz is not an IDX file.*got an empty file"),
        (damage(lambda data: data + b"x"), "t10k-images-idx3-ubyte.gz is too long"),
        (
            damage(lambda data: data[:-1] + b"\x0a", "t10k-labels-idx1-ubyte"),
            r"t10k-labels-idx1-ubyte.gz: labels must lie in 0\.\.9, got 10",
        ),
        (cut_gzip, "train-images-idx3-ubyte.gz cannot be read"),
        (spoil_gzip, "train-labels-idx1-ubyte.gz cannot be read"),
        (remove, "source lacks t10k-labels-idx1-ubyte "),
        (fewer_labels, "holds 40 images and .*train-labels-idx1-ubyte.gz 39 labels"),
        (other_size, "t10k-images-idx3-ubyte.gz holds images of 32×32"),
    ],
)
def test_damaged_sources_are_named_and_nothing_is_written(tmp_path, source, spoil, message):
    spoil(source)
    with pytest.raises(CatwalkError, match=message):
        fashion_mnist(tmp_path / "shop", source=source, items=20, users=30)
    assert os.listdir(tmp_path) == ["source"]


def test_an_empty_or_missing_source_is_not_replaced_by_another(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatwalkError, match="empty lacks train-images-idx3-ubyte, train-labels"):
        fashion_mnist(tmp_path / "shop", source=tmp_path / "empty")
    with pytest.raises(CatwalkError, match="source: there is no folder"):
        fashion_mnist(tmp_path / "shop", source=tmp_path / "nowhere")
    assert os.listdir(tmp_path) == ["empty"]


def test_idx_in_one_dimension(tmp_path):
    (tmp_path / "labels").write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x03\x05\x00\x09")
    assert read_idx(tmp_path / "labels", 1).tolist() == [5, 0, 9]
    with pytest.raises(CatwalkError, match="in 3 dimensions: it must begin with 00000803, got 00000801"):
        read_idx(tmp_path / "labels", 3)


def test_without_files_and_without_internet_all_three_ways_are_named(tmp_path, monkeypatch):
    import torchvision.datasets

    def offline(root, download):
        assert (root, download) == (str(tmp_path / "cache" / "catwalk"), True)
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nname resolution failed")

    monkeypatch.setattr(module, "DEBIAN_FOLDER", tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", offline)
    with pytest.raises(CatwalkError) as caught:
        fashion_mnist(tmp_path / "shop")
    message = str(caught.value)
    for part in ("name resolution failed", "--source", *CONTENTS, "apt install dataset-fashion-mnist", "internet"):
        assert part in message
    assert "\n" not in message
    assert os.listdir(tmp_path) == []


def test_debians_folder_comes_before_the_download(tmp_path, monkeypatch, source):
    import torchvision.datasets

    downloads = []

    def download(root, download):
        downloads.append(root)
        write_source(tmp_path / "cache" / "catwalk" / "FashionMNIST" / "raw", compress=False)

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "DEBIAN_FOLDER", source)
    fashion_mnist(tmp_path / "installed", items=20, users=30)
    assert downloads == []
    monkeypatch.setattr(module, "DEBIAN_FOLDER", tmp_path / "none")
    fashion_mnist(tmp_path / "downloaded", items=20, users=30)
    assert len(downloads) == 1
    assert contents(tmp_path / "installed") == contents(tmp_path / "downloaded")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"items": 10_001}, r"items must lie in 10\.\.10000, .*got 10001"),
        ({"items": 9}, r"items must lie in 10\.\.10000, .*got 9"),
        ({"items": 61}, r"items must lie in 10\.\.60, .*got 61"),
        ({"users": 0}, "users must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path, source, arguments, message):
    with pytest.raises(CatwalkError, match=message):
        fashion_mnist(tmp_path / "shop", source=source, **({"items": 20, "users": 30} | arguments))
    assert os.listdir(tmp_path) == ["source"]


def test_a_folder_with_something_in_it_is_not_touched(tmp_path, source):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "items.csv").write_text("mine")
    with pytest.raises(CatwalkError, match="not empty"):
        fashion_mnist(tmp_path / "shop", source=source, items=20, users=30)
    assert contents(tmp_path / "shop") == {"items.csv": b"mine"}


def test_an_import_that_stops_midway_is_repeated_with_the_same_bytes(tmp_path, source, monkeypatch):
    fashion_mnist(tmp_path / "whole", source=source, items=20, users=30)
    with monkeypatch.context() as patch:
        patch.setattr(dataset_writer.DatasetWriter, "write_labelled_images", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fashion_mnist(tmp_path / "shop", source=source, items=20, users=30)
    assert sorted(os.listdir(tmp_path)) == ["source", "whole"]
    partial = tmp_path / ".shop.partial"
    partial.mkdir()
    (partial / "dataset.json").write_text("{}")
    fashion_mnist(tmp_path / "shop", source=source, items=20, users=30)
    assert contents(tmp_path / "shop") == contents(tmp_path / "whole")
    assert not partial.exists()


def test_it_is_an_importer():
    assert IMPORTERS["fashion-mnist"] is fashion_mnist


@needs_debian
def test_debians_files_are_the_published_ones():
    import hashlib

    for name, digest in CONTENTS.items():
        data = gzip.decompress((DEBIAN_FOLDER / f"{name}.gz").read_bytes())
        assert hashlib.sha256(data).hexdigest() == digest


@needs_debian
def test_the_real_photographs_sell_as_declared(tmp_path):
    """The test photographs and purchases are real size; only the training photographs are left out, to save time."""
    write_source(tmp_path / "source", train=10)
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (tmp_path / "source" / name).write_bytes((DEBIAN_FOLDER / name).read_bytes())
    fashion_mnist(tmp_path / "shop", source=tmp_path / "source")
    catalogue = Catalogue.read(tmp_path / "shop")
    interactions = Interactions.read(catalogue)
    assert (len(catalogue), interactions.num_users) == (1500, 6000)
    # Between Amazon Men (3.65 per user, 12 per item) and Amazon Women (3.27, 18), the shops of the literature.
    assert 3.27 <= len(interactions) / 6000 <= 3.65
    assert 12 <= len(interactions) / 1500 <= 18
    shares = np.bincount(catalogue.categories[interactions.items]) / len(interactions)
    assert catalogue.category_names[shares.argmax()] == "Sneaker"
    assert catalogue.category_names[shares.argmin()] == "Sandal"
    raw = gzip.decompress((DEBIAN_FOLDER / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    for item, path in list(zip(catalogue.item_ids, catalogue.images, strict=True))[::50]:
        index = int(item.removeprefix("t10k-"))
        with Image.open(catalogue.folder / path) as image:
            assert image.tobytes() == raw[784 * index : 784 * (index + 1)]
