"""A dataset folder is there whole, or not at all."""

import errno
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from catwalk.errors import CatwalkError
from catwalk.importers import dataset_writer, summary
from catwalk.importers.dataset_writer import DatasetWriter, numbered
from catwalk.importers.summary import print_summary
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.columns import read_table
from catwalk.shop.decoding import decode

PROJECT = Path(__file__).parents[2]


def fill(writer):
    images = np.random.default_rng(0).integers(256, size=(3, 5, 4), dtype=np.uint8)
    paths = [f"images/{name}.png" for name in "abc"]
    writer.write_images(paths, images)
    writer.write_items(["1", "2", "3"], paths, ["Sneaker", "Sandal", "Sneaker"], ["One", "Two, with comma", "Three"])
    writer.write_interactions(["u", "v", "u"], ["3", "1", "1"], [10, 20, 30])
    writer.describe(name="Tiny", source="a test", licence="CC0-1.0", categories=["Sneaker", "Sandal", "Bag"])
    return images


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_folder_reads_back(tmp_path):
    dest = tmp_path / "new" / "tiny"
    with DatasetWriter(dest) as writer:
        images = fill(writer)
        assert not dest.exists()
    catalogue = Catalogue.read(dest)
    assert catalogue.category_names == ("Sneaker", "Sandal", "Bag")
    assert catalogue.categories.tolist() == [0, 1, 0]
    for path, image in zip(catalogue.images, images, strict=True):
        assert (decode(dest / path) == image).all()
    info = json.loads((dest / "dataset.json").read_text())
    assert info == writer.info
    assert info["fingerprint"] == catalogue.fingerprint
    assert info["counts"] == {
        "items": 3,
        "users": 2,
        "interactions": 3,
        "per_category": {
            "Sneaker": {"items": 2, "interactions": 3},
            "Sandal": {"items": 1, "interactions": 0},
            "Bag": {"items": 0, "interactions": 0},
        },
    }
    assert info["simulated_purchases"] is None
    items = (dest / "items.csv").read_bytes()
    assert items.splitlines()[2] == b'2,images/b.png,Sandal,"Two, with comma"'
    assert b"\r" not in items
    assert os.listdir(dest.parent) == ["tiny"]


def test_an_empty_folder_is_filled(tmp_path):
    dest = tmp_path / "tiny"
    dest.mkdir()
    with DatasetWriter(dest) as writer:
        fill(writer)
    assert len(Catalogue.read(dest)) == 3


def test_a_link_to_an_empty_folder_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with DatasetWriter(tmp_path / "link") as writer:
        fill(writer)
    assert (tmp_path / "link").is_symlink()
    assert len(Catalogue.read(tmp_path / "real")) == 3


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_nothing(tmp_path, kind):
    def interrupted():
        with DatasetWriter(tmp_path / "tiny") as writer:
            fill(writer)
            raise kind("stop")

    with pytest.raises(kind, match="stop"):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_a_refusal_of_the_file_system_is_one_message(tmp_path):
    def full():
        with DatasetWriter(tmp_path / "tiny") as writer:
            fill(writer)
            raise OSError(28, "No space left on device")

    with pytest.raises(CatwalkError, match=r"tiny cannot be written: .*No space left on device"):
        full()
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(CatwalkError, match="cannot be"), DatasetWriter(tmp_path / "file" / "tiny"):
        pass


def test_inconsistent_content_is_refused_at_the_end(tmp_path):
    def missing_image():
        with DatasetWriter(tmp_path / "tiny") as writer:
            fill(writer)
            (writer.folder / "images" / "b.png").unlink()

    with pytest.raises(CatwalkError, match=r"b\.png of item '2' does not exist"):
        missing_image()
    assert os.listdir(tmp_path) == []


def test_a_folder_with_something_in_it_is_not_touched(tmp_path):
    dest = tmp_path / "tiny"
    dest.mkdir()
    (dest / "mine.txt").write_text("precious")
    with pytest.raises(CatwalkError, match="is not empty: give another folder or remove it"), DatasetWriter(dest):
        pass
    assert contents(tmp_path) == {Path("tiny/mine.txt"): b"precious"}
    with pytest.raises(CatwalkError, match="is not a folder"), DatasetWriter(dest / "mine.txt"):
        pass


def test_a_folder_that_is_filled_meanwhile_is_not_touched(tmp_path):
    def overtaken():
        with DatasetWriter(tmp_path / "tiny") as writer:
            fill(writer)
            writer.dest.mkdir()
            (writer.dest / "mine.txt").write_text("precious")

    with pytest.raises(CatwalkError, match="cannot be written"):
        overtaken()
    assert contents(tmp_path) == {Path("tiny/mine.txt"): b"precious"}


def test_the_current_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CatwalkError, match="current folder: give a folder inside it"), DatasetWriter(Path(".")):
        pass


@pytest.mark.parametrize("knows_locks", [True, False])
def test_a_second_import_into_the_same_place_is_refused(tmp_path, monkeypatch, knows_locks):
    if not knows_locks:  # as on some network disks
        monkeypatch.setattr(
            "fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks available"))
        )
    with DatasetWriter(tmp_path / "tiny") as first:
        with pytest.raises(CatwalkError, match="being written by another import"), DatasetWriter(tmp_path / "tiny"):
            pass
        fill(first)
    assert len(Catalogue.read(tmp_path / "tiny")) == 3


def test_a_killed_import_leaves_nothing_that_looks_complete(tmp_path):
    # The module is loaded from its file: its package brings Lightning along, seconds that this test has no use for.
    script = f"""
import importlib.util, time
from pathlib import Path
import numpy as np
spec = importlib.util.spec_from_file_location("dataset_writer", {dataset_writer.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
{inspect.getsource(fill)}
with module.DatasetWriter(Path({str(tmp_path / "tiny")!r})) as writer:
    fill(writer)
    print("filled", flush=True)
    time.sleep(60)
"""
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "filled\n"
    # A living import is not taken for a leftover …
    with pytest.raises(CatwalkError, match="being written by another import"), DatasetWriter(tmp_path / "tiny"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert sorted(os.listdir(tmp_path)) == [".tiny.lock", ".tiny.partial"]
    # … and a dead one is.
    (tmp_path / ".tiny.partial" / "images" / "stray.png").write_bytes(b"half a file")
    with DatasetWriter(tmp_path / "tiny") as writer:
        fill(writer)
    with DatasetWriter(tmp_path / "uninterrupted") as writer:
        fill(writer)
    assert contents(tmp_path / "tiny") == contents(tmp_path / "uninterrupted")
    assert sorted(os.listdir(tmp_path)) == ["tiny", "uninterrupted"]


def save_images(folder, count):
    """Write JPEG files, and return their paths and the pixels as Pillow reads them."""
    random = np.random.default_rng(1)
    paths, pixels = [folder / f"{number}.jpg" for number in range(count)], []
    for path in paths:
        Image.fromarray(random.integers(256, size=(40, 30, 3), dtype=np.uint8)).save(path)
        with Image.open(path) as image:
            pixels.append(np.asarray(image).transpose(2, 0, 1))
    return paths, pixels


def copied(dest, sources, **options):
    """Write a shop of copied images."""
    names = [f"images/{number % 3}/{number}.jpg" for number in range(len(sources))]
    with DatasetWriter(dest) as writer:
        writer.copy_images(sources[0].parent, [path.name for path in sources], names, **options)
        writer.write_items([str(number) for number in range(len(sources))], names, ["Bag"] * len(sources))
        writer.describe(name="Copied", source="a test", licence="CC0-1.0", categories=["Bag"])
    return writer.info


class TestCopiedImages:
    def test_they_are_the_same_bytes(self, tmp_path):
        sources, pixels = save_images(tmp_path, 7)
        info = copied(tmp_path / "shop", sources)
        assert "allow_truncated" not in info
        catalogue = Catalogue.read(tmp_path / "shop")
        for source, image, expected in zip(sources, catalogue.images, pixels, strict=True):
            assert (catalogue.folder / image).read_bytes() == source.read_bytes()
            assert np.array_equal(decode(catalogue.folder / image), expected)

    def test_truncated_ones_are_refused_or_counted(self, tmp_path, monkeypatch):
        monkeypatch.setattr(dataset_writer, "CHUNK", 1)  # several threads have something to do
        sources, _ = save_images(tmp_path, 40)
        for source in sources[1::2]:
            source.write_bytes(source.read_bytes()[:-300])
        with pytest.raises(CatwalkError, match=r"^20 of 40 images .*: image .*/1\.jpg cannot .* --allow-truncated for"):
            copied(tmp_path / "shop", sources)
        assert not (tmp_path / "shop").exists()
        info = copied(tmp_path / "shop", sources, allow_truncated=True)
        assert info["allow_truncated"] is True
        assert info["counts"]["truncated_images"] == 20
        assert all(
            (tmp_path / f"shop/images/{n % 3}/{n}.jpg").read_bytes() == sources[n].read_bytes() for n in range(40)
        )

    def test_what_is_no_image_is_refused_even_so(self, tmp_path):
        sources, _ = save_images(tmp_path, 2)
        sources[1].write_bytes(b"nothing")
        with pytest.raises(
            CatwalkError,
            match=r"/1\.jpg cannot be read: .*; remove the file .*, or give --leave-out-damaged$",
        ):
            copied(tmp_path / "shop", sources, allow_truncated=True)
        assert sorted(os.listdir(tmp_path)) == ["0.jpg", "1.jpg"]

    @pytest.mark.parametrize("number", [2, 30])
    def test_all_damaged_ones_are_listed_or_left_out(self, tmp_path, capsys, number):
        sources, _ = save_images(tmp_path, 40)
        for source in sources[:number]:
            source.write_bytes(b"nothing")
        sources[39].write_bytes(sources[39].read_bytes()[:-300])
        with pytest.raises(
            CatwalkError, match=f"^{number + 1} of 40 images cannot be read, all listed above; the first"
        ):
            copied(tmp_path / "shop", sources)
        listed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("• ")]
        assert [line.split(" cannot")[0] for line in listed] == [
            f"• image {path}" for path in [*sources[:number], sources[39]]
        ]
        assert not (tmp_path / "shop").exists()
        with DatasetWriter(tmp_path / "shop") as writer:
            names = [f"images/{path.name}" for path in sources]
            rows = writer.copy_images(tmp_path, [path.name for path in sources], names, leave_out_damaged=True)
            assert rows == [*range(number), 39]
            writer.remove_images([names[38]])
            kept = [name for row, name in enumerate(names) if row not in {*rows, 38}]
            writer.write_items(kept, kept, ["Bag"] * len(kept))
            writer.describe(name="Copied", source="a test", licence="CC0-1.0", categories=["Bag"])
        assert sorted(os.listdir(tmp_path / "shop" / "images")) == sorted(name.split("/")[1] for name in kept)

    def test_where_all_are_damaged_leaving_them_out_is_no_help(self, tmp_path):
        sources, _ = save_images(tmp_path, 2)
        for source in sources:
            source.write_bytes(b"nothing")
        with pytest.raises(CatwalkError, match="2 of 2 images cannot be read"), DatasetWriter(tmp_path / "s") as writer:
            writer.copy_images(tmp_path, ["0.jpg", "1.jpg"], ["a.jpg", "b.jpg"], leave_out_damaged=True)

    def test_two_images_for_one_place_are_refused(self, tmp_path):
        """As "A.jpg" and "a.jpg" are on file systems that know no capitals."""
        sources, _ = save_images(tmp_path, 2)
        with (
            pytest.raises(CatwalkError, match=r"cannot be written: .*File exists"),
            DatasetWriter(tmp_path / "s") as writer,
        ):
            writer.copy_images(tmp_path, [path.name for path in sources], ["images/a.jpg"] * 2)

    def test_links_that_lead_out_of_the_source_are_refused(self, tmp_path):
        (tmp_path / "in").mkdir()
        sources, _ = save_images(tmp_path, 2)
        (tmp_path / "in" / "0.jpg").symlink_to(sources[0])
        with pytest.raises(CatwalkError, match=r"0\.jpg of the source, 0\.jpg lies behind a link that leads out"):
            copied(tmp_path / "shop", [tmp_path / "in" / "0.jpg"])

    def test_the_rest_is_not_copied_after_an_error(self, tmp_path, monkeypatch):
        save_images(tmp_path, 1)
        (tmp_path / "damaged.jpg").write_bytes(b"nothing")
        monkeypatch.setattr(dataset_writer, "CHUNK", 5000)
        monkeypatch.setattr(dataset_writer, "THREADS", 2)
        calls, started = [], threading.Event()

        def noted(path, **options):
            if path.name == "damaged.jpg":  # the disk fails while another thread is at its own 5000
                assert started.wait(timeout=60)
                raise OSError(5, "Input/output error", str(path))
            calls.append(path)
            started.set()
            return decode(path, **options)

        monkeypatch.setattr(dataset_writer, "decode", noted)
        with pytest.raises(CatwalkError, match=r"Input/output error"), DatasetWriter(tmp_path / "s") as writer:
            writer.copy_images(
                tmp_path, ["damaged.jpg", *["0.jpg"] * 9999], [f"{number}.jpg" for number in range(10_000)]
            )
        assert len(calls) < 4000


def test_a_published_split_is_written_and_counted(tmp_path):
    def write(dest, times):
        with DatasetWriter(dest) as writer:
            images = np.zeros((2, 4, 4), dtype=np.uint8)
            writer.write_images(["1.png", "2.png"], images)
            writer.write_items(["1", "2"], ["1.png", "2.png"], ["Bag", "Shoe"])
            writer.write_split("train", ["u", "v", "u"], ["1", "1", "2"], times)
            writer.write_split("test", ["v"], ["2"], times[3:])
            writer.describe(name="Split", source="a test", licence="CC0-1.0", categories=["Bag", "Shoe"])
        return writer.info["counts"]

    counts = write(tmp_path / "shop", [])
    assert {name: counts[name] for name in ("users", "interactions", "splits")} == {
        "users": 2,
        "interactions": 4,
        "splits": {"train": 3, "test": 1},
    }
    assert counts["per_category"]["Shoe"] == {"items": 1, "interactions": 2}
    assert (tmp_path / "shop" / "splits" / "train.csv").read_text() == "user_id,item_id\nu,1\nv,1\nu,2\n"
    assert (tmp_path / "shop" / "splits" / "test.csv").read_text() == "user_id,item_id\nv,2\n"
    with pytest.raises(ValueError, match="zip"):
        write(tmp_path / "uneven", [1, 2])
    assert os.listdir(tmp_path) == ["shop"]


def test_cells_of_any_text_read_back(tmp_path):
    texts = ["a\rb", "a\r\nb", "a\nb", 'a "b"', "a,b", " a ", "'", "\ufeffa", "\rx\r"]
    with DatasetWriter(tmp_path / "shop") as writer:
        writer.write_images(["1.png"], np.zeros((1, 4, 4), dtype=np.uint8))
        writer.write_items([str(number) for number in range(len(texts))], ["1.png"] * len(texts), texts, texts[::-1])
        writer.describe(name="Texts", source="a test", licence="CC0-1.0", categories=texts)
    assert Catalogue.read(tmp_path / "shop").category_names == tuple(texts)
    content = (tmp_path / "shop" / "items.csv").read_bytes()
    assert content.startswith(b"item_id,image,category,title\n0,1.png,")
    table = read_table(tmp_path / "shop" / "items.csv", ["category", "title"])
    assert table.column("category").to_pylist() == texts
    assert table.column("title").to_pylist() == texts[::-1]


def test_the_summary_of_many_categories_adds_up_those_without_a_row(tmp_path):
    categories = [f"category {number:02d}" for number in range(26)]
    with DatasetWriter(tmp_path / "shop") as writer:
        writer.write_images(["1.png"], np.zeros((1, 4, 4), dtype=np.uint8))
        writer.write_items([str(n) for n in range(52)], ["1.png"] * 52, categories * 2)
        bought = [str(item) for item in range(26) for _ in range(item)]
        writer.write_interactions([f"u{n}" for n in range(len(bought))], bought, range(len(bought)))
        writer.describe(name="Many", source="a test", licence="CC0-1.0", categories=categories)
    console = Console(file=io.StringIO(), width=200)
    print_summary(writer, console)
    shown = [re.split(r"\s*│\s*", line)[1:-1] for line in console.file.getvalue().splitlines() if line.startswith("│")]
    assert [row[0] for row in shown] == [*categories[:5:-1], "… 6 more categories", "All"]
    assert shown[0] == ["category 25", "2", "25", f"{25 / 325:.1%}", "12.5"]
    assert shown[-2] == ["… 6 more categories", "12", "15", f"{15 / 325:.1%}", "1.2"]
    assert shown[-1] == ["All", "52", "325", "100.0%", "6.2"]


def test_ids_sort_as_text_like_their_numbers():
    assert numbered("u", 11)[9:] == ["u09", "u10"]
    assert numbered("u", 10)[9:] == ["u9"]


@pytest.mark.parametrize(
    ("count", "what", "expected"),
    [
        (1, "names of image files in the other Unicode form", "1 name of an image file in the other Unicode form"),
        (
            1,
            "ids of items in their table, spelled in another way",
            "1 id of an item in its table, spelled in another way",
        ),
        (1, "ids of users spelled in another way ('a' for 'b')", "1 id of a user spelled in another way ('a' for 'b')"),
        (1, "other things", "1 other things"),
        (2_000, "names of categories", "2,000 names of categories"),
    ],
)
def test_one_thing_is_named_in_the_singular(count, what, expected):
    assert summary._counted(count, what) == expected
