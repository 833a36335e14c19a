"""Masks against NumPy, and every attack under one."""

import dataclasses
from collections import deque

import numpy as np
import pytest
import torch
from every_attack import ALL, TRANSFER, aims, make_batch, make_levels, make_network
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from catwalk.attacks import FGSM, PGD, Attack, ThreatModel, ThreatModelError
from catwalk.attacks.masks import Background, Border, Garment, Mask, MaskError, MaskFiles, Patch
from catwalk.errors import CatwalkError
from catwalk.shop.ids import item_keys


def flooded_by_breadth_first_search(levels, tolerance):
    """The background of one image ``(3, H, W)``, place after place, and the share of its border that is plain."""
    height, width = levels.shape[1:]
    border = [(y, x) for y in range(height) for x in range(width) if y in (0, height - 1) or x in (0, width - 1)]
    colour = np.array([sorted(levels[c][place] for place in border)[(len(border) - 1) // 2] for c in range(3)])
    alike = (abs(levels.astype(int) - colour[:, None, None]) <= tolerance).all(axis=0)
    queue = deque(place for place in border if alike[place])
    found = np.zeros((height, width), bool)
    for place in queue:
        found[place] = True
    while queue:
        y, x = queue.popleft()
        for place in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= place[0] < height and 0 <= place[1] < width and alike[place] and not found[place]:
                found[place] = True
                queue.append(place)
    return found, np.mean([alike[place] for place in border])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(2, 9), width=st.integers(2, 9), spread=st.sampled_from([5, 30]))
def test_the_background_is_what_a_search_finds(seed, height, width, spread):
    random = np.random.default_rng(seed)
    levels = random.integers(100, 100 + spread, (3, 3, height, width))
    levels[random.random((3, 3, height, width)) < 0.15] = 0
    images = torch.from_numpy(levels).float() / 255
    background = Background(tolerance=12, otherwise="nothing")
    everywhere = Background(tolerance=12, otherwise="everything")
    garment = Garment(tolerance=12, otherwise="nothing").region(images, None)
    regions, with_everything = background.region(images, None), everywhere.region(images, None)
    for row in range(3):
        expected, share = flooded_by_breadth_first_search(levels[row], 12)
        if share < 0.5:
            assert not regions[row].any()
            assert not garment[row].any()
            assert with_everything[row].all()
        else:
            assert np.array_equal(regions[row, 0], expected)
            assert np.array_equal(garment[row, 0], ~expected)
            assert torch.equal(with_everything[row], regions[row])


def test_a_spiral_is_followed_and_a_hole_of_the_same_colour_is_not_background():
    white, black = 1.0, 0.0
    rows = [
        ".........",
        ".#######.",
        ".#.....#.",
        ".#.###.#.",
        ".#.#.#.#.",
        ".#...#.#.",
        ".#####.#.",
        ".......#.",
        ".........",
    ]
    image = torch.tensor([[black if place == "#" else white for place in row] for row in rows])
    closed = image.clone()
    closed[7, 6] = closed[8, 6] = black
    images = torch.stack([image, closed])[:, None].expand(2, 3, 9, 9)
    found = Background().region(images, None)[:, 0]
    assert torch.equal(found[0], image == white), "along the spiral to its end"
    image[6, 6] = black
    hole = Background().region(image[None, None].expand(1, 3, 9, 9), None)[0, 0]
    assert not hole[2:6, 2:7].any(), "nothing within the closed line"
    assert hole[0].all()


def test_an_image_that_is_not_plain_is_named():
    images = torch.stack([torch.ones(3, 8, 8), torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))])
    with pytest.raises(MaskError, match=r"mask: image 1: its background is not plain: \d+% of its outermost .* 50%; "):
        Garment(tolerance=3).region(images, None)


def test_patches_and_borders_are_slices():
    images = torch.zeros(2, 3, 8, 12)
    expected = np.zeros((8, 12), bool)
    expected[:2, -6:] = True
    region = Patch(0.25, 0.5, "top_right").region(images, None)
    assert region.shape == (2, 1, 8, 12)
    assert all(np.array_equal(mask[0], expected) for mask in region)
    expected[:] = False
    expected[3:5, 4:7] = True
    assert np.array_equal(Patch(0.25, 0.25, "centre").region(images, None)[0, 0], expected)
    expected[:] = False
    expected[-1:, :1] = True
    assert np.array_equal(Patch(0.01, corner="bottom_left").region(images, None)[0, 0], expected)
    expected[:] = True
    expected[2:-2, 2:-2] = False
    assert np.array_equal(Border(2).region(images, None)[0, 0], expected)
    assert Border(5).region(images, None).all()


def test_files_belong_to_items_and_are_brought_to_the_size(tmp_path):
    left, small = np.zeros((6, 6), np.uint8), np.array([[0, 255], [127, 128]], np.uint8)
    left[:, :3] = 255
    Image.fromarray(left).save(tmp_path / "0108775015.png")
    Image.fromarray(np.stack([small] * 3, axis=2)).save(tmp_path / "a b.png")
    keys = torch.from_numpy(item_keys(["a b", "0108775015"]).copy())
    mask = MaskFiles(tmp_path)
    region = mask.region(torch.zeros(2, 3, 6, 6), keys)
    assert np.array_equal(region[0, 0], np.kron([[0, 1], [0, 1]], np.ones((3, 3))).astype(bool))
    assert np.array_equal(region[1, 0], left == 255)
    assert mask.name == f"masks of {tmp_path.name}"
    with pytest.raises(MaskError, match=r"image 1: there is no mask of its item in .* <item id>\.png must be"):
        mask.region(torch.zeros(2, 3, 6, 6), keys + torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="give each image's item key"):
        mask.region(torch.zeros(2, 3, 6, 6), None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Background(tolerance=-1), "mask.tolerance must be at least 0, got -1"),
        (lambda: Garment(plain=0), "mask.plain: must be a share above 0 and at most 1 of the border's pixels, got 0"),
        (lambda: Background(otherwise="stop"), "mask.otherwise must be one of refuse, nothing, everything, got 'stop'"),
        (lambda: Patch(1.5), "mask.height: must be a share .* of the image's height, got 1.5"),
        (lambda: Patch(0.5, 0), "mask.width: must be a share .* of the image's width, got 0"),
        (lambda: Patch(corner="left"), "mask.corner must be one of top_left, .*, centre, got 'left'"),
        (lambda: Border(0), "mask.width must be at least 1, got 0"),
        (lambda: MaskFiles("/nowhere/at/all"), "mask.folder: /nowhere/at/all is no folder; give one with a PNG file"),
    ],
)
def test_refuses_other_values(make, message):
    with pytest.raises(CatwalkError, match=message):
        make()


WITH_MASKS = {name: make for name, make in ALL.items() if make().takes_masks}
with_masks = pytest.mark.parametrize("make_attack", WITH_MASKS.values(), ids=WITH_MASKS)


@dataclasses.dataclass(frozen=True)
class Chequers(Mask):
    """Another region for each item."""

    name = "chequers"

    def region(self, images, keys):
        places = torch.arange(images.shape[2])[:, None] + torch.arange(images.shape[3])
        return ((places + keys[:, None, None]) % 3 == 0)[:, None]


@pytest.mark.parametrize("make_attack", [make for make in ALL.values() if not make().takes_masks])
def test_an_attack_that_asks_about_other_rows_refuses_a_mask(make_attack):
    with pytest.raises(CatwalkError, match="asks the network about several points of an image at once"):
        make_attack(mask=Chequers())


@with_masks
def test_every_attack_changes_nothing_outside_and_something_within(make_attack):
    network = make_network()
    images, categories, keys = make_batch(20)
    attack = make_attack(mask=Chequers())
    assert "chequers)" in attack.name
    targets = aims(attack, categories)
    result = attack(network, images, targets, keys=keys)
    region = Chequers().region(images, keys).expand_as(images)
    assert torch.equal(result.images[~region], images[~region])
    assert not torch.equal(result.images, images)
    again = make_attack(mask=Chequers(), batch_size=64)(network, images[3:9], targets[3:9], keys=keys[3:9])
    if not attack.is_joint:
        assert torch.equal(again.images, result.images[3:9])
    levels = attack.threat_model.for_images(images, keys).quantise(result.images, images)
    attack.threat_model.for_images(images, keys).verify_levels(levels, make_levels(20))
    with pytest.raises(ValueError, match=r"use ThreatModel\.for_images"):
        attack.threat_model.verify(result.images, images)


class ShownWithin(torch.nn.Module):
    """A network that sees the clean images outside of a region, by arithmetic."""

    def __init__(self, network, region, clean):
        super().__init__()
        self.network, self.region, self.clean = network, region.float(), clean

    def forward(self, images):
        count = len(images)
        return self.network(images * self.region[:count] + self.clean[:count] * (1 - self.region[:count]))


def test_the_loop_itself_knows_the_mask():
    """PGD under a mask is PGD on a network that sees nothing else, and so better than PGD that is cut afterwards."""
    network = make_network()
    images, targets, keys = make_batch(16)
    region = Chequers().region(images, keys)
    settings = {"epsilon": 24.0, "iterations": 8, "random_start": False}
    masked = PGD(mask=Chequers(), **settings)(network, images, targets, keys=keys).images
    plain = PGD(**settings)(ShownWithin(network, region, images), images, targets, keys=keys).images
    assert torch.allclose(masked, torch.where(region, plain, images), atol=1e-6)
    cut = torch.where(region, PGD(**settings)(network, images, targets, keys=keys).images, images)

    def losses(images):
        return torch.nn.functional.cross_entropy(network(images), targets, reduction="none").detach()

    assert losses(masked).mean() < losses(cut).mean()


def test_in_l2_the_whole_budget_goes_into_the_region():
    network = make_network()
    images, targets, keys = make_batch(16)
    attack = PGD(epsilon=100, norm="l2", mask=Border(1), random_start=False)
    changes = (attack(network, images, targets, keys=keys).images - images) * 255
    assert 99 < changes.flatten(1).norm(dim=1).max() < 100.01  # clipped a little here and there
    assert not changes[:, :, 1:-1, 1:-1].any()


@pytest.mark.parametrize("kind", sorted(WITH_MASKS.keys() - TRANSFER))
def test_a_masked_attack_in_the_published_space_changes_nothing_outside(kind):
    network = make_network()
    network.std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    images, categories, keys = make_batch(16)
    attack = ALL[kind](mask=Chequers())
    change = {"space": "normalised", "clip": False, "quantisation": "truncate"}
    attack.threat_model = dataclasses.replace(attack.threat_model, **change)
    result = attack(network, images, aims(attack, categories), keys=keys)
    ball = attack.threat_model.of(network).for_images(images, keys)
    levels = ball.quantise(result.images, images)
    region = Chequers().region(images, keys).expand_as(images)
    assert torch.equal(levels[~region], make_levels(16)[~region])
    ball.verify_levels(levels, make_levels(16))


def test_what_is_outside_is_verified():
    images = make_levels(3).float() / 255
    ball = ThreatModel("linf", 255, mask=Border(1)).for_images(images, None)
    outside = images.clone()
    outside[1, 0, 4, 4] = 1 - outside[1, 0, 4, 4].round()
    outside[1, 2, 3, 4] = 1 - outside[1, 2, 3, 4].round()
    message = r"adversarial image 6 differs from the clean image in 2 pixels outside of its mask \(border 1\)"
    with pytest.raises(ThreatModelError, match=message):
        ball.verify(outside, images, first=5)
    with pytest.raises(ThreatModelError, match=message):
        ball.verify_levels((outside * 255).round().to(torch.uint8), make_levels(3), first=5)


def test_an_attack_that_mixes_the_rows_of_a_batch_is_told():
    class AsksTwice(FGSM):
        def perturb(self, network, images, targets, keys):
            network(torch.cat([images, images]))
            return super().perturb(network, images, targets, keys)

    images, targets, keys = make_batch(5)
    with pytest.raises(CatwalkError, match="mask: the attack asks the network about 32 images at once, and 16 were"):
        AsksTwice(mask=Border(1))(make_network(), images, targets, keys=keys)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_mask_is_chosen_by_class_path():
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(Attack, "attack")
    mask = {"class_path": "catwalk.attacks.masks.Background", "init_args": {"otherwise": "nothing"}}
    config = {"class_path": "catwalk.attacks.PGD", "init_args": {"epsilon": 8, "mask": mask}}
    attack = parser.instantiate_classes(parser.parse_object({"attack": config})).attack
    assert attack.name == "PGD (ε = 8, background)"
    assert attack.threat_model.mask == Background(otherwise="nothing")
