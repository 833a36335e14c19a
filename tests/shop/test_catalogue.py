"""Reading a shop's catalogue."""

import hashlib
import json
import shutil

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from catwalk.errors import CatwalkError
from catwalk.shop.catalogue import Catalogue

ROWS = [("007", "images/a.png", "Shoe"), ("7", "images/b.png", "Bag"), ("x y", "images/c.png", "Shoe")]


def write_shop(folder, rows=ROWS, header=("item_id", "image", "category"), info=None):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in "abc":
        (folder / "images" / f"{name}.png").write_bytes(f"image {name}".encode())
    lines = [",".join(row) for row in (header, *rows)]
    (folder / "items.csv").write_text("\n".join(lines) + "\n")
    if info is not None:
        (folder / "dataset.json").write_text(info if isinstance(info, str) else json.dumps(info))
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_shop(tmp_path / "shop")


def test_items_stand_in_the_order_of_the_file(folder):
    catalogue = Catalogue.read(folder)
    assert len(catalogue) == 3
    assert catalogue.item_ids == ("007", "7", "x y")
    assert catalogue.images == ("images/a.png", "images/b.png", "images/c.png")
    assert catalogue.category_names == ("Bag", "Shoe")
    assert catalogue.num_categories == 2
    assert catalogue.categories.tolist() == [1, 0, 1]
    assert catalogue.name == "shop"


def test_dataset_json_orders_and_names(folder):
    write_shop(folder, info={"name": "My shop", "categories": ["Shoe", "Hat", "Bag"]})
    catalogue = Catalogue.read(str(folder))
    assert catalogue.name == "My shop"
    assert catalogue.category_names == ("Shoe", "Hat", "Bag")
    assert catalogue.categories.tolist() == [0, 2, 0]


def test_parquet_is_read_as_csv_is(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    text = pa.csv.ConvertOptions(column_types={"item_id": pa.string()})
    table = pa.csv.read_csv(copy / "items.csv", convert_options=text)
    (copy / "items.csv").unlink()
    pa.parquet.write_table(table, copy / "items.parquet")
    first, second = Catalogue.read(folder), Catalogue.read(copy)
    assert (first.item_ids, first.images, first.category_names) == (
        second.item_ids,
        second.images,
        second.category_names,
    )
    assert first.categories.tolist() == second.categories.tolist()
    assert first.fingerprint == second.fingerprint


class TestFingerprint:
    def test_it_does_not_depend_on_the_place(self, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "elsewhere" / "under another name")
        copy = Catalogue.read(tmp_path / "elsewhere" / "under another name")
        assert copy.fingerprint == Catalogue.read(folder).fingerprint
        assert len(copy.fingerprint) == 64

    @pytest.mark.parametrize(
        "change",
        ["byte", "label", "id", "order", "declared", "image"],
    )
    def test_it_changes_with(self, folder, change):
        before = Catalogue.read(folder).fingerprint
        if change == "byte":
            (folder / "images" / "b.png").write_bytes(b"image B")
        elif change == "label":
            write_shop(folder, [ROWS[0], ("7", "images/b.png", "Shoe"), ROWS[2]])
        elif change == "id":
            write_shop(folder, [("0070", *ROWS[0][1:]), *ROWS[1:]])
        elif change == "order":
            write_shop(folder, ROWS[::-1])
        elif change == "declared":
            write_shop(folder, info={"categories": ["Bag", "Shoe", "Hat"]})
        else:
            write_shop(folder, [ROWS[0], ROWS[1], ("x y", "images/a.png", "Shoe")])
        assert Catalogue.read(folder).fingerprint != before

    def test_names_do_not_run_into_each_other(self, tmp_path):
        one = write_shop(tmp_path / "one", [("a", "images/a.png", "xy"), ("b", "images/b.png", "z")])
        two = write_shop(tmp_path / "two", [("a", "images/a.png", "x"), ("b", "images/b.png", "yz")])
        assert Catalogue.read(one).fingerprint != Catalogue.read(two).fingerprint


def test_keys_depend_on_the_id_alone(folder, tmp_path):
    keys = Catalogue.read(folder).keys
    expected = [int.from_bytes(hashlib.sha256(row[0].encode()).digest()[:8], "little", signed=True) for row in ROWS]
    assert keys.dtype == "int64"
    assert keys.tolist() == expected
    other = write_shop(tmp_path / "other", [("z", "images/c.png", "Bag"), ("007", "images/b.png", "Bag")])
    assert Catalogue.read(other).keys[1] == keys[0]


class TestErrors:
    def message(self, folder):
        with pytest.raises(CatwalkError) as caught:
            Catalogue.read(folder)
        return str(caught.value)

    def test_missing_folder(self, tmp_path):
        message = self.message(tmp_path / "absent")
        assert "absent is not a dataset folder: it does not exist; `catwalk data --help`" in message

    def test_no_items(self, tmp_path):
        assert "is not a dataset folder: it has no items.csv" in self.message(tmp_path)

    def test_both_forms(self, folder):
        (folder / "items.parquet").touch()
        assert "holds both items.csv and items.parquet: keep one of them" in self.message(folder)

    def test_repeated_id(self, folder):
        write_shop(folder, [*ROWS, ("7", "images/a.png", "Bag"), ("7", "images/a.png", "Bag")])
        assert "items.csv: item id '7' occurs 3 times" in self.message(folder)

    def test_missing_image_names_file_and_item(self, folder):
        (folder / "images" / "b.png").unlink()
        assert self.message(folder) == f"image {folder}/images/b.png of item '7' does not exist"

    def test_a_folder_is_no_image(self, folder):
        write_shop(folder, [("1", "images", "Bag")])
        assert "images of item '1' does not exist" in self.message(folder)

    def test_commands_to_a_terminal(self, folder):
        (folder / "items.csv").write_text("item_id,image,category\n1,images/a.png,\x1b[31mred\n")
        with pytest.raises(CatwalkError, match=r"items\.csv: a category holds control characters: '\\x1b\[31mred'"):
            Catalogue.read(folder)

    @pytest.mark.parametrize("linked", ["file", "folder", "folder in a folder", "chain"])
    def test_images_behind_links_that_lead_out(self, folder, linked):
        outside = folder.parent / "elsewhere"
        (outside / "deep").mkdir(parents=True)
        (outside / "a.png").touch()
        (outside / "deep" / "a.png").touch()
        image = {"file": "a.png", "folder": "linked/a.png", "folder in a folder": "linked/deep/a.png"}.get(linked, "b")
        if linked == "file":
            (folder / "a.png").symlink_to(outside / "a.png")
        elif linked == "chain":
            (folder / "b").symlink_to("c")
            (folder / "c").symlink_to("../elsewhere/a.png")
        else:
            (folder / "linked").symlink_to("../elsewhere")
        # The first image's folder is known to be inside, and must not vouch for the second's.
        write_shop(folder, [ROWS[0], ("1", image, "Bag")])
        message = f"image {folder}/{image} of item '1' lies behind a link that leads out of {folder}"
        assert self.message(folder) == message

    def test_a_link_that_leads_out_beside_an_image_that_does_not(self, folder):
        (folder.parent / "secret.png").touch()
        (folder / "images" / "d.png").symlink_to("../../secret.png")
        write_shop(folder, [*ROWS, ("1", "images/d.png", "Bag")])
        assert "images/d.png of item '1' lies behind a link that leads out of" in self.message(folder)

    def test_links_that_stay_inside_are_taken(self, folder):
        (folder / "images" / "d.png").symlink_to("a.png")
        (folder / "more").symlink_to("images")
        (folder.parent / "link").symlink_to(folder)
        write_shop(folder, [*ROWS, ("1", "images/d.png", "Bag"), ("2", "more/d.png", "Bag")])
        assert len(Catalogue.read(folder.parent / "link")) == 5

    def test_a_nul_in_a_path(self, folder):
        columns = {"item_id": ["1"], "image": ["images/a.png\0"], "category": ["Bag"]}
        (folder / "items.csv").unlink()
        pa.parquet.write_table(pa.table(columns), folder / "items.parquet")
        assert self.message(folder) == f"image 'images/a.png\\x00' of item '1' must be a path below {folder}"

    @pytest.mark.parametrize("image", ["/etc/passwd", "../shop/images/a.png", "images/../../secret.png"])
    def test_images_outside_the_folder(self, folder, image):
        (folder.parent / "secret.png").touch()
        write_shop(folder, [("1", image, "Bag")])
        assert self.message(folder) == f"image {image!r} of item '1' must be a path below {folder}"

    @pytest.mark.parametrize(("column", "name"), enumerate(("item_id", "image", "category")))
    def test_empty_cell(self, folder, column, name):
        rows = [list(row) for row in ROWS]
        rows[1][column] = ""
        write_shop(folder, rows)
        assert f"items.csv, row 2: {name!r} is empty" in self.message(folder)

    @pytest.mark.parametrize("name", ["item_id", "image", "category"])
    def test_missing_column(self, folder, name):
        header = [other if other != name else "other" for other in ("item_id", "image", "category")]
        write_shop(folder, header=header)
        assert f"items.csv lacks the column {name!r}; it has {', '.join(header)}" in self.message(folder)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "cannot be read: Empty CSV file"),
            (b"item_id,image,category\n", "has a header and no rows"),
            (b"item_id,image,category\n1,images/a.png\n", "line 2 has 2 cells and the header 3"),
            ("item_id,image,category\n1,images/a.png,Größe\n".encode("latin-1"), "line 2 is not UTF-8"),
        ],
    )
    def test_malformed_file(self, folder, content, message):
        (folder / "items.csv").write_bytes(content)
        assert message in self.message(folder)

    def test_undeclared_category(self, folder):
        write_shop(folder, info={"categories": ["Bag", "Hat"]})
        assert "items.csv: category 'Shoe' is not among the categories of dataset.json" in self.message(folder)

    @pytest.mark.parametrize("categories", ["Bag, Shoe", {"Bag": 1, "Shoe": 2}, [1, 2], 3])
    def test_declared_categories_that_are_no_list_of_names(self, folder, categories):
        write_shop(folder, info={"categories": categories})
        assert "categories in dataset.json must be a list of names" in self.message(folder)

    def test_category_declared_twice(self, folder):
        write_shop(folder, info={"categories": ["Bag", "Shoe", "Bag"]})
        assert "dataset.json names a category twice" in self.message(folder)

    @pytest.mark.parametrize(("info", "message"), [("{", "is not valid JSON"), ("[]", "must hold a JSON object")])
    def test_malformed_dataset_json(self, folder, info, message):
        write_shop(folder, info=info)
        assert f"dataset.json {message}" in self.message(folder)

    def test_unknown_category_name(self, folder):
        catalogue = Catalogue.read(folder)
        assert catalogue.category("Shoe", "source") == 1
        with pytest.raises(CatwalkError, match="source: there is no category 'Hat'; the categories are Bag, Shoe"):
            catalogue.category("Hat", "source")
        with pytest.raises(CatwalkError, match=r"no category .bags.; did you mean Bag\? The categories are Bag, Shoe"):
            catalogue.category("bags", "source")


def test_two_spellings_of_an_item_are_refused_and_those_of_a_category_found(tmp_path):
    (tmp_path / "i.png").touch()
    table = tmp_path / "items.csv"
    table.write_text("item_id,image,category\na,i.png,Ro\u0308cke\nb,i.png,Bags\na\u200b,i.png,Bags\n")
    with pytest.raises(CatwalkError, match=r"rows 1 and 3: the item ids 'a' and 'a\\u200b' are two spellings of one"):
        Catalogue.read(tmp_path)
    table.write_text("item_id,image,category\na,i.png,Ro\u0308cke\nb,i.png,Bags\n")
    assert Catalogue.read(tmp_path).category("R\u00f6cke", "source") == 1
