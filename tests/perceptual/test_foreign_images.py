"""Folders of images that others have attacked: whose each is, what it may be, and what is measured of it."""

import csv
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from catwalk.attacks import PGD, ThreatModel
from catwalk.attacks.masks import Patch
from catwalk.cli.main import main
from catwalk.errors import CatwalkError
from catwalk.perceptual.foreign_images import judge_images
from catwalk.poisoning.poison import poison
from catwalk.shop.decoding import decode

ITEMS = (3, 40, 7)


def save(levels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels.transpose(1, 2, 0)).save(path)


@pytest.fixture
def changed(trained, tmp_path):
    """Three items' images with known changes: 5 levels in a patch, 9 levels in one value, none."""
    folder, levels = tmp_path / "foreign", {}
    for item in ITEMS:
        image = decode(trained.catalogue.folder / trained.catalogue.images[item]).clip(10, 245)
        levels[item] = image
    catalogue = trained.catalogue
    shop = tmp_path / "shop"
    shutil.copytree(catalogue.folder, shop, ignore=shutil.ignore_patterns(".cache"))
    for item in ITEMS:
        save(levels[item], shop / catalogue.images[item])
    patch, value, same = (levels[item].copy() for item in ITEMS)
    patch[:, :4, :4] += 5
    value[1, 12, 13] -= 9
    for item, image in zip(ITEMS, (patch, value, same), strict=True):
        save(image, folder / f"{catalogue.item_ids[item]}.png")
    return folder, type(catalogue).read(shop)


def test_distances_are_those_of_numpy(changed):
    folder, catalogue = changed
    rows = judge_images(folder, catalogue, ThreatModel("linf", 8))
    assert [row.item_id for row in rows] == [catalogue.item_ids[item] for item in sorted(ITEMS)]
    patch, value, same = (next(row for row in rows if row.item_id == catalogue.item_ids[item]) for item in ITEMS)
    assert (patch.pixels, patch.linf_levels, patch.is_allowed) == (16, 5, True)
    assert patch.l2_levels == pytest.approx(5 * math.sqrt(48))
    mse = 48 * (5 / 255) ** 2 / (3 * 16 * 16)
    assert patch.psnr == pytest.approx(10 * math.log10(1 / mse))
    assert (value.pixels, value.linf_levels, value.l2_levels, value.is_allowed) == (1, 9, 9.0, False)
    assert (same.pixels, same.psnr, same.ssim) == (0, math.inf, pytest.approx(1.0))
    assert [row.success for row in rows] == [row.category_after for row in rows] == [None] * 3


@pytest.mark.parametrize(
    ("ball", "allowed"),
    [
        (ThreatModel("l0", 1), (False, True, True)),
        (ThreatModel("l2", 20), (False, True, True)),
        (ThreatModel("linf", None, mask=Patch(0.25, corner="top_left")), (True, False, True)),
        (ThreatModel("linf", 4, mask=Patch(0.25, corner="top_left")), (False, False, True)),
    ],
)
def test_every_norm_and_a_mask_can_be_asked_for(changed, ball, allowed):
    folder, catalogue = changed
    rows = {row.item_id: row.is_allowed for row in judge_images(folder, catalogue, ball)}
    assert tuple(rows[catalogue.item_ids[item]] for item in ITEMS) == allowed


def test_our_own_folder_and_the_catalogues_names_are_understood(trained, tmp_path):
    attack = PGD(epsilon=8, iterations=3)
    poison(trained.classifier, attack, trained.catalogue, trained.table, tmp_path, source="Sandal", target="Sneaker")
    with (tmp_path / "attacked_items.csv").open() as file:
        written = {row["item_id"]: row for row in csv.DictReader(file)}

    def check():
        rows = judge_images(
            tmp_path, trained.catalogue, ThreatModel("linf", 8), classifier=trained.classifier, target="Sneaker"
        )
        assert [row.item_id for row in rows] == list(written)
        for row in rows:
            theirs = written[row.item_id]
            assert row.is_allowed
            assert (row.category_before, row.category_after) == (theirs["category_before"], theirs["category_after"])
            assert str(row.success) == theirs["success"]
            assert row.linf_levels == int(theirs["linf_levels"])

    check()
    (tmp_path / "attacked_items.csv").unlink()
    check()


def test_without_a_target_success_leads_away(trained, changed):
    folder, catalogue = changed
    ball = ThreatModel("linf", 8)
    for source in (None, "Bag"):
        rows = judge_images(folder, catalogue, ball, classifier=trained.classifier, source=source)
        assert [row.success for row in rows] == [row.category_after != (source or row.category_before) for row in rows]


def of_no_item(folder, image):
    save(image, folder / "nobody.png")


def twice(folder, image):
    own = next(folder.glob("*.png"))
    save(image, folder / "again" / own.name)


def too_large(folder, image):
    save(np.repeat(image, 2, axis=2), next(folder.glob("*.png")))


def transparent(folder, image):
    Image.fromarray(image.transpose(1, 2, 0)).convert("RGBA").save(next(folder.glob("*.png")))


def of_16_bits(folder, image):
    Image.fromarray(image[0].astype(np.uint16) * 257).save(next(folder.glob("*.png")))


def lossy(folder, image):
    Image.fromarray(image.transpose(1, 2, 0)).save(folder / "photo.jpg")


def empty(folder, image):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            of_no_item,
            r"nobody\.png: .* has no item 'nobody', nor an image nobody\.png; name each file by its item's id",
        ),
        (twice, r"again/.* are both of item .*; keep one|and again/.* are both of item"),
        (too_large, r"is 32×16, and the image of item .* has 16×16 pixels .*; give images of that size, or say by"),
        (transparent, r"is PNG of mode RGBA, with transparency; give PNG files of 8-bit RGB"),
        (of_16_bits, r"is PNG of mode I;16; give PNG files of 8-bit RGB"),
        (lossy, r"photo\.jpg: is no PNG file; save images as PNG"),
        (empty, r"holds no image; give one with a PNG file for each item"),
        (lambda folder, image: shutil.rmtree(folder), "is no folder; give one with a PNG file for each item"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(changed, damage, message):
    folder, catalogue = changed
    damage(folder, decode(catalogue.folder / catalogue.images[3]))
    with pytest.raises(CatwalkError, match=message):
        judge_images(folder, catalogue, ThreatModel("linf", 8))


def test_categories_need_a_network_that_knows_them(trained, changed):
    folder, catalogue = changed
    with pytest.raises(CatwalkError, match="classifier is missing: source and target are what a network sees"):
        judge_images(folder, catalogue, ThreatModel("linf", 8), target="Sneaker")
    with pytest.raises(CatwalkError, match="target"):
        judge_images(folder, catalogue, ThreatModel("linf", 8), classifier=trained.classifier, target="Sneakers")


def test_the_command_prints_a_table_and_says_by_its_code_whether_all_is_allowed(trained, changed, tmp_path, capsys):
    folder, catalogue = changed
    command = ["attack", "verify", str(folder), str(catalogue.folder)]
    main([*command, "--epsilon=9", f"--classifier={trained.checkpoint}", "--csv", str(tmp_path / "v.csv")])
    out = capsys.readouterr().out
    assert "3 of 3 images keep to linf, 9 grey levels" in out
    with (tmp_path / "v.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["pixels"] for row in rows) == ["0", "1", "16"]
    assert {row["is_allowed"] for row in rows} == {"True"}
    assert "" not in {row["category_after"] for row in rows}
    with pytest.raises(SystemExit) as end:
        main([*command, "--norm=l0", "--epsilon=1", "--mask=catwalk.attacks.masks.Patch"])
    assert end.value.code == 3
    assert "2 of 3 images keep to l0, 1 pixels, patch 0.25 × 0.25 bottom right" in capsys.readouterr().out
    assert not list(folder.glob("*.csv"))  # what is judged is left as it is
    with pytest.raises(SystemExit) as end:
        main(["attack", "verify"])
    assert end.value.code == 2
    assert "folder is missing: catwalk attack verify FOLDER DATASET" in capsys.readouterr().err


def test_images_are_judged_at_the_size_that_the_network_was_trained_on(changed, tmp_path):
    folder, catalogue = changed
    for path in folder.glob("*.png"):
        item = catalogue.item_ids.index(path.stem)
        save(decode(catalogue.folder / catalogue.images[item], (8, 8)), path)
    rows = judge_images(folder, catalogue, ThreatModel("linf", 0), image_size=(8, 8))
    assert [row.pixels for row in rows] == [0, 0, 0]
    assert torch.tensor([row.psnr for row in rows]).isinf().all()
