"""Anyone's own shop: images in folders or in a table, purchases in columns of any names."""

import json
import os
import signal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image
from publishers import ITEMS, LOG, picture, shop_options, tree_of, write, write_csv, write_shop, write_tree

from catwalk.cli.main import main
from catwalk.importers import image_tree as module
from catwalk.importers.folder import folder
from catwalk.importers.items import SUFFIXES
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.decoding import decode
from catwalk.shop.interactions import Interactions


def import_shop(source, dest, *options, purchases=True):
    main(["data", "folder", str(source), str(dest), *shop_options(source, purchases), *options])
    return Catalogue.read(dest)


def info_of(dest):
    return json.loads((dest / "dataset.json").read_text())


def left_out(dest):
    return {cause: count for cause, count in info_of(dest)["left_out"].items() if count}


def rows(dest):
    return [tuple(line.split(",")) for line in (dest / "interactions.csv").read_text().splitlines()[1:]]


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "shop"


class TestTables:
    @pytest.fixture
    def source(self, tmp_path):
        return write_shop(tmp_path / "source")

    def test_the_folder_reads_back(self, source, dest):
        catalogue = import_shop(source, dest, "--title", "label", "--licence", "CC0-1.0", "--origin", "Ann's shop")
        assert catalogue.item_ids == tuple(item for item, *_ in ITEMS)
        assert [catalogue.category_names[number] for number in catalogue.categories] == [row[2] for row in ITEMS]
        assert catalogue.images == ("images/007.jpg", "images/7.png", "images/x y.jpg", "images/ß.jpg")
        for (_, path, *_), image in zip(ITEMS, catalogue.images, strict=True):
            assert (dest / image).read_bytes() == (source / path).read_bytes()
        table = pa.csv.read_csv(dest / "items.csv")
        assert table.column("title").to_pylist() == [title for *_, title in ITEMS]
        assert rows(dest) == LOG
        info = info_of(dest)
        assert (info["name"], info["licence"], info["source"]) == ("source", "CC0-1.0", "Ann's shop")
        assert left_out(dest) == {}
        assert info["made_by"]["time"] == "when"
        assert str(source) not in json.dumps(info)

    def test_parquet_is_read_as_csv_is(self, source, dest, tmp_path):
        import_shop(source, dest)
        # Numbers stay text in the CSV, and a day is one in Parquet.
        text = {"customer": pa.string(), "article": pa.string(), "sku": pa.string()}
        for name in ("items", "log"):
            table = pa.csv.read_csv(source / f"{name}.csv", convert_options=pa.csv.ConvertOptions(column_types=text))
            pa.parquet.write_table(table, source / f"{name}.parquet")
        assert pa.parquet.read_schema(source / "log.parquet").field("when").type == pa.date32()
        tables = ["--items", f"{source}/items.parquet", "--purchases", f"{source}/log.parquet"]
        import_shop(source, tmp_path / "other", *tables)
        for name in ("items.csv", "interactions.csv"):
            assert (tmp_path / "other" / name).read_bytes() == (dest / name).read_bytes()

    def test_items_that_nobody_bought_stay_but_for_a_core(self, source, dest, tmp_path):
        assert "x y" in import_shop(source, dest).item_ids
        catalogue = import_shop(source, tmp_path / "core", "--core", "2")
        assert catalogue.item_ids == ("007", "7")
        assert catalogue.category_names == ("Bags", "Shoes")
        assert left_out(tmp_path / "core") == {
            "items outside the core": 2,
            "purchases of users or items with fewer than 2 (repeated until nothing changes)": 2,
        }
        assert rows(tmp_path / "core") == [row for row in LOG if row[0] != "bob"]

    def test_items_without_an_image_are_left_out_with_their_purchases(self, source, dest):
        (source / "photos" / "b.png").unlink()
        table = (source / "items.csv").read_text().replace("photos/d.jpg", "")
        (source / "items.csv").write_text(table)
        assert import_shop(source, dest).item_ids == ("007", "x y")
        assert left_out(dest) == {"items without an image": 2, "purchases of items without an image": 4}
        assert rows(dest) == [row for row in LOG if row[1] == "007"]

    def test_purchases_of_unknown_items_and_repeats_are_counted(self, source, dest):
        with (source / "log.csv").open("a") as file:
            file.write("ann,gone,2020-01-01\nann,07,2020-01-01\nann,007,2020-01-02\n")
        import_shop(source, dest)
        assert left_out(dest) == {
            "purchases of items that are not in the catalogue": 2,
            "repeated purchases of an item by the same user": 1,
        }
        assert rows(dest)[-1] == ("ann", "007", "2020-01-02")

    def test_without_times_the_order_of_rows_counts_and_is_said_to(self, source, dest, capsys):
        options = shop_options(source)
        main(["data", "folder", str(source), str(dest), *options[: options.index("--time")]])
        assert "the order of rows is the time of the purchases" in capsys.readouterr().out
        assert info_of(dest)["made_by"]["time"] == "the order of rows"
        assert [row[:2] for row in rows(dest)] == [row[:2] for row in LOG]
        times = Interactions.read(Catalogue.read(dest)).timestamps
        assert (np.diff(times) > 0).all()

    @pytest.mark.parametrize(
        ("times", "written"),
        [
            (["5", "-3", "5", "007", "1", "2"], ["5", "-3", "5", "7", "1", "2"]),
            (["5", "-3", "1e3", "0.25", "1", "2"], ["5.0", "-3.0", "1000.0", "0.25", "1.0", "2.0"]),
            (["2020-01-31"] * 5 + ["2020-02-01T10:00"], ["2020-01-31T00:00:00"] * 5 + ["2020-02-01T10:00:00"]),
            (["2020-01-31 10:00:00.5"] * 6, ["2020-01-31T10:00:00.500000"] * 6),
            (["2020-01-31T01:00:00+02:00"] * 6, ["2020-01-30T23:00:00"] * 6),
        ],
        ids=["whole numbers", "decimals", "days and times", "fractions", "time zone"],
    )
    def test_times_of_any_kind(self, source, dest, times, written):
        log = [(*row[:2], time) for row, time in zip(LOG, times, strict=True)]
        write_csv(source / "log.csv", ("customer", "article", "when"), log)
        catalogue = import_shop(source, dest)
        assert [row[2] for row in rows(dest)] == written
        assert len(Interactions.read(catalogue)) == 6

    def test_columns_may_serve_twice_and_have_one_name_in_both_tables(self, source, dest):
        write_csv(source / "log.csv", ("customer", "sku"), [row[:2] for row in LOG])
        columns = {"item": "sku", "image": "photo", "category": "department", "title": "department", "user": "customer"}
        folder(source, dest, items=source / "items.csv", purchases=source / "log.csv", **columns)
        assert (dest / "items.csv").read_text().splitlines()[1] == "007,images/007.jpg,Shoes,Shoes"
        assert len(rows(dest)) == 6

    def test_a_shop_without_purchases(self, source, dest, capsys):
        assert len(import_shop(source, dest, purchases=False)) == 4
        assert not (dest / "interactions.csv").exists()
        out = " ".join(capsys.readouterr().out.split())
        assert "no purchases: the folder serves CNNs and attacks on their images (catwalk attack)" in out
        assert "0 users" not in out

    def test_many_batches_keep_their_rows_together(self, source, dest, monkeypatch):
        monkeypatch.setattr("catwalk.shop.columns.BLOCK", 64)
        random = np.random.default_rng(0)
        pairs = random.permutation(np.arange(4 * 50))
        log = [(f"u{pair // 4}", ITEMS[pair % 4][0], str(random.integers(1000))) for pair in pairs]
        write_csv(source / "log.csv", ("customer", "article", "when"), log)
        import_shop(source, dest)
        assert rows(dest) == log

    def test_a_line_break_of_any_kind_in_a_title_reads_back(self, source, dest):
        table = pa.table({"sku": ["1", "2"], "photo": ["photos/a.jpg"] * 2, "department": ["a\rb", "c"]})
        pa.parquet.write_table(table, source / "items.parquet")
        catalogue = import_shop(source, dest, "--items", f"{source}/items.parquet", purchases=False)
        assert catalogue.category_names == ("a\rb", "c")

    def test_truncated_images_are_taken_where_that_is_allowed(self, source, dest):
        path = source / "photos" / "a.jpg"
        path.write_bytes(picture(5, size=(60, 80)))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        import_shop(source, dest, "--allow_truncated", "true")
        assert info_of(dest)["counts"]["truncated_images"] == 1
        assert (dest / "images" / "007.jpg").read_bytes() == path.read_bytes()

    def test_the_destination_may_lie_in_the_source(self, source):
        before = tree_of(source)
        assert len(import_shop(source, source / "new")) == 4
        assert {path: content for path, content in tree_of(source).items() if path.parts[0] != "new"} == before

    def test_a_full_disk_is_one_message_and_leaves_nothing(self, source, dest, tmp_path, monkeypatch, capsys):
        def full(*_):
            raise OSError(28, "No space left on device", "target")

        monkeypatch.setattr("catwalk.importers.dataset_writer.shutil.copyfileobj", full)
        before = tree_of(tmp_path)
        with pytest.raises(SystemExit) as caught:
            import_shop(source, dest)
        assert caught.value.code == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line == f"catwalk: error: {dest} cannot be written: [Errno 28] No space left on device: 'target'"
        assert tree_of(tmp_path) == before

    def test_ctrl_c_while_copying_leaves_nothing(self, source, dest, tmp_path, monkeypatch, capsys):
        def interrupted(*_):
            os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr("catwalk.importers.dataset_writer.shutil.copyfileobj", interrupted)
        before = tree_of(tmp_path)
        with pytest.raises(SystemExit) as caught:
            import_shop(source, dest)
        assert caught.value.code == 130
        assert capsys.readouterr().err.splitlines()[-1] == (
            "catwalk: stopped; nothing is left half-done: run the same command again"
        )
        assert tree_of(tmp_path) == before


class TestTreeOfFolders:
    @pytest.fixture
    def source(self, tmp_path):
        return write_tree(tmp_path / "source")

    def test_folders_are_categories_and_names_of_files_ids(self, source, dest):
        folder(source, dest, purchases=source / "log.csv", name="Mine")
        catalogue = Catalogue.read(dest)
        assert catalogue.name == "Mine"
        assert catalogue.item_ids == ("b1", "b2", "s1", "s2")
        assert [catalogue.category_names[number] for number in catalogue.categories] == ["Bags"] * 2 + ["Shoes"] * 2
        assert catalogue.images == ("images/b1.jpg", "images/b2.jpg", "images/s1.jpg", "images/s2.PNG")
        assert (dest / "images/s2.PNG").read_bytes() == (source / "Shoes/old/s2.PNG").read_bytes()
        assert rows(dest) == [("ann", "s1", "0"), ("bob", "b1", "1"), ("ann", "b1", "2")]
        assert left_out(dest) == {}

    def test_what_is_no_item_is_counted(self, source, dest):
        write(source / ".git" / "config", "")
        write(source / "Shoes" / ".hidden.jpg", picture(8))
        write(source / "Shoes" / "Thumbs.db", "")
        write(source / "Hats" / "README.txt", "none yet")
        write(source / "cover.jpg", picture(9))
        folder(source, dest)
        assert Catalogue.read(dest).category_names == ("Bags", "Shoes")
        assert left_out(dest) == {
            "hidden files and folders": 2,
            "files that are no images": 3,
            "images outside the folders of categories": 1,
        }

    def test_the_order_in_which_a_file_system_lists_does_not_show(self, source, dest, tmp_path, monkeypatch):
        folder(source, dest)
        walk = module.os.walk

        def reversed_walk(*arguments, **options):
            for place, folders, files in walk(*arguments, **options):
                folders.reverse()
                files.reverse()
                yield place, folders, files

        monkeypatch.setattr(module.os, "walk", reversed_walk)
        folder(source, tmp_path / "other")
        assert tree_of(tmp_path / "other") == tree_of(dest)

    def test_a_link_to_the_source_and_links_within_it_are_followed(self, source, dest, tmp_path):
        (source / "Bags" / "b3.jpg").symlink_to("../Shoes/s1.jpg")
        (tmp_path / "link").symlink_to(source)
        folder(tmp_path / "link", dest)
        assert not (dest / "images" / "b3.jpg").is_symlink()
        assert (dest / "images" / "b3.jpg").read_bytes() == (source / "Shoes" / "s1.jpg").read_bytes()

    def test_a_folder_that_cannot_be_looked_into_is_named(self, source, dest, monkeypatch, capsys):
        scan = module.os.scandir

        def guarded(place):
            if str(place).endswith("Bags"):
                raise PermissionError(13, "Permission denied", str(place))
            return scan(place)

        monkeypatch.setattr(module.os, "scandir", guarded)
        with pytest.raises(SystemExit) as caught:
            main(["data", "folder", str(source), str(dest)])
        assert caught.value.code == 2
        message = f"catwalk: error: source: {source}/Bags cannot be looked into: Permission denied\n"
        assert capsys.readouterr().err == message
        assert not dest.exists()

    def test_every_ending_is_that_of_a_format_that_pillow_reads(self, tmp_path):
        Image.init()
        not_everywhere, refused_by_name = {".avif", ".jp2"}, {".heic", ".heif"}
        read = SUFFIXES - not_everywhere - refused_by_name
        assert all(Image.registered_extensions()[suffix] in Image.OPEN for suffix in read)
        for suffix in (".jpg", ".png", ".gif", ".bmp", ".tif", ".webp", ".ppm"):
            Image.new("RGB", (5, 4), (9, 8, 7)).save(tmp_path / f"image{suffix}")
            assert decode(tmp_path / f"image{suffix}").shape == (3, 4, 5)
            assert suffix in SUFFIXES


@pytest.mark.parametrize("flag", [["--allow-truncated"], ["--allow_truncated", "true"], ["--allow_truncated=true"]])
def test_flags_may_stand_alone_and_names_have_dashes_or_underscores(tmp_path, flag):
    source = tmp_path / "shop"
    (source / "Bag").mkdir(parents=True)
    Image.fromarray(np.full((40, 40, 3), 9, np.uint8)).save(source / "Bag" / "a.jpg")
    content = (source / "Bag" / "a.jpg").read_bytes()
    (source / "Bag" / "a.jpg").write_bytes(content[: len(content) - 10])
    main(["data", "folder", *flag, str(source), str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["counts"]["truncated_images"] == 1
