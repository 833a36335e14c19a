"""The paper's release in its authors' layout, with its quirks."""

import json
import random

import pytest
from amazon_files import write_release
from image_server import picture

from catwalk.importers.amazon_release import amazon_release, read_classes
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.columns import read_table
from catwalk.shop.splits import read_split


def rows(path, *columns):
    table = read_table(path, columns)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_split_stays_and_what_cannot_is_counted(tmp_path, width, seed):
    chance = random.Random(seed)
    items = sorted(chance.sample(range(60), 40))
    training = [(f"u{chance.randrange(25)}", chance.randrange(62)) for _ in range(300)]
    test = [(f"u{chance.randrange(28)}", chance.randrange(62)) for _ in range(60)]
    write_release(tmp_path / "amazon_men", items, training, test, width)
    (tmp_path / "amazon_men" / "original" / "images" / ".DS_Store").write_text("")
    amazon_release(tmp_path / "amazon_men", dest := tmp_path / "dest")

    def left(pairs):
        of_images = [pair for pair in pairs if pair[1] in items]
        return list(dict.fromkeys(of_images)), len(pairs) - len(of_images), len(of_images) - len(set(of_images))

    (kept_training, imageless, repeats), (kept_test, imageless_test, repeats_test) = left(training), left(test)
    overlap = sum(pair in kept_training for pair in kept_test)
    kept_test = [pair for pair in kept_test if pair not in kept_training]
    for part, kept in (("train", kept_training), ("test", kept_test)):
        path = dest / "splits" / f"{part}.csv"
        assert path.read_text().splitlines()[0] == "user_id,item_id"  # times of 0 and none tell nothing
        assert rows(path, "user_id", "item_id") == [(user, str(item)) for user, item in kept]
    info = json.loads((dest / "dataset.json").read_text())
    assert info["left_out"] == {
        "training purchases of items without an image": imageless,
        "test purchases of items without an image": imageless_test,
        "repeated purchases of an item by the same user": repeats + repeats_test,
        "test purchases that the same user has in training": overlap,
        "files that are no numbered image": 1,
        "classes of items without an image": 0,
    }
    assert min(overlap, repeats_test, imageless_test) > 0
    assert info["counts"]["splits"] == {"train": len(kept_training), "test": len(kept_test)}
    assert info["name"] == "Amazon Men"
    catalogue = Catalogue.read(dest)
    assert catalogue.item_ids == tuple(map(str, items))
    assert not (dest / "interactions.csv").exists()
    for item, image in zip(items, catalogue.images, strict=True):
        ending, form = [("jpg", "JPEG"), ("png", "PNG"), ("jpeg", "JPEG")][item % 3]
        assert image == f"images/{item}.{ending}"
        assert (dest / image).read_bytes() == picture(item, form)


def test_a_study_reads_the_split_as_it_was_published(tmp_path):
    training = [("b", 3), ("a", 0), ("a", 4), ("b", 0)]
    test = [("c", 4), ("a", 1), ("b", 1), ("a", 3)]
    write_release(tmp_path / "men", range(0, 6), training, test)
    amazon_release(tmp_path / "men", tmp_path / "dest")
    split = read_split(Catalogue.read(tmp_path / "dest"))
    users = dict(enumerate(split.user_ids))
    assert [(users[user], item) for user, item in zip(split.users, split.items, strict=True)] == training
    offsets, items = split.test.offsets.tolist(), split.test.items.tolist()
    held_out = [(users[user], item) for user in users for item in items[offsets[user] : offsets[user + 1]]]
    assert sorted(held_out) == sorted(test)


def test_times_that_tell_an_order_are_kept(tmp_path):
    write_release(tmp_path / "men", range(3), [("a", 0)], [("a", 1)])
    (tmp_path / "men" / "trainingset.tsv").write_text("a\t0\t5.0\t20\nb\t01\t1.0\t10\n")
    (tmp_path / "men" / "testset.tsv").write_text("a\t1\t5.0\t30\nb\t2\t1.0\t20.5\n")
    amazon_release(tmp_path / "men", tmp_path / "dest", name="Men")
    splits = tmp_path / "dest" / "splits"
    assert (splits / "train.csv").read_text() == "user_id,item_id,timestamp\na,0,20\nb,1,10\n"
    assert (splits / "test.csv").read_text() == "user_id,item_id,timestamp\na,1,30\nb,2,20.5\n"


def test_the_classes_are_the_categories(tmp_path, capsys):
    classes = [
        (0, 610, "jersey, T-shirt,  tee shirt"),
        (1, 134, "crane"),
        (2, 517, "crane"),
        (3, 459, 'bras ""sière""'),
        (3, 459, 'bras ""sière""'),
        (99, 1, "goldfish"),
    ]
    write_release(tmp_path / "women", range(5), [("a", 0), ("b", 0)], [("a", 1), ("c", 2)], classes=classes)
    amazon_release(tmp_path / "women", tmp_path / "dest")
    assert rows(tmp_path / "dest" / "items.csv", "item_id", "category") == [
        ("0", "jersey, T-shirt, tee shirt"),
        ("1", "crane (134)"),
        ("2", "crane (517)"),
        ("3", 'bras "sière"'),
        ("4", "unclassified"),
    ]
    info = json.loads((tmp_path / "dest" / "dataset.json").read_text())
    assert info["left_out"] == {"files that are no numbered image": 0, "classes of items without an image": 1}
    shown = " ".join(capsys.readouterr().out.split())
    assert "4 items have no purchase in training, and stay on sale" in shown
    assert "1 users occur in the test alone" in shown
    assert "1 items are not in classes.csv, and unclassified" in shown


def test_without_classes_the_categories_are_the_networks(tmp_path, capsys):
    write_release(tmp_path / "women", range(3), [("a", 0), ("a", 2)], [("a", 1)])
    assert read_classes(tmp_path / "women") == ({}, 0)
    amazon_release(tmp_path / "women", tmp_path / "dest")
    assert Catalogue.read(tmp_path / "dest").category_names == ("unclassified",)
    shown = " ".join(capsys.readouterr().out.split())
    assert "a study takes the classes that the network predicts (categories: imagenet)" in shown


def test_times_that_are_dropped_because_others_lack_are_counted(tmp_path):
    write_release(tmp_path / "release", range(4), [("u", 0), ("u", 1), ("v", 2)], [("v", 3)])
    rows_of_4 = ["u\t0\t1.0\t10", "u\t1\t1.0\t20", "v\t2\t1.0\t"]
    (tmp_path / "release" / "trainingset.tsv").write_text("\n".join(rows_of_4) + "\n")
    amazon_release(tmp_path / "release", tmp_path / "shop")
    left_out = json.loads((tmp_path / "shop" / "dataset.json").read_text())["left_out"]
    assert left_out["times of purchases, because others have none"] == 2
    assert "timestamp" not in (tmp_path / "shop" / "splits" / "train.csv").read_text()
