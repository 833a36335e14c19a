"""A dataset folder is there whole, or not at all."""

import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catwalk.catalogue import Catalogue
from catwalk.errors import CatwalkError
from catwalk.images import decode
from datamodules.importers import dataset_writer
from datamodules.importers.dataset_writer import DatasetWriter, numbered

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


def test_a_second_import_into_the_same_place_is_refused(tmp_path):
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
    assert os.listdir(tmp_path) == [".tiny.partial"]
    # … and a dead one is.
    (tmp_path / ".tiny.partial" / "images" / "stray.png").write_bytes(b"half a file")
    with DatasetWriter(tmp_path / "tiny") as writer:
        fill(writer)
    with DatasetWriter(tmp_path / "uninterrupted") as writer:
        fill(writer)
    assert contents(tmp_path / "tiny") == contents(tmp_path / "uninterrupted")
    assert sorted(os.listdir(tmp_path)) == ["tiny", "uninterrupted"]


def test_ids_sort_as_text_like_their_numbers():
    assert numbered("u", 11)[9:] == ["u09", "u10"]
    assert numbered("u", 10)[9:] == ["u9"]
