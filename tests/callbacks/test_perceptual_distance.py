"""What an attack's images look like, measured while a recommender is trained on them or tested with them."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import seed_everything
from pytorch_lightning.loggers import CSVLogger

from callbacks import InjectPoisonedImages
from callbacks.perceptual_distance import PerceptualDistance
from catwalk.attacks import PGD
from catwalk.errors import CatwalkError
from catwalk.metrics.structural_similarity import structural_similarity
from catwalk.perceptual import LPIPS
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.images import to_float
from lightning_modules import VBPR

pytestmark = pytest.mark.filterwarnings("ignore:images whose shorter side")


@pytest.fixture
def callbacks(trained, trunk: Path, tmp_path: Path) -> list:
    """Return the callback with the one that attacks behind it."""
    folder = tmp_path / "attack"
    return [
        PerceptualDistance(folder, "squeeze", trunk),
        InjectPoisonedImages(trained.checkpoint, PGD(epsilon=16.0), "Sandal", folder, "Sneaker"),
    ]


def fit(make_trainer, data, callbacks: list, **settings: object) -> VBPR:
    seed_everything(0, verbose=False)
    model = VBPR(factors=4, visual_factors=4, top_k=[5])
    make_trainer(max_epochs=1, callbacks=callbacks, **settings).fit(model, data)
    return model


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB")).transpose(2, 0, 1)


def test_every_image_has_a_row_and_the_means_are_logged(
    triplets, make_trainer, callbacks: list, trunk: Path, shop: Path, tmp_path: Path
) -> None:
    fit(make_trainer, triplets, callbacks, logger=CSVLogger(tmp_path, "log", "0"))
    images = dict(zip(triplets.catalogue.item_ids, triplets.catalogue.images, strict=True))
    attacked = read_csv(tmp_path / "attack" / "attacked_items.csv")
    rows = read_csv(tmp_path / "attack" / "perceptual_distances.csv")
    assert [row["item_id"] for row in rows] == [row["item_id"] for row in attacked]
    assert len(rows) > 3
    lpips = LPIPS("squeeze", trunk)
    psnrs = []
    for row, item in zip(rows, attacked, strict=True):
        then, now = pixels(shop / images[row["item_id"]]), pixels(tmp_path / "attack" / item["image"])
        differences = now.astype(float) - then
        assert int(row["linf_levels"]) == np.abs(differences).max() == int(item["linf_levels"])
        assert float(row["l2_levels"]) == float(item["l2_levels"])
        assert int(row["changed_pixels"]) == differences.any(axis=0).sum()
        mse = (differences**2).mean() / 255**2
        psnrs.append(10 * math.log10(1 / mse))
        assert float(row["mse"]) == pytest.approx(mse, rel=1e-12)
        assert float(row["psnr"]) == pytest.approx(psnrs[-1], rel=1e-12)
        pair = torch.from_numpy(then)[None], torch.from_numpy(now)[None]
        assert float(row["ssim"]) == pytest.approx(structural_similarity(*pair).item(), rel=1e-12)
        assert float(row["lpips"]) == pytest.approx(lpips(*map(to_float, pair)).item(), rel=1e-3, abs=1e-6)
    (logged,) = [row for row in read_csv(tmp_path / "log" / "0" / "metrics.csv") if row["attack/lpips"]]
    assert float(logged["attack/psnr"]) == pytest.approx(np.mean(psnrs), rel=1e-12)
    for name in ("lpips", "ssim", "mse", "l2_levels", "changed_pixels"):
        assert float(logged[f"attack/{name}"]) == pytest.approx(np.mean([float(row[name]) for row in rows]), rel=1e-12)
    assert float(logged["attack/linf_levels"]) == max(int(row["linf_levels"]) for row in rows)


def test_images_of_an_earlier_run_and_of_many_sizes_are_measured_in_a_test(
    triplets, recommender: Path, model, make_trainer, trunk: Path, shop: Path, attacked, tmp_path: Path
) -> None:
    """Images that the attack left as they were count for all means but that of PSNR; too small ones have no SSIM."""
    sizes = [(16, 16), (24, 13), (16, 16), (9, 30)]
    attacked(tmp_path)
    items, (some, *_) = Catalogue.read(shop), read_csv(tmp_path / "attacked_items.csv")
    rows = []
    for row, size in enumerate(sizes):
        with Image.open(shop / items.images[row]) as image:
            clean = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))
        Image.fromarray(clean ^ np.uint8(row % 2)).save(tmp_path / f"{row}.png")
        rows.append({**some, "item_id": items.item_ids[row], "image": f"{row}.png"})
    with (tmp_path / "attacked_items.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, some)
        writer.writeheader()
        writer.writerows(rows)
    logger = CSVLogger(tmp_path, "log", "0")
    callback = PerceptualDistance(tmp_path, "squeeze", trunk)
    make_trainer(callbacks=[callback], logger=logger).test(model, triplets, ckpt_path=str(recommender), verbose=False)
    rows = read_csv(tmp_path / "perceptual_distances.csv")
    assert [float(row["mse"]) for row in rows] == pytest.approx([0, 1 / 255**2] * 2, rel=1e-12)
    assert [int(row["changed_pixels"]) for row in rows] == [0, 24 * 13, 0, 9 * 30]
    assert [float(row["lpips"]) > 0 for row in rows] == [False, True] * 2
    assert rows[0]["psnr"] == "inf"
    assert rows[3]["ssim"] == ""
    (logged,) = [row for row in read_csv(tmp_path / "log" / "0" / "metrics.csv") if row["attack/lpips"]]
    assert float(logged["attack/psnr"]) == pytest.approx(20 * math.log10(255), rel=1e-12)
    assert "attack/ssim" not in logged


def test_a_missing_trunk_ends_the_run_before_anything_is_attacked_or_leaves_lpips_out(
    triplets, make_trainer, callbacks: list, tmp_path: Path
) -> None:
    attack, missing = tmp_path / "attack", tmp_path / "missing.pth"
    with pytest.raises(CatwalkError, match=f"trunk: {missing} does not exist"):
        fit(make_trainer, triplets, [PerceptualDistance(attack, trunk=missing), callbacks[1]])
    assert not attack.exists()
    with pytest.warns(UserWarning, match=f"LPIPS is left out: .*{missing} does not exist"):
        fit(make_trainer, triplets, [PerceptualDistance(attack, trunk=missing, on_missing="skip"), callbacks[1]])
    rows = read_csv(attack / "perceptual_distances.csv")
    assert {row["lpips"] for row in rows} == {""}
    assert all(float(row["ssim"]) < 1 for row in rows)
