"""What every importer checks: images that are missing or damaged, purchases of unknown items, names of categories."""

import csv
import json
import re

import pytest
from amazon_files import WOMEN, Shop, write_release
from publishers import picture, shop_options, write, write_csv, write_hm, write_shop, write_tree

from catwalk.cli.main import main
from catwalk.errors import CatwalkError
from catwalk.importers.folder import folder
from catwalk.importers.hm import hm
from catwalk.importers.items import refuse_strangers, tidy_categories
from catwalk.shop.catalogue import Catalogue


def tree(source):
    write_tree(source)
    return ["folder", str(source), "{dest}", "--purchases", f"{source}/log.csv"]


def table(source):
    write_shop(source)
    return ["folder", str(source), "{dest}", *shop_options(source)]


def kaggle(source):
    write_hm(source)
    return ["hm", str(source), "{dest}"]


def release(source):
    write_release(source, range(6), [("a", 1), ("b", 2), ("b", 3), ("a", 5)], [("a", 2), ("b", 4)])
    return ["amazon-release", str(source), "{dest}"]


def reviews(source):
    shop = Shop(0)
    source.mkdir()
    files = shop.write(source, "2014", compress=False)
    shop.write_images(source / "images")
    options = [f"--{name}={path}" for name, path in files.items()]
    return ["amazon-reviews", "{dest}", *options, f"--images={source}/images", f"--category={WOMEN}", "--core=1"]


SOURCES = [tree, table, kaggle, release, reviews]


def run(arguments, dest, *options):
    main(["data", *(argument.format(dest=dest) for argument in arguments), *options])


def error(capsys, arguments, dest, *options):
    """Return what an import that must fail writes to standard error, line by line without the progress bars."""
    with pytest.raises(SystemExit) as caught:
        run(arguments, dest, *options)
    assert caught.value.code == 2
    assert not dest.exists()
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith(("•", "catwalk"))]


def info_of(dest):
    return json.loads((dest / "dataset.json").read_text())


def rows(dest):
    """Return (user, item) of all purchases of a dataset folder."""
    paths = [path for path in (dest / "interactions.csv", *sorted(dest.glob("splits/*.csv"))) if path.is_file()]
    return [(row["user_id"], row["item_id"]) for path in paths for row in csv.DictReader(path.open())]


@pytest.mark.parametrize("make", SOURCES)
def test_all_damaged_images_are_listed_in_one_run_or_left_out_with_their_purchases(tmp_path, capsys, make):
    source = tmp_path / "source"
    arguments = make(source)
    run(arguments, tmp_path / "sound")
    sound = Catalogue.read(tmp_path / "sound")
    damaged = [sound.item_ids[0], sound.item_ids[-1]]
    contents = {(tmp_path / "sound" / sound.images[row]).read_bytes() for row in (0, -1)}
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and path.read_bytes() in contents]
    assert len(files) >= 2
    for path in files:
        path.write_bytes(b"<html>404</html>")
    capsys.readouterr()
    *listed, line = error(capsys, arguments, tmp_path / "shop")
    assert {re.search(r"image (.+?) cannot be read", text)[1] for text in listed} == {str(path) for path in files}
    assert re.search(r"images cannot be read, all listed above; .* --leave-out-damaged$", line)

    run(arguments, tmp_path / "shop", "--leave-out-damaged")
    left = Catalogue.read(tmp_path / "shop")
    lost = info_of(tmp_path / "shop")["left_out"]
    assert not {*damaged} & {*left.item_ids}
    assert lost["items whose image is damaged"] == len(files)
    kept = {*left.item_ids}
    assert {*rows(tmp_path / "shop")} == {row for row in rows(tmp_path / "sound") if row[1] in kept}
    assert lost["purchases of items whose image is damaged"] == len(rows(tmp_path / "sound")) - len(
        rows(tmp_path / "shop")
    )
    images = {path.relative_to(tmp_path / "shop").as_posix() for path in (tmp_path / "shop/images").rglob("*.*")}
    assert images == {*left.images}


def test_a_core_without_the_damaged_images_is_the_core_of_what_is_left(tmp_path):
    """Items and users that only the damaged one kept in the core go as well, and their copied images with them."""
    for name in "abc":
        write(tmp_path / "source" / "Shoes" / f"{name}.jpg", picture(ord(name)))
    write(tmp_path / "source" / "Bags" / "d.jpg", b"damaged")
    pairs = [(user, item) for user in ("u", "v") for item in "ab"] + [("u", "c"), ("w", "c"), ("w", "d"), ("x", "d")]
    write_csv(tmp_path / "log.csv", ("user_id", "item_id"), pairs)
    options = {"purchases": tmp_path / "log.csv", "core": 2}
    folder(tmp_path / "source", tmp_path / "shop", leave_out_damaged=True, **options)
    assert Catalogue.read(tmp_path / "shop").item_ids == ("a", "b")
    assert sorted(rows(tmp_path / "shop")) == [("u", "a"), ("u", "b"), ("v", "a"), ("v", "b")]
    assert sorted(path.name for path in (tmp_path / "shop" / "images").iterdir()) == ["a.jpg", "b.jpg"]


class TestLostZeros:
    """A spreadsheet has taken ids for numbers and saved them without their zeros."""

    def strip(self, path, column):
        with path.open(newline="") as file:
            table = list(csv.DictReader(file))
        for row in table:
            row[column] = row[column].lstrip("0")
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)

    def test_of_the_articles(self, tmp_path, capsys):
        arguments = kaggle(tmp_path / "source")
        self.strip(tmp_path / "source" / "articles.csv", "article_id")
        (tmp_path / "source" / "images").rename(tmp_path / "source" / "photographs")  # a link to them is looked behind
        (tmp_path / "source" / "images").symlink_to("photographs")
        [line] = error(capsys, arguments, tmp_path / "shop")
        assert line == (
            f"catwalk: error: {tmp_path}/source/articles.csv: 5 of 5 items have no image below {tmp_path}/source; that "
            "of item '108775015' is 'images/108/108775015.jpg', and an image that is there is "
            "'images/010/0108775015.jpg' (leading zeros were lost: save the table anew, with its ids as text)"
        )

    @pytest.mark.parametrize("options", [[], ["--group", "Ladieswear"]])
    def test_of_the_transactions(self, tmp_path, capsys, options):
        arguments = kaggle(tmp_path / "source")
        self.strip(tmp_path / "source" / "transactions_train.csv", "article_id")
        [line] = error(capsys, arguments, tmp_path / "shop", *options)
        assert line == (
            f"catwalk: error: {tmp_path}/source/transactions_train.csv: 8 of 8 purchases are of items that "
            f"{tmp_path}/source/articles.csv does not have, such as '108775015'; its ids are like '0108775015' "
            "(leading zeros were lost: save the table anew, with its ids as text)"
        )

    def test_of_somebodys_own_table(self, tmp_path, capsys):
        for number in range(4):
            write(tmp_path / "source" / "Shoes" / f"00{number}1.jpg", picture(number))
        write_csv(tmp_path / "log.csv", ("user_id", "item_id"), [("u", "x"), ("u", "11"), ("v", "21")])
        [line] = error(
            capsys, ["folder", f"{tmp_path}/source", "{dest}", f"--purchases={tmp_path}/log.csv"], tmp_path / "shop"
        )
        assert line.endswith(
            "does not have, such as '11'; its ids are like '0011' (leading zeros were lost: save the table anew, with "
            "its ids as text)"
        )

    @pytest.mark.parametrize(
        ("own", "bought", "reason"),
        [
            ("0108775015", "108775015.0", "leading zeros were lost"),
            ("000", "0.0", "leading zeros were lost"),
            ("000", "0", "leading zeros were lost"),
            ("108775015123", "1.08775E+11", "digits were lost to scientific notation"),
        ],
    )
    def test_of_ids_that_became_numbers(self, tmp_path, own, bought, reason):
        with pytest.raises(CatwalkError) as caught:
            refuse_strangers(2, 2, ["x", bought] if "zeros" in reason else [bought], ["y", own], tmp_path, tmp_path)
        assert f"such as {bought!r}; its ids are like" in str(caught.value)
        assert str(caught.value).endswith(f"({reason}: save the table anew, with its ids as text)")

    def test_other_strangers_have_lost_nothing(self, tmp_path):
        with pytest.raises(CatwalkError, match=r"such as 'x1'; its ids are like 'y'$"):
            refuse_strangers(2, 2, ["x1", "10"], ["y", "1"], tmp_path, tmp_path)

    def test_a_few_unknown_articles_are_counted(self, tmp_path):
        source = write_hm(tmp_path / "source")
        with (source / "transactions_train.csv").open("a") as file:
            file.write("2018-09-24,00ab,108775015,0.1,2\n")
        hm(source, tmp_path / "shop")
        assert info_of(tmp_path / "shop")["left_out"]["purchases of other articles"] == 1


class TestMostAreMissing:
    def test_photographs_of_hm(self, tmp_path, capsys):
        arguments = kaggle(tmp_path / "source")
        for path in sorted((tmp_path / "source" / "images").rglob("*.jpg"))[:3]:
            path.unlink()
        [line] = error(capsys, arguments, tmp_path / "shop")
        assert "articles.csv: 3 of 5 items have no image below" in line
        assert "an image that is there is 'images/012/0126589003.jpg'" in line

    def test_reviews_of_items_that_the_metadata_lack(self, tmp_path, capsys):
        arguments = reviews(tmp_path / "source")
        file = next((tmp_path / "source").glob("*reviews*"))
        file.write_text(file.read_text().replace('"asin": "B', '"asin": "C'))
        [line] = error(capsys, arguments, tmp_path / "shop")
        assert re.search(
            r"700 of 700 reviews are of items that .* does not have, such as 'C0+'; its ids are like 'B", line
        )

    def test_images_of_the_core_of_reviews(self, tmp_path, capsys):
        arguments = reviews(tmp_path / "source")
        images = sorted((tmp_path / "source" / "images").iterdir())
        for path in images[: len(images) * 2 // 3]:
            path.rename(path.with_name(f"x{path.name}"))
        [line] = error(capsys, arguments, tmp_path / "shop")
        assert re.search(r"items have no image below .*/images; that of item 'B\d+' is 'B\d+\.jpg'", line)

    def test_purchases_of_a_release(self, tmp_path, capsys):
        write_release(tmp_path / "source", range(3), [("a", 1), ("b", 7), ("b", 8)], [("a", 2)])
        [line] = error(capsys, ["amazon-release", f"{tmp_path}/source", "{dest}"], tmp_path / "shop")
        assert "trainingset.tsv: 2 of 3 purchases are of items that" in line
        assert line.endswith("does not have, such as '7'; its ids are like '0'")


class TestCategories:
    @pytest.mark.parametrize("blank", [" ", "\t", "\u200b", " \ufeff\u00a0", "\u3164"])
    def test_blank_ones_are_refused(self, tmp_path, capsys, blank):
        arguments = table(tmp_path / "table")
        items = tmp_path / "table" / "items.csv"
        items.write_text(items.read_text().replace("Bags", blank, 1))
        assert error(capsys, arguments, tmp_path / "shop") == [
            f"catwalk: error: {items}, row 2: 'department' is blank: name the category, or remove the row"
        ]
        arguments = kaggle(tmp_path / "hm")
        articles = tmp_path / "hm" / "articles.csv"
        articles.write_text(articles.read_text().replace("Underwear body", blank, 1))
        [line] = error(capsys, arguments, tmp_path / "shop")
        assert line.endswith("articles.csv, row 4: 'product_type_name' is blank: name the category, or remove the row")
        arguments = tree(tmp_path / "tree")
        (tmp_path / "tree" / "Bags").rename(tmp_path / "tree" / blank)
        [line] = error(capsys, arguments, tmp_path / "shop")
        assert f"{tmp_path}/tree has the blank name" in line
        (tmp_path / "shop").mkdir()
        write(tmp_path / "by hand" / "1.jpg", picture(1))
        write_csv(tmp_path / "by hand" / "items.csv", ("item_id", "image", "category"), [("1", "1.jpg", blank)])
        with pytest.raises(CatwalkError, match=r"items\.csv: a category has the blank name"):
            Catalogue.read(tmp_path / "by hand")

    def test_names_that_look_the_same_are_one_category_and_counted(self, tmp_path, capsys):
        names = ["Jérsey", "Jérsey ", "Je\u0301rsey", "\ufeffJérsey", "Jér\u200bsey", "Bags"]
        for number, _ in enumerate(names):
            write(tmp_path / "source" / f"{number}.jpg", picture(number))
        items = [(str(number), f"{number}.jpg", name) for number, name in enumerate(names)]
        write_csv(tmp_path / "items.csv", ("item_id", "image", "category"), items)
        folder(tmp_path / "source", tmp_path / "shop", items=tmp_path / "items.csv")
        assert Catalogue.read(tmp_path / "shop").category_names == ("Bags", "Jérsey")
        assert info_of(tmp_path / "shop")["repaired"] == {"names of categories": 4}
        assert "repaired: 4 names of categories" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("make", "file", "category"),
        [
            (tree, "Bags", "Bags"),
            (table, "items.csv", "Bags"),
            (kaggle, "articles.csv", "Vest top"),
            (release, "original/classes.csv", "Jersey"),
            (reviews, "metadata_2014.json", "Dresses"),
        ],
    )
    def test_every_importer_takes_them_for_one(self, tmp_path, make, file, category):
        source = tmp_path / "source"
        arguments = make(source)
        path, composed, decomposed = source / file, "K\u00e9", "Ke\u0301"
        if make is release:
            classes = "".join(f"{item},1,{category},1\n" for item in range(6))
            write(path, f"ImageID,ClassNum,ClassStr,Prob\n{classes}")
        if path.is_dir():
            (source / composed).mkdir()
            (path / "b1.jpg").rename(source / composed / "b1.jpg")
            path.rename(source / decomposed)
        else:
            text = path.read_text().replace(category, composed)
            path.write_text(text.replace(composed, decomposed, text.count(composed) // 2))
        run(arguments, tmp_path / "shop")
        names = Catalogue.read(tmp_path / "shop").category_names
        assert [name for name in names if name.startswith("K")] == [composed]
        assert info_of(tmp_path / "shop")["repaired"]["names of categories"] > 0

    def test_the_row_of_a_blank_one_counts_items_without_an_image(self, tmp_path, capsys):
        arguments = table(tmp_path / "source")
        path = tmp_path / "source" / "items.csv"
        path.write_text(path.read_text().replace("photos/b.png", "").replace("ß,photos/d.jpg,Bags", "ß,photos/d.jpg, "))
        [line] = error(capsys, arguments, tmp_path / "shop")
        assert "items.csv, row 4: 'department' is blank" in line

    def test_what_joins_letters_and_sound_names_stay(self, tmp_path):
        names = ["می\u200cخواهم", "a\rb", "Été", "Shoes & bags"]
        assert tidy_categories(names, tmp_path) == (names, 0)
