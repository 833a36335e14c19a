"""Trees of images whose folders are splits: read as labelled images, or refused where it is not plain."""

import json

import pytest
from publishers import picture, write, write_csv

from catwalk.cli.main import main
from catwalk.errors import CatwalkError
from catwalk.importers.folder import folder
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.labelled_images import SPLITS, LabelledImages


def tree(source, *paths):
    for number, path in enumerate(paths):
        write(source / path, picture(number))
    return source


def labelled(dest):
    catalogue = Catalogue.read(dest)
    read = LabelledImages.read(catalogue)
    names = [read.category_names[number] for number in read.categories]
    assert read.images == catalogue.images
    return dict(zip(catalogue.item_ids, zip(names, (SPLITS[split] for split in read.splits), strict=True), strict=True))


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        *(("train", "validation", "test"), ("Training", "val", "TEST"), ("TRAIN", "valid", "testing")),
        *(
            ("train ", "dev", "holdout"),
            ("training_set", "eval images", "test-images"),
            ("TrainSplit", "val", "testset"),
        ),
    ],
)
def test_folders_called_as_splits_are_splits(tmp_path, capsys, train, validation, test):
    source = tree(
        tmp_path / "source",
        f"{train}/Shoes/1.jpg",
        f"{train}/Bags/2.jpg",
        f"{train}/Bags/large/3.jpg",
        f"{validation}/Shoes/4.jpg",
        f"{test}/Bags/5.jpg",
    )
    main(["data", "folder", str(source), str(tmp_path / "shop")])
    assert labelled(tmp_path / "shop") == {
        "1": ("Shoes", "train"),
        "2": ("Bags", "train"),
        "3": ("Bags", "train"),
        "4": ("Shoes", "validation"),
        "5": ("Bags", "test"),
    }
    assert Catalogue.read(tmp_path / "shop").category_names == ("Bags", "Shoes")
    info = json.loads((tmp_path / "shop" / "dataset.json").read_text())
    assert info["counts"]["labelled_images"] == {"train": 3, "validation": 1, "test": 1}
    assert info["made_by"]["layout"] == "splits"
    out = " ".join(capsys.readouterr().out.split())
    assert all(part in out for part in ("3 train", "1 validation", "1 test"))


@pytest.mark.parametrize(
    "paths",
    [
        ["train/Shoes/1.jpg", "test/Bags/2.jpg"],
        ["validation/Shoes/1.jpg", "test/Bags/2.jpg"],
        ["train/Shoes/1.jpg", "train/Bags/2.jpg"],
    ],
)
def test_not_all_splits_need_to_be_there(tmp_path, paths):
    folder(tree(tmp_path / "source", *paths), tmp_path / "shop")
    assert Catalogue.read(tmp_path / "shop").category_names == ("Bags", "Shoes")


@pytest.mark.parametrize("name", ["dataset", "images", "training shoes", "developer", "set", "test_imagess"])
def test_other_folders_are_no_splits_and_one_category_is_told(tmp_path, capsys, name):
    main(["data", "folder", str(tree(tmp_path / "source", f"{name}/Shoes/1.jpg")), str(tmp_path / "shop")])
    assert Catalogue.read(tmp_path / "shop").category_names == (name,)
    out = " ".join(capsys.readouterr().out.split())
    assert f"there is one category, {name!r}: an attack leads items from one to another" in out


def test_files_that_are_numbered_anew_in_every_folder_get_the_folders_into_their_ids(tmp_path):
    source = tree(tmp_path / "source", "train/Shoes/1.jpg", "train/Bags/1.jpg", "test/Shoes/1.jpg", "test/Bags/2.jpg")
    folder(source, tmp_path / "shop")
    assert labelled(tmp_path / "shop") == {
        "test-Bags-2": ("Bags", "test"),
        "test-Shoes-1": ("Shoes", "test"),
        "train-Bags-1": ("Bags", "train"),
        "train-Shoes-1": ("Shoes", "train"),
    }
    write_csv(tmp_path / "log.csv", ("user_id", "item_id"), [("ann", "1")])
    with pytest.raises(CatwalkError, match="both give the item '1': rename one of them"):
        folder(source, tmp_path / "other", purchases=tmp_path / "log.csv")
    write(source / "train/Shoes/1.png", picture(9, "PNG"))
    with pytest.raises(CatwalkError, match="both give the item 'train-Shoes-1': rename one of them"):
        folder(source, tmp_path / "other")


def test_purchases_and_a_core_leave_the_splits_right(tmp_path):
    source = tree(tmp_path / "source", "train/Shoes/a.jpg", "train/Bags/b.jpg", "test/Shoes/c.jpg")
    write_csv(source / "log.csv", ("user_id", "item_id"), [(user, item) for user in "uv" for item in "bc"])
    folder(source, tmp_path / "shop", purchases=source / "log.csv", core=2)
    assert labelled(tmp_path / "shop") == {"b": ("Bags", "train"), "c": ("Shoes", "test")}


def test_the_layout_can_be_given(tmp_path):
    source = tree(tmp_path / "source", "train/Shoes/1.jpg", "test/Bags/2.jpg")
    main(["data", "folder", str(source), str(tmp_path / "shop"), "--layout", "categories"])
    assert Catalogue.read(tmp_path / "shop").category_names == ("test", "train")
    assert not (tmp_path / "shop" / "labelled_images.csv").exists()
    # A model railway's shop: a single split's name among others is a category.
    folder(tree(tmp_path / "toys", "Train/1.jpg", "Cars/2.jpg"), tmp_path / "toy shop")
    assert Catalogue.read(tmp_path / "toy shop").category_names == ("Cars", "Train")


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        (
            ["train/Shoes/1.jpg", "test/Shoes/2.jpg", "masks/3.jpg"],
            [],
            "source: {source} has the splits test, train and beside them masks: move these away, or give --layout "
            "categories if all of them are categories",
        ),
        (
            ["train/1.jpg", "test/2.jpg"],
            [],
            "source: {source} has no images in folders of categories, as in {source}/test/Shoes/item.jpg (2 images "
            "outside the folders of categories); or list them in a table with --items",
        ),
        (
            ["Shoes/train/1.jpg", "Shoes/test/2.jpg", "Bags/train/3.jpg"],
            [],
            "source: the folders in {source}/Bags are called test, train, as splits are: give {source}/Bags if the "
            "categories are in these, put the splits first, as in {source}/test/Bags/item.jpg, or give --layout "
            "categories to take no notice of them",
        ),
        (
            ["data/train/Shoes/1.jpg", "data/val/Shoes/2.jpg"],
            [],
            "source: the folders in {source}/data are called train, val, as splits are: give {source}/data if the "
            "categories are in these, put the splits first, as in {source}/train/data/item.jpg, or give --layout "
            "categories to take no notice of them",
        ),
        (
            ["Shoes/1.jpg"],
            ["--layout", "splits"],
            "layout: {source} has the folders Shoes, and splits are called train, training, val, valid, validation, "
            "test, testing, dev, eval, holdout",
        ),
        (
            ["Shoes/1.jpg"],
            ["--layout", "splits", "--items", "x.csv"],
            "layout: where ITEMS lists the images, it does not matter in which folders they are",
        ),
    ],
)
def test_what_may_be_either_is_refused(tmp_path, capsys, paths, options, message):
    source = tree(tmp_path / "source", *paths)
    with pytest.raises(SystemExit) as caught:
        main(["data", "folder", str(source), str(tmp_path / "shop"), *options])
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"catwalk: error: {message.format(source=source)}\n"
    assert not (tmp_path / "shop").exists()
