"""Ids and times as they come, in every importer."""

import json
import unicodedata

import pytest
from amazon_files import write_release
from publishers import picture, shop_options, write, write_hm, write_shop

from catwalk import overview
from catwalk.cli.main import main
from catwalk.importers.amazon_release import amazon_release
from catwalk.importers.amazon_reviews import R2014, R2023, Goods, read_reviews
from catwalk.importers.hm import hm
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.interactions import Interactions
from catwalk.shop.splits import read_split

LOG = "customer,article,when\n"


def info_of(dest):
    return json.loads((dest / "dataset.json").read_text())


def import_shop(tmp_path, log, *options):
    source = tmp_path / "source"
    if not source.is_dir():
        write_shop(source)
    write(source / "log.csv", log)
    main(["data", "folder", str(source), str(tmp_path / "shop"), *shop_options(source), *options])
    return tmp_path / "shop"


def test_sound_input_has_nothing_to_repair(tmp_path):
    dest = import_shop(tmp_path, LOG + "ann,007,2020-01-03\nbob,7,2020-01-02\n")
    assert not {"repaired", "remarks"} & info_of(dest).keys()


@pytest.mark.parametrize("log", [None, "user_id,item_id\nu,1.2E+12\nu,m2\n"])
def test_doubtful_ids_of_items_are_told_once(tmp_path, log):
    for number, name in enumerate(("1.2E+12", "m2", "m\u00b2")):
        write(tmp_path / "tree" / "Shoes" / f"{name}.jpg", picture(number))
    options = []
    if log is not None:
        write(tmp_path / "log.csv", log)
        options = ["--purchases", f"{tmp_path}/log.csv"]
    main(["data", "folder", f"{tmp_path}/tree", f"{tmp_path}/dest", *options])
    remarks = [line for line in info_of(tmp_path / "dest")["remarks"] if " items have ids" in line]
    assert [line.split(" items")[0] for line in remarks] == ["2", "1"]
    found = overview.look(tmp_path / "dest").overview.weaknesses
    assert [line for line in found if " items have ids" in line] == remarks


def test_spellings_in_a_shop(tmp_path, capsys):
    rows = ["ann,007,1400000000", "ann\u200b,7.0,1400000001000", "\u00a0ann,\u00df\ufeff,1400000002.0", "bob,7,0"]
    dest = import_shop(tmp_path, LOG + "\n".join(rows) + "\n")
    interactions = Interactions.read(Catalogue.read(dest))
    assert interactions.user_ids == ("ann", "bob")
    assert len(interactions) == 4
    assert interactions.timestamps.tolist() == [1400000000000, 1400000001000, 1400000002000, 0]
    assert info_of(dest)["repaired"] == {
        "ids of users spelled in another way ('ann\\u200b' for 'ann')": 2,
        "ids of items spelled in another way ('7.0' for '7')": 2,
        "times in a column of floats that were all whole numbers": 4,
        "times in seconds, brought to milliseconds": 2,
    }
    printed = " ".join(capsys.readouterr().out.split())
    assert "repaired: 2 ids of users spelled in another way ('ann\\u200b' for 'ann')" in printed
    assert "doubtful: 1 of 4 times lie outside the years 1990 to 2099, such as 0 (1 zero)" in printed


@pytest.mark.parametrize(("in_table", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_file_names_in_the_other_form(tmp_path, in_table, on_disk):
    source = tmp_path / "source"
    write_shop(source)
    folder, name = (unicodedata.normalize(on_disk, text) for text in ("Röcke", "Größe é.jpg"))
    (source / folder).mkdir()
    (source / "photos" / "a.jpg").rename(source / folder / name)
    path = source / "items.csv"
    path.write_text(path.read_text().replace("photos/a.jpg", unicodedata.normalize(in_table, "Röcke/Größe é.jpg")))
    dest = import_shop(tmp_path, LOG + "ann,007,2020-01-03\n")
    assert len(Catalogue.read(dest)) == 4
    assert info_of(dest)["repaired"] == {"names of image files in the other Unicode form": 1}
    # A dataset folder that was written by hand, or moved.
    image = dest / Catalogue.read(dest).images[0]
    image.rename(dest / "images" / name)
    table = dest / "items.csv"
    table.write_text(table.read_text().replace("images/007.jpg", f"images/{unicodedata.normalize(in_table, name)}"))
    assert Catalogue.read(dest).images[0] == f"images/{name}"


@pytest.mark.parametrize("second", ["007 ", "007\u200b", "\ufeff007", "007.0"])
def test_two_spellings_of_an_item_are_refused(tmp_path, capsys, second):
    source = tmp_path / "source"
    write_shop(source)
    path = source / "items.csv"
    path.write_text(path.read_text().replace("\n7,", f"\n{second},"))
    with pytest.raises(SystemExit) as caught:
        import_shop(tmp_path, LOG + "ann,007,2020-01-03\n")
    assert caught.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == (
        f"catwalk: error: {path}, rows 1 and 2: sku '007' and {second!a} are two spellings of one id: keep one of the "
        "rows"
    )


def test_spellings_in_hm(tmp_path):
    source = write_hm(tmp_path / "source")
    articles, log = source / "articles.csv", source / "transactions_train.csv"
    articles.write_text(articles.read_text().replace("0108775044", "0108775044\u200b"))
    log.write_text(log.read_text().replace("2018-09-20,00ab,0108775015", " 2018-09-20,00ab ,0108775015\u00a0", 1))
    hm(source, tmp_path / "dest")
    hm(write_hm(tmp_path / "sound"), tmp_path / "same")
    for name in ("items.csv", "interactions.csv"):
        assert (tmp_path / "dest" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()
    assert sorted(info_of(tmp_path / "dest")["repaired"].values()) == [1, 1, 1]
    assert "repaired" not in info_of(tmp_path / "same")


def test_spellings_in_the_release(tmp_path):
    source = tmp_path / "men"
    write_release(source, range(3), [("a", 0)], [("a", 1)])
    (source / "trainingset.tsv").write_text("a\t0\t5\t1300000000\nb\t 1\t5\t1300000000000\na\u200b\t1.0\t5\t0\n")
    (source / "testset.tsv").write_text("a \t2\t5\t1400000000\nb\t0\t5\t1400000001\n")
    amazon_release(source, tmp_path / "dest")
    split = read_split(Catalogue.read(tmp_path / "dest"))
    assert split.user_ids == ("a", "b")
    assert sum(info_of(tmp_path / "dest")["repaired"].values()) == 2 + 1 + 1 + 1
    assert "such as 0 (1 zero)" in info_of(tmp_path / "dest")["remarks"][0]


@pytest.mark.parametrize("release", [R2014, R2023])
def test_spellings_in_reviews(tmp_path, release):
    factor = 1 if release is R2014 else 1000
    goods = Goods(release, ["A1", "A2"], places={"A1": 0, "A2": 1})
    seconds = 1_400_000_000
    rows = [("u", "A1", seconds), ("u\u200b", "A2 ", seconds * 1000), ("v", "A1", float(seconds * factor))]
    keys = (release.user, release.item, release.time)
    lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    write(tmp_path / "reviews", "\n".join(lines))
    purchases = read_reviews(tmp_path / "reviews", tmp_path / "metadata", goods)
    assert purchases.user_ids == ("u", "v")
    assert purchases.items.tolist() == [0, 1, 0]
    assert purchases.timestamps.astype("datetime64[s]").astype(int).tolist() == [seconds] * 3
    assert [count for count in purchases.repaired.values() if count] == [1] * 4


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_tables_with_other_marks(tmp_path, mark):
    source = tmp_path / "source"
    write_shop(source)
    path = source / "items.csv"
    table = "sku,photo,department,label\n007,photos/a.jpg,Shoes,Seven\n7,photos/b.png,Bags,Small\n"
    path.write_text(table.replace(",", mark))
    dest = import_shop(tmp_path, (LOG + 'ann,"007",2020-01-03\n').replace(",", mark))
    assert Catalogue.read(dest).item_ids == ("007", "7")
    assert not {"repaired", "remarks"} & info_of(dest).keys()


def test_a_tree_of_decomposed_names_takes_composed_purchases(tmp_path):
    name = unicodedata.normalize("NFD", "Größe")
    write(tmp_path / "tree" / "Shoes" / f"{name}.jpg", picture(1))
    write(tmp_path / "tree" / "Shoes" / "b.jpg", picture(2))
    write(tmp_path / "log.csv", "user_id,item_id\nann,Größe\nann,b\n")
    main(["data", "folder", f"{tmp_path}/tree", f"{tmp_path}/dest", "--purchases", f"{tmp_path}/log.csv"])
    assert Catalogue.read(tmp_path / "dest").item_ids == ("Größe", "b")
    assert list(info_of(tmp_path / "dest")["repaired"].values()) == [1]


def test_a_release_without_tabs_is_named_as_such(tmp_path, capsys):
    write_release(tmp_path / "men", range(3), [("a", 0)], [("a", 1)])
    write(tmp_path / "men" / "testset.tsv", "a;1\nb;2\n")
    with pytest.raises(SystemExit):
        main(["data", "amazon-release", str(tmp_path / "men"), str(tmp_path / "dest")])
    assert capsys.readouterr().err.endswith("its first line has 1, separated by semicolons\n")
