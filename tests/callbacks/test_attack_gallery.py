"""The gallery: the same items always, as they are, with what was found of them."""

import hashlib
from dataclasses import replace
from pathlib import Path

import attacks
import numpy as np
import pytest
import rankings
import torch
from PIL import Image
from pytorch_lightning import seed_everything
from safetensors.torch import load_file

import catwalk.plots.gallery
from callbacks import AttackGallery, InjectPoisonedImages
from catwalk.attacks import PGD
from catwalk.errors import CatwalkError
from catwalk.metrics.structural_similarity import structural_similarity
from catwalk.perceptual import LPIPS
from catwalk.plots.gallery import GalleryItem, difference, draw_gallery
from catwalk.shop.images import to_float
from datamodules import InteractionTriplets
from lightning_modules import BPRMF, VBPR


@pytest.fixture
def folder(attacked, tmp_path: Path) -> Path:
    return attacked(tmp_path / "earlier attack")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[GalleryItem]]:
    """Return a list to which every gallery adds its items as it is drawn."""
    collected: list[list[GalleryItem]] = []

    def draw_and_tell(items, title):
        collected.append(items)
        return draw_gallery(items, title)

    monkeypatch.setattr(catwalk.plots.gallery, "draw_gallery", draw_and_tell)
    return collected


def fit(make_trainer, data, *callbacks, model: VBPR | BPRMF | None = None, **settings):
    seed_everything(0, verbose=False)
    model = model or VBPR(factors=4, visual_factors=4, top_k=[5])
    make_trainer(**{"max_epochs": 2} | settings, callbacks=list(callbacks)).fit(model, data)
    return model


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB")).transpose(2, 0, 1)


def first_by_key(folder: Path, count: int) -> list[dict[str, str]]:
    """Return the rows of the attacked items whose ids have the smallest keys."""

    def key(row: dict[str, str]) -> int:
        return int.from_bytes(hashlib.sha256(row["item_id"].encode()).digest()[:8], "little", signed=True)

    return sorted(attacks.rows_of(folder / "attacked_items.csv"), key=key)[:count]


def expected_ranks(model, data, features: np.ndarray, item_ids: list[str]) -> list[float]:
    """Return the mean ranks of some items by brute force."""
    lists = attacks.ranked_candidates(attacks.scores_of(model, data, features), rankings.bought(data, "test"))
    items = [data.catalogue.item_ids.index(item) for item in item_ids]
    return [float(np.mean([own.index(item) + 1 for own in lists if item in own])) for item in items]


@pytest.mark.parametrize("order", [1, -1])
def test_a_fit_shows_what_its_attack_did(
    trained, triplets, shop, make_trainer, trunk, tmp_path, drawn, order: int
) -> None:
    """Images, opinions, distances and both ranks, whichever of the callbacks comes first."""
    folder = tmp_path / "attack"
    inject = InjectPoisonedImages(trained.checkpoint, PGD(epsilon=32.0), attacks.SOURCE, folder, attacks.TARGET)
    gallery = AttackGallery(folder, 5, "squeeze", trunk)
    model = fit(make_trainer, triplets, *[inject, gallery][::order])
    (items,) = drawn
    chosen = first_by_key(folder, 5)
    ids = [row["item_id"] for row in chosen]
    assert [item.item_id for item in items] == ids
    images = dict(zip(triplets.catalogue.item_ids, triplets.catalogue.images, strict=True))
    lpips = LPIPS("squeeze", trunk)
    for item, row in zip(items, chosen, strict=True):
        then, now = pixels(shop / images[item.item_id]), pixels(folder / row["image"])
        assert np.array_equal(item.before, then)
        assert np.array_equal(item.after, now)
        pair = torch.from_numpy(then)[None], torch.from_numpy(now)[None]
        with torch.no_grad():
            shares = [trained.classifier.network(to_float(image)).softmax(dim=1)[0] for image in pair]
        names = trained.classifier.category_names
        for share, category, probability in (
            (shares[0], item.category_before, item.probability_before),
            (shares[1], item.category_after, item.probability_after),
        ):
            assert category == names[int(share.argmax())]
            assert probability == pytest.approx(float(share.max()), rel=1e-4)
        assert item.success == (item.category_after == attacks.TARGET)
        assert item.ssim == pytest.approx(structural_similarity(*pair).item(), rel=1e-12)
        assert item.lpips == pytest.approx(lpips(*map(to_float, pair)).item(), rel=1e-3, abs=1e-6)
    poisoned = load_file(folder / "features.safetensors")["features"].numpy()
    for features, found in (
        (trained.table.features.numpy(), [item.rank_before for item in items]),
        (poisoned, [item.rank_after for item in items]),
    ):
        assert found == pytest.approx(expected_ranks(model, triplets, features, ids), rel=1e-3)
    assert [item.rank_before for item in items] != [item.rank_after for item in items]
    assert Image.open(folder / "gallery.png").size[0] > 500


def test_a_test_shows_an_earlier_attack_with_the_distances_measured_then(
    trained, folder, triplets, recommender, model, make_trainer, trunk, drawn
) -> None:
    """Those of images that another attack wrote into the folder before are not taken for those of these."""
    path = folder / "perceptual_distances.csv"
    distances = {row["item_id"]: row["l2_levels"] for row in attacks.rows_of(folder / "attacked_items.csv")}
    lines = [f"{item},0.25,,{levels}" for item, levels in distances.items()]
    for content in ("\n".join(lines), "\n".join(line[:-1] for line in lines)):
        path.write_text(f"item_id,lpips,ssim,l2_levels\n{content}\n")
        callback = AttackGallery(folder, 2, "squeeze", trunk)
        make_trainer(callbacks=[callback]).test(model, triplets, ckpt_path=str(recommender), verbose=False)
        for features in (triplets.feature_table.features, model.model.features.features):  # the clean ones still
            assert torch.equal(features, trained.table.features)
    path.unlink()
    as_written, measured = drawn
    assert [(item.lpips, item.ssim) for item in as_written] == [(0.25, None)] * 2
    assert all(item.lpips != 0.25 and item.ssim is not None for item in measured)
    ids = [item.item_id for item in measured]
    clean = expected_ranks(model, triplets, triplets.feature_table.features.numpy(), ids)
    assert [item.rank_before for item in measured] == pytest.approx(clean, rel=1e-3)


def test_what_cannot_be_had_is_left_out(folder, triplets, make_trainer, drawn) -> None:
    """LPIPS without its weights, ranks by images of a recommender that looks at none, and items beyond the last."""
    callback = AttackGallery(folder, 100, trunk=folder / "missing.pth", on_missing="skip")
    with pytest.warns(UserWarning, match="LPIPS is left out: .*missing.pth does not exist"):
        fit(make_trainer, triplets, callback, model=BPRMF(factors=4, top_k=[5]), max_epochs=1)
    (items,) = drawn
    assert len(items) == len(attacks.rows_of(folder / "attacked_items.csv"))
    assert {(item.lpips, item.rank_before, item.rank_after) for item in items} == {(None, None, None)}
    assert all(0 < item.ssim < 1 for item in items)


def test_differences_are_drawn_around_grey() -> None:
    before = np.array([100, 100, 100, 0, 255], dtype=np.uint8).reshape(1, 1, 5).repeat(3, axis=0)
    after = np.array([100, 103, 92, 9, 250], dtype=np.uint8).reshape(1, 1, 5).repeat(3, axis=0)
    assert difference(before, after)[0, 0].tolist() == [128, 176, 0, 255, 48]


@pytest.mark.parametrize(("count", "places"), [(1, 1), (5, 2)])
def test_every_picture_is_drawn_beside_the_others(count: int, places: int, tmp_path: Path) -> None:
    """Upright images of one colour, which are found again with their size and in their order."""
    colours = [(200, 40 * number, 10) for number in range(count)]
    items = [
        GalleryItem(
            item_id=f"$number$ {number}",
            before=np.full((3, 30, 20), np.array(colour).reshape(3, 1, 1), dtype=np.uint8),
            after=np.full((3, 30, 20), np.array(colour).reshape(3, 1, 1) + 3, dtype=np.uint8),
            category_before="手袋",
            probability_before=0.9,
            category_after="Bag " * 30,
            probability_after=0.5,
            success=True,
            ssim=None,
            lpips=0.1,
            rank_before=2000.0,
            rank_after=None,
        )
        for number, colour in enumerate(colours)
    ]
    catwalk.plots.style.save(draw_gallery(items, "Title"), tmp_path / "gallery.png")
    picture = pixels(tmp_path / "gallery.png").transpose(1, 2, 0)
    rows = -(-count // places)
    corners = []
    for colour in colours:
        tops, lefts = [], []
        for expected in (colour, tuple(level + 3 for level in colour)):
            y, x = np.nonzero((picture == expected).all(axis=2))
            height, width = np.ptp(y) + 1, np.ptp(x) + 1
            assert len(y) == height * width > 10_000
            assert height / width == pytest.approx(1.5, abs=0.02)
            tops.append(y.min())
            lefts.append(x.min())
        assert tops[0] == tops[1]
        assert lefts[0] < lefts[1]
        assert tuple(picture[tops[0] + 5, 2 * lefts[1] - lefts[0] + 5]) == (176, 176, 176)
        corners.append((lefts[0], tops[0]))
    assert corners == sorted(corners)
    assert len({left for left, _ in corners}) == places
    assert len({top for _, top in corners}) == rows


def test_an_attack_on_another_network_is_refused(folder, trained, shop, make_trainer, trunk, tmp_path) -> None:
    replace(trained.table, network="another").write(tmp_path, trained.catalogue)
    data = InteractionTriplets(shop, tmp_path)
    with pytest.raises(CatwalkError, match="was attacked by another network than the one that made the recommender's"):
        fit(make_trainer, data, AttackGallery(folder, 1, "squeeze", trunk))


def test_a_gallery_of_nothing_is_refused() -> None:
    with pytest.raises(CatwalkError, match=r"AttackGallery\.items must be at least 1, got 0"):
        AttackGallery(Path("attack"), 0)
