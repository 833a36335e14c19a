"""Feature matching against the same algorithm in NumPy, against a search by hand for whom to imitate, and on a shop."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from edge_images import make_images
from PIL import Image
from plain_descent import plain_descent, smooth_network
from torch import nn

from catwalk.attacks import AttackContext, FeatureMatching
from catwalk.attacks.descent import descend
from catwalk.attacks.pgd import random_point
from catwalk.errors import CatwalkError
from catwalk.networks.building import build_network
from catwalk.poisoning.poison import poison
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.splits import read_split

every_norm = pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8.0), ("l2", 60.0)])


def make_targets(network, number):
    """Features of other images."""
    torch.manual_seed(1)
    with torch.no_grad():
        return network.features(torch.rand(number, 3, 6, 6))


@every_norm
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize(("share_of_step", "iterations"), [(None, 12), (1.5, 6), (0.3, 1)])
def test_equals_a_reference_step_by_step(norm, epsilon, random_start, share_of_step, iterations):
    network, images = smooth_network(), make_images(6)
    targets, keys = make_targets(network, 6), torch.randperm(1000)[:6]
    start = random_point(images, norm, epsilon, 11, keys) if random_start else images
    step = None if share_of_step is None else share_of_step * epsilon
    attack = FeatureMatching(epsilon, step, iterations, norm=norm, random_start=random_start, seed=11)
    result = attack(network, images, targets, keys=keys)
    assert result.iterations.tolist() == [iterations] * 6
    network.double()
    lasts = []
    for row in range(6):
        clean, wanted, begin = (tensor[row].double() for tensor in (images, targets, start))

        def distance(image, wanted=wanted):
            return sum((a - b) ** 2 for a, b in zip(network.features(image[None])[0], wanted, strict=True))

        settings = norm, epsilon / 255, (epsilon / 10 if step is None else step) / 255, iterations
        distances, points = plain_descent(distance, clean.numpy(), begin.numpy(), *settings)
        best = int(np.argmin(distances))
        lasts.append(best == iterations)
        # A gradient within rounding of 0 may take either sign.
        assert (abs(result.images[row].numpy() - points[best]) < 1e-6).mean() > 0.98
        with torch.no_grad():
            assert distance(result.images[row].double()).item() == pytest.approx(distances[best], rel=1e-3)
    if share_of_step == 1.5 and norm == "linf":
        assert not all(lasts), "so long a step goes beyond, and the best point is not the last"


@every_norm
def test_the_best_point_is_never_worse_than_the_first(norm, epsilon):
    """A step of thirty times the radius only jumps about."""
    network, images = smooth_network(), make_images(20)
    with torch.no_grad():
        targets = network.features((images + 1e-3 * torch.randn_like(images)).clamp(0, 1))  # hardly anything to gain
    result = FeatureMatching(epsilon, 30 * epsilon, 5, norm=norm)(network, images, targets)
    with torch.no_grad():
        before, after = ((network.features(x) - targets).square().sum(1) for x in (images, result.images))
    assert (after <= before).all()
    assert (after == before).any(), "some start next to their target, and are handed out as they were"


def test_of_points_that_are_equally_good_the_first_is_kept():
    images = make_images(3)
    threat_model = FeatureMatching().threat_model

    def flat(points):  # it has a gradient, and never falls
        sums = points.flatten(1).sum(1)
        return sums - sums.detach()

    assert torch.equal(descend(flat, images, images, threat_model, 1 / 255, 4), images)


@every_norm
def test_features_move_towards_their_own_targets(norm, epsilon):
    network, images = smooth_network(), make_images(20)
    targets = make_targets(network, 20)
    with torch.no_grad():
        before = (network.features(images) - targets).norm(dim=1)
        after = [
            (network.features(FeatureMatching(size, norm=norm)(network, images, targets).images) - targets).norm(dim=1)
            for size in (epsilon / 4, epsilon, 4 * epsilon)
        ]
    for less, more in zip([before, *after], after, strict=False):
        assert (more < less).all()
    assert after[-1].mean() < 0.7 * before.mean()


def test_succeeds_where_the_network_sees_the_same_category_as_in_the_target():
    network, images = smooth_network(), make_images(40)
    targets = make_targets(network, 40)
    with torch.no_grad():
        network.head.weight *= 10  # the categories lie closer together than the features
        result = FeatureMatching(12.0, iterations=6)(network, images, targets)
        seen = network.head(network.features(result.images)).argmax(1)
        wanted = network.head(targets).argmax(1)
    assert torch.equal(result.success, seen == wanted)
    assert 0 < result.success.sum() < 40


@pytest.mark.parametrize("settings", [{}, {"norm": "l2", "epsilon": 60.0}, {"random_start": True}])
def test_the_result_does_not_depend_on_batch_size_order_or_company(settings):
    torch.manual_seed(0)
    network = build_network("catwalk.networks.compact_cnn", {"width": 4}, 5)
    for _ in range(3):
        network(torch.rand(16, 3, 9, 9))
    network.eval()
    images = torch.rand(37, 3, 9, 9)
    with torch.no_grad():
        targets = network.features(images.flip(0))
    keys = torch.randperm(500)[:37]

    def attacked(rows, batch_size=64):
        attack = FeatureMatching(iterations=4, batch_size=batch_size, **settings)
        result = attack(network, images[rows], targets[rows], keys=keys[rows])
        return [result.images, result.success, result.iterations]

    everyone = torch.arange(37)
    whole = attacked(everyone)
    assert not torch.equal(whole[0], images)
    for batch_size in (1, 7, 16, 32):
        assert all(map(torch.equal, attacked(everyone, batch_size), whole))
    for rows in (torch.randperm(37), everyone[20:], everyone[36:]):
        assert all(map(torch.equal, attacked(rows), [tensor[rows] for tensor in whole]))


class Bare(nn.Module):
    """A network with features as a test wants them."""

    def __init__(self, features=None, head=None):
        super().__init__()
        self.features, self.head = features, head

    def forward(self, images):
        return images.mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Bare(), r"network: must have a method features\(images\)"),
        (Bare(nn.Conv2d(3, 3, 1), nn.Linear(3, 3)), r"network: must have a method features\(images\)"),  # as VGG has
        (Bare(lambda images: images, nn.Linear(3, 3)), r"features\(images\) that returns \(N, D\)"),
        (Bare(lambda images: None, nn.Linear(3, 3)), r"features\(images\) that returns \(N, D\)"),
        (Bare(lambda images: images.mean((2, 3))), "network: must have a head"),
        (Bare(lambda images: images.mean((2, 3)) / 0, nn.Linear(3, 3)), "network: its features are not finite"),
        (Bare(lambda images: images.mean((2, 3)).repeat(1, 2), nn.Linear(6, 3)), "features of 6 values each.* got 3"),
    ],
)
def test_refuses_a_network_that_does_not_fit(network, message):
    with pytest.raises(CatwalkError, match=message):
        FeatureMatching()(network, torch.rand(2, 3, 6, 6), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (torch.zeros(4, dtype=torch.int64), ValueError, r"targets: must be float32 features of shape \(4, D\)"),
        (torch.zeros(4), ValueError, "targets: must be float32 features"),
        (torch.zeros(()), ValueError, "targets: must be float32 features"),
        (torch.zeros(3, 32), ValueError, r"got torch.float32 of shape \(3, 32\)"),
        (torch.zeros(4, 32).double(), ValueError, "got torch.float64"),
        (torch.zeros(4, 32, device="meta"), ValueError, "targets: must be on the images' device, cpu, got meta"),
        (torch.zeros(4, 31), CatwalkError, "targets: must be features of 32 values each.* got 31"),
        (torch.zeros(4, 1), CatwalkError, "targets: .* got 1"),  # which would have been broadcast
        (torch.full((4, 32), math.nan), CatwalkError, "targets: must be finite, and those of image 0 are not"),
        (torch.tensor([0, 0, math.inf, 0])[:, None].repeat(1, 32), CatwalkError, "those of image 2 are not"),
    ],
)
def test_refuses_wrong_targets(targets, error, message):
    with pytest.raises(error, match=message):
        FeatureMatching()(smooth_network(), make_images(4), targets)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"intent": "pull"}, "intent must be one of push, nuke, got 'pull'"),
        ({"epsilon": -1.0}, "epsilon: .* got -1.0"),
        ({"step": -1.0}, "step: .* epsilon / 10, got -1.0"),
        ({"iterations": 0}, "iterations: must be at least 1, got 0"),
        ({"norm": "l1"}, "norm: must be one of linf, l2, got 'l1'"),
        ({"precision": "16"}, "precision: must be one of 32, tf32, bf16, got '16'"),
    ],
)
def test_refuses_other_values(arguments, message):
    with pytest.raises(CatwalkError, match=message):
        FeatureMatching(**arguments)


def test_a_random_start_needs_keys():
    network, images = smooth_network(), make_images(2)
    with pytest.raises(ValueError, match="keys: FeatureMatching starts from a random point"):
        FeatureMatching(random_start=True)(network, images, make_targets(network, 2))


def test_what_it_is_called_and_what_it_must_know():
    attack = FeatureMatching()
    assert (attack.name, attack.targeted) == ("Feature matching (ε = 8)", True)
    assert attack.knowledge == "network and purchases"
    assert attack.purpose("Sandal", "Sneaker") == "give Sandal the features of the most popular Sneaker"
    assert FeatureMatching(item="shoe 7").purpose("Sandal", "Sneaker") == "give Sandal the features of item shoe 7"


def make_scene(seed, **changes):
    """A catalogue of 30 items in 3 categories, of which many sell equally well."""
    random = np.random.default_rng(seed)
    scene = AttackContext(
        items=torch.from_numpy(np.sort(random.choice(30, 8, replace=False))),
        item_ids=tuple(f"item {number}" for number in range(30)),
        category=1,
        category_names=("Sandal", "Sneaker", "Bag"),
        features=torch.from_numpy(random.normal(size=(30, 5)).astype(np.float32)),
        categories=torch.from_numpy(random.integers(3, size=30)),
        purchases=torch.from_numpy(random.integers(3, size=30)),
    )
    return dataclasses.replace(scene, **changes)


@pytest.mark.parametrize("seed", range(12))
def test_imitates_the_most_popular_that_is_not_attacked(seed):
    scene = make_scene(seed)
    best = None
    for number in range(30):
        if int(scene.categories[number]) != 1 or number in scene.items.tolist():
            continue
        if best is None or int(scene.purchases[number]) > int(scene.purchases[best]):  # of equal ones the first
            best = number
    assert FeatureMatching().imitated(scene) == best
    targets = FeatureMatching().targets_of(scene)
    assert targets.shape == (8, 5)
    assert all(torch.equal(target, scene.features[best]) for target in targets)
    targets.zero_()
    assert scene.features[best].any(), "the scene's features are not written to"


@pytest.mark.parametrize("seed", range(6))
def test_nuking_imitates_the_least_popular_that_is_not_attacked(seed):
    scene = make_scene(seed)
    worst = None
    for number in range(30):
        if int(scene.categories[number]) != 1 or number in scene.items.tolist():
            continue
        if worst is None or int(scene.purchases[number]) < int(scene.purchases[worst]):  # of equal ones the first
            worst = number
    attack = FeatureMatching(intent="nuke")
    assert attack.imitated(scene) == worst
    assert torch.equal(attack.targets_of(scene), scene.features[worst].repeat(8, 1))
    assert attack.name == "Nuking feature matching (ε = 8)"
    assert attack.purpose("Sandal", "Sneaker") == "give Sandal the features of the least popular Sneaker"


def test_an_item_that_nobody_bought_may_be_the_most_popular():
    scene = make_scene(0, purchases=torch.zeros(30, dtype=torch.int64))
    allowed = [n for n in range(30) if int(scene.categories[n]) == 1 and n not in scene.items.tolist()]
    assert FeatureMatching().imitated(scene) == allowed[0]


def test_imitates_the_item_that_it_is_told():
    scene = make_scene(0, purchases=None)
    other = next(n for n in range(30) if n not in scene.items.tolist() and int(scene.categories[n]) == 2)
    attack = FeatureMatching(item=f"item {other}")
    assert attack.imitated(scene) == other
    assert torch.equal(attack.targets_of(scene), scene.features[other].repeat(8, 1))


def test_says_why_there_is_nobody_to_imitate():
    scene = make_scene(0)
    with pytest.raises(CatwalkError, match="item: 'item 30' is no item of the catalogue"):
        FeatureMatching(item="item 30").targets_of(scene)
    attacked = scene.item_ids[scene.items[3]]
    with pytest.raises(CatwalkError, match=f"item: '{attacked}' is attacked itself; give one of another category"):
        FeatureMatching(item=attacked).targets_of(scene)
    with pytest.raises(CatwalkError, match="item: it is not known what was bought most often; give the id"):
        FeatureMatching().targets_of(dataclasses.replace(scene, purchases=None))
    nobody = torch.where(scene.categories == 1, 0, scene.categories)
    with pytest.raises(CatwalkError, match="target: the network sees 'Sneaker' in no item that could be imitated"):
        FeatureMatching().targets_of(dataclasses.replace(scene, categories=nobody))
    nobody[scene.items] = 1  # but for those that are attacked
    with pytest.raises(CatwalkError, match="target: the network sees 'Sneaker' in no item that could be imitated"):
        FeatureMatching().targets_of(dataclasses.replace(scene, categories=nobody))


def features_of_files(network, paths):
    """Features by the network's layers themselves, of files as NumPy reads them."""
    levels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    batch = torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        return network.body((batch - network.mean) / network.std).numpy()


@pytest.mark.parametrize("by_id", [False, True])
@every_norm
def test_the_files_of_a_shop_come_nearer_to_the_imitated_item(trained, tmp_path: Path, norm, epsilon, by_id):
    catalogue: Catalogue = trained.catalogue
    names, categories = list(catalogue.category_names), trained.table.categories
    attacked, candidates = (np.flatnonzero(categories == names.index(name)) for name in ("Sandal", "Sneaker"))
    purchases = np.bincount(read_split(catalogue).items, minlength=len(catalogue))
    imitated = max(candidates, key=lambda item: (purchases[item], -item))
    assert purchases[imitated] > np.median(purchases[candidates])
    settings = {"purchases": purchases}
    item = None
    if by_id:
        imitated = min(candidates, key=lambda item: purchases[item])
        item, settings = catalogue.item_ids[imitated], {}
    attack = FeatureMatching(epsilon=2 * epsilon, iterations=15, item=item, norm=norm)
    poisoned = poison(
        *(trained.classifier, attack, catalogue, trained.table, tmp_path),
        **{"source": "Sandal", "target": "Sneaker", **settings},
    )
    network = trained.classifier.network
    files = [catalogue.images[item] for item in attacked]
    (wanted,) = features_of_files(network, [catalogue.folder / catalogue.images[imitated]])
    before = features_of_files(network, [catalogue.folder / file for file in files])
    after = features_of_files(network, [tmp_path / file for file in files])
    np.testing.assert_allclose(poisoned.features[attacked].numpy(), after, rtol=1e-4, atol=1e-5)
    distances = [np.linalg.norm(features - wanted, axis=1) for features in (before, after)]
    assert (distances[1] < distances[0]).all()
    assert distances[1].mean() < 0.9 * distances[0].mean()
