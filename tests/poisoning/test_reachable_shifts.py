"""Feature shifts that images can reach: by files, by the network's own layers, and against what cannot be exceeded."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from callbacks import WriteFeatures, WriteReachableShifts
from catwalk.attacks import FGSM, AttackContext
from catwalk.attacks.feature_shift import FeatureShift
from catwalk.errors import CatwalkError
from catwalk.networks.features import FeatureTable
from catwalk.poisoning.poison import poison
from catwalk.poisoning.reachable_shifts import find_shifts, principal_directions, shifts_of_attacked
from catwalk.poisoning.records import read_attacked_items
from catwalk.recommenders.reachable_shifts import ReachableShifts, ShiftSettings
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import VBPR, ImageRobustVBPR, ProductClassifier

SETTINGS = ShiftSettings(8.0, 2, 2)


@pytest.fixture(scope="module")
def found(trained):
    return find_shifts(trained.classifier, trained.catalogue, trained.table, SETTINGS)


def test_directions_are_those_of_the_singular_vectors():
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 5, 3, 2, 1, 0])
    directions = principal_directions(features, 10).numpy()
    centred = features.numpy() - features.numpy().mean(axis=0)
    expected = np.linalg.svd(centred.astype(np.float64))[2][:5]  # a sixth has no variance
    assert directions.shape == (5, 6)
    np.testing.assert_allclose(np.abs((directions * expected).sum(axis=1)), 1, atol=1e-5)
    assert (directions[np.arange(5), np.abs(directions).argmax(axis=1)] > 0).all()
    assert len(principal_directions(features, 2)) == 2


class Linear(nn.Module):
    """Features that are linear in the image, whose extremes over a ball have a closed form."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(108, 5), nn.Linear(5, 3)

    def features(self, images):
        return self.body(images.flatten(1))

    def forward(self, images):
        return self.head(self.features(images))


def test_the_furthest_point_of_a_linear_network_is_at_a_corner_of_the_ball():
    """max ⟨v, Wη⟩ over ‖η‖∞ ≤ ε is ε‖Wᵀv‖₁, far from the walls."""
    torch.manual_seed(0)
    network, images, directions = Linear(), 0.4 + 0.2 * torch.rand(4, 3, 6, 6), torch.randn(4, 5)
    result = FeatureShift(8.0, iterations=12)(network, images, directions)
    with torch.no_grad():
        moved = ((network.features(result.images) - network.features(images)) * directions).sum(1)
        expected = 8 / 255 * (directions @ network.body.weight).abs().sum(1)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)
    assert result.success.all()


def test_shifts_are_features_of_images_in_the_ball(trained, found):
    """By hand: the images that the search hands out, rounded inside the ball, by the network's own layers."""
    network, table = trained.classifier.network, trained.table
    assert found.shifts.shape == (90, 4, 64)
    torch.testing.assert_close(found.directions, principal_directions(table.features, 2))
    levels = torch.stack([torch.from_numpy(image.copy()) for image in _levels(trained)])
    clean = levels.float() / 255
    for place, direction in enumerate([*found.directions, *-found.directions]):
        attack = FeatureShift(8.0, 10.0, 2)
        moved = attack(network, clean, direction.expand(90, -1).clone()).images
        moved = attack.threat_model.quantise(moved, clean).float() / 255
        assert ((moved - clean).abs() <= 8 / 255 + 1e-6).all()
        with torch.no_grad():
            expected = network.body((moved - network.mean) / network.std) - network.body(
                (clean - network.mean) / network.std
            )
        torch.testing.assert_close(found.shifts[:, place], expected, rtol=1e-3, atol=1e-4)
    along = torch.einsum("njd,jd->nj", found.shifts, torch.cat([found.directions, -found.directions]))
    assert (along > 0).float().mean() > 0.95


def _levels(trained):
    for image in trained.catalogue.images:
        yield np.asarray(Image.open(trained.catalogue.folder / image).convert("RGB")).transpose(2, 0, 1)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_find_together_what_one_finds(trained, found, world_size):
    shares = []
    arguments = trained.classifier, trained.catalogue, trained.table, SETTINGS

    def keep(share):
        shares.append(share)
        return shares

    for rank in reversed(range(world_size)):
        result = find_shifts(*arguments, rank=rank, world_size=world_size, gather=keep)
    assert torch.equal(result.shifts, found.shifts)


def test_those_of_attacked_items_are_found_anew_around_the_files(trained, found, tmp_path):
    attack = FGSM(epsilon=16)
    poison(trained.classifier, attack, trained.catalogue, trained.table, tmp_path, source="Sandal", target="Sneaker")
    items, rows = read_attacked_items(tmp_path, trained.catalogue)
    poisoned = shifts_of_attacked(found, trained.classifier, items, rows, tmp_path)
    changed = (poisoned.shifts != found.shifts).flatten(1).any(dim=1).numpy()
    assert set(np.flatnonzero(changed)) == set(items.tolist())
    # As of a shop that has these files as its own.
    folder = tmp_path / "shop"
    _shop_with(trained.catalogue, items, rows, tmp_path, folder)
    own = find_shifts(trained.classifier, type(trained.catalogue).read(folder), trained.table, SETTINGS)
    torch.testing.assert_close(own.shifts, poisoned.shifts, rtol=1e-3, atol=1e-4)


def _shop_with(catalogue, items, rows, attack, folder):
    shutil.copytree(catalogue.folder, folder)
    for item, row in zip(items, rows, strict=True):
        with Image.open(attack / row.image) as image:
            image.save(folder / catalogue.images[item])


def test_the_command_writes_them_and_a_recommender_is_trained_against_them(trained, shop, make_trainer, tmp_path):
    module = ProductClassifier.load_from_checkpoint(trained.checkpoint)
    folder = tmp_path / "features"
    callbacks = [WriteFeatures(folder), WriteReachableShifts(folder, epsilon=8, directions=2, iterations=2)]
    make_trainer(callbacks=callbacks).predict(module, ProductImages(shop, batch_size=32), return_predictions=False)
    table = FeatureTable.read(folder, trained.catalogue)
    written = ReachableShifts.read(folder, table)
    direct = find_shifts(trained.classifier, trained.catalogue, table, SETTINGS)
    torch.testing.assert_close(written.shifts, direct.shifts, rtol=1e-4, atol=1e-5)
    assert written.settings == SETTINGS

    data = InteractionTriplets(shop, folder, batch_size=32)
    model = ImageRobustVBPR(factors=4, visual_factors=4, top_k=[5], shifts=folder)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "robust.ckpt")
    again = ImageRobustVBPR.load_from_checkpoint(tmp_path / "robust.ckpt")
    assert again.shifts is None, "where files are is no part of what was learnt"
    assert "shifts" not in again.hparams
    (metrics,) = make_trainer().test(again, data, verbose=False)
    assert metrics == trainer.test(model, data, verbose=False)[0]

    plain = VBPR(factors=4, visual_factors=4, top_k=[5])
    make_trainer(max_epochs=2).fit(plain, data)
    assert not torch.equal(plain.model.projection, model.model.projection)


def test_says_what_is_missing(trained, shop, make_trainer, tmp_path):
    trained.table.write(tmp_path, trained.catalogue)
    data = InteractionTriplets(shop, tmp_path, batch_size=32)
    with pytest.raises(CatwalkError, match=r"^shifts: ImageRobustVBPR is trained against .*: give the folder"):
        make_trainer(max_epochs=1).fit(ImageRobustVBPR(factors=4, top_k=[5]), data)
    with pytest.raises(CatwalkError, match=r"^shifts: .* holds no reachable_shifts\.safetensors"):
        make_trainer(max_epochs=1).fit(ImageRobustVBPR(factors=4, top_k=[5], shifts=tmp_path), data)
    with pytest.raises(CatwalkError, match="WriteReachableShifts works with a ProductClassifier, not with a VBPR"):
        make_trainer(max_epochs=1, callbacks=[WriteReachableShifts(tmp_path)]).fit(VBPR(top_k=[5]), data)
    with pytest.raises(CatwalkError, match=r"shifts\.epsilon must be at least 0\.5"):
        WriteReachableShifts(tmp_path, epsilon=0.1)


def test_a_search_refuses_what_is_no_direction():
    network, images = Linear(), torch.rand(2, 3, 6, 6)
    with pytest.raises(CatwalkError, match=r"targets: must be directions of 5 values each, .* got 4"):
        FeatureShift()(network, images, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"targets: must be float32 directions of shape \(2, D\)"):
        FeatureShift()(network, images, torch.zeros(2).long())
    scene = AttackContext(torch.zeros(1).long(), ["a"], 0, ["b"], torch.zeros(1, 5), torch.zeros(1).long(), None)
    with pytest.raises(CatwalkError, match="FeatureShift takes directions, which a catalogue does not have"):
        FeatureShift().targets_of(scene)
