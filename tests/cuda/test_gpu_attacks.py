"""Attacks on a GPU: inside the ball, beside those of the CPU, and whatever the batch."""

import copy
import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu import DEVICE, deterministic_kernels
from visual_models import visual_model

from catwalk.attacks import APGD, DDN, FGSM, FMN, MIFGSM, PGD, CarliniWagner, FeatureMatching, RandomNoise, RankAttack
from catwalk.networks.building import build_network
from catwalk.networks.classifier import Classifier
from catwalk.poisoning.attack_files import read_summary
from catwalk.poisoning.poison import poison
from catwalk.shop.decoding import decode
from catwalk.shop.images import load_images, to_float

ITEMS, FEATURES = 90, 64
"""Of the shop, and of the network that was trained on it."""


def rank_attack(**settings):
    attack, random = RankAttack(**settings), torch.Generator().manual_seed(2)
    shapes = (20, 3), (ITEMS, 3), (20, 2), (FEATURES, 2)
    attack.scorers = [visual_model(*(torch.randn(shape, generator=random) for shape in shapes))]
    return attack


ATTACKS = {
    "fgsm": lambda **settings: FGSM(epsilon=8, **settings),
    "pgd": lambda **settings: PGD(epsilon=8, **settings),
    "pgd in l2": lambda **settings: PGD(epsilon=255, step=50, norm="l2", **settings),
    "mi-fgsm": lambda **settings: MIFGSM(epsilon=8, **settings),
    "apgd": lambda **settings: APGD(epsilon=8, iterations=20, **settings),
    "apgd by dlr in l2": lambda **settings: APGD(epsilon=255, norm="l2", loss="dlr", iterations=20, **settings),
    "c&w": lambda **settings: CarliniWagner(initial_c=1.0, searches=2, iterations=60, learning_rate=0.02, **settings),
    "ddn": lambda **settings: DDN(iterations=20, **settings),
    "fmn": lambda **settings: FMN("linf", iterations=20, **settings),
    "feature matching": lambda **settings: FeatureMatching(epsilon=8, iterations=20, **settings),
    "noise": lambda **settings: RandomNoise(epsilon=8, **settings),
    "rank attack": lambda **settings: rank_attack(epsilon=8, iterations=20, **settings),
}
every_attack = pytest.mark.parametrize("make_attack", ATTACKS.values(), ids=ATTACKS.keys())


@pytest.fixture(scope="module")
def on_gpu(trained) -> Classifier:
    classifier = trained.classifier
    return Classifier(copy.deepcopy(classifier.network).to(DEVICE), classifier.category_names, classifier.image_size)


@pytest.fixture(scope="module")
def images(trained):
    """All images of the shop, on the GPU."""
    levels = load_images(trained.catalogue.folder, trained.catalogue.images, trained.classifier.image_size)
    return to_float(torch.tensor(levels, device=DEVICE))


def aims(attack, network, images):
    """Return targets of the kind that an attack takes, none of them reached yet."""
    if isinstance(attack, RankAttack):
        return torch.arange(len(images), device=DEVICE)
    with torch.no_grad():
        if isinstance(attack, FeatureMatching):
            return network.features(images).roll(1, dims=0)
        logits = network(images)
        return (logits.argmax(dim=1) + 1) % logits.shape[1]


def attack_images(attack, network, images, aim=None):
    aim = aims(attack, network, images) if aim is None else aim
    return attack(network, images, aim, keys=torch.arange(len(images), device=DEVICE))


def share_of_equal(one, other):
    return float((one == other).double().mean())


def files(folder: Path):
    """The rows and the 8-bit images of an attack's folder."""
    with (folder / "attacked_items.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return rows, np.stack([decode(folder / row["image"]) for row in rows])


MOST_LEVELS = 0.05
"""By how many grey levels on average images may differ that rounding has led apart."""


@every_attack
def test_files_are_inside_the_ball_and_nearly_those_of_the_cpu(make_attack, trained, on_gpu, tmp_path, record_property):
    purchases = np.arange(ITEMS)
    for classifier, folder in ((trained.classifier, tmp_path / "cpu"), (on_gpu, tmp_path / "gpu")):
        attack = make_attack()
        target = "Sneaker" if attack.targeted else None
        table = trained.table
        poison(
            classifier, attack, trained.catalogue, table, folder, source="Sandal", target=target, purchases=purchases
        )
    (rows, levels), (reference, expected) = files(tmp_path / "gpu"), files(tmp_path / "cpu")
    assert [row["item_id"] for row in rows] == [row["item_id"] for row in reference]
    clean = np.stack([decode(trained.catalogue.folder / row["image"]) for row in rows]).astype(np.int64)
    changes = levels - clean
    assert np.abs(changes).max() > 0
    threat_model = make_attack().threat_model
    if threat_model.epsilon is not None and threat_model.norm == "linf":
        assert np.abs(changes).max() <= threat_model.epsilon
    elif threat_model.epsilon is not None:
        assert (changes**2).sum(axis=(1, 2, 3)).max() <= threat_model.epsilon**2
    record_property("levels equal to the CPU's", float((levels == expected).mean()))
    record_property("mean difference in levels", float(np.abs(levels - expected.astype(np.int64)).mean()))
    # A gradient next to 0 has another sign where it was rounded otherwise, and steps that follow build on it.
    assert np.abs(levels - expected.astype(np.int64)).mean() < MOST_LEVELS
    summaries = read_summary(tmp_path / "gpu"), read_summary(tmp_path / "cpu")
    assert summaries[0].sr == pytest.approx(summaries[1].sr, abs=1.5 / len(rows))
    assert summaries[0].l2_levels == pytest.approx(summaries[1].l2_levels, rel=0.02)
    assert summaries[0].feature_loss == pytest.approx(summaries[1].feature_loss, rel=0.05)


@every_attack
def test_twice_the_same_is_the_same_to_the_bit_with_deterministic_kernels(make_attack, on_gpu, images):
    with deterministic_kernels():
        one, other = (attack_images(make_attack(), on_gpu.network, images) for _ in range(2))
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.iterations, other.iterations)


@every_attack
def test_the_batch_hardly_shows(make_attack, on_gpu, images, record_property):
    """On a GPU the kernel, and with it the last bits, may depend on the number of images in a batch."""
    with deterministic_kernels():
        whole, *parts = (attack_images(make_attack(batch_size=size), on_gpu.network, images) for size in (64, 7, 1))
    for size, part in zip((7, 1), parts, strict=True):
        equal = share_of_equal(part.images, whole.images)
        record_property(f"values as with batches of 64, in batches of {size}", equal)
        difference = float((part.images - whole.images).abs().mean()) * 255
        record_property(f"mean difference in levels, in batches of {size}", difference)
        assert difference < MOST_LEVELS
        assert float((part.success != whole.success).double().mean()) < 0.05
    # Both are padded to 16 images, and so are the same.
    assert torch.equal(parts[0].images, parts[1].images)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in {"c&w", "ddn", "fmn"}])
def test_bf16_reaches_as_much(name, on_gpu, images, record_property):
    """C&W is left out: it stops right at the border between categories, which bfloat16 sees elsewhere."""
    plain, quick = (
        attack_images(ATTACKS[name](precision=precision), on_gpu.network, images) for precision in ("32", "bf16")
    )
    rates = [float(result.success.double().mean()) for result in (quick, plain)]
    record_property("success in bfloat16 and in float32", rates)
    assert rates[0] == pytest.approx(rates[1], abs=0.1)
    assert quick.images.dtype == torch.float32


@pytest.mark.parametrize("name", ["mi-fgsm", "apgd", "feature matching", "c&w"])
def test_compiled_attacks_are_nearly_the_plain_ones(name, on_gpu, images, record_property):
    """Sums of gradients and best points outlive a step: a CUDA graph that wrote over them would change the images."""
    aim = aims(ATTACKS[name](), on_gpu.network, images)
    plain, compiled = (
        attack_images(ATTACKS[name](batch_size=96, compiled=compiled), on_gpu.network, images, aim)
        for compiled in (False, True)
    )
    rates = [float(result.success.double().mean()) for result in (compiled, plain)]
    record_property("success compiled and plain", rates)
    difference = float((compiled.images - plain.images).abs().mean()) * 255
    record_property("mean difference in levels", difference)
    assert rates[0] == pytest.approx(rates[1], abs=0.02)
    assert difference < 0.2


def test_resnet_with_tf32_and_without(record_property):
    """Convolutions of the attack may be in TF32, what is said of success is in float32."""
    torch.manual_seed(0)
    network = build_network("torchvision.models.resnet18", {}, 10)
    for _ in range(3):
        network.train()(torch.rand(16, 3, 64, 64))
    images = (torch.rand(24, 3, 64, 64) * 255).round() / 255
    reference = copy.deepcopy(network).double().eval()
    network = network.eval().to(DEVICE)
    with torch.no_grad():
        targets = (reference(images.double()).argmax(dim=1) + 1) % 10
    result = PGD(epsilon=8)(network, images.to(DEVICE), targets.to(DEVICE), keys=torch.arange(24, device=DEVICE))
    with torch.no_grad():
        logits = reference(result.images.cpu().double())
    margins = logits.topk(2, dim=1).values.diff(dim=1)[:, 0].abs()
    is_clear = margins > 1e-5 * logits.abs().max()  # float32's rounding decides the others
    assert bool(is_clear.any())
    assert torch.equal(result.success.cpu()[is_clear], (logits.argmax(dim=1) == targets)[is_clear])
    record_property("success", float(result.success.double().mean()))
    assert float(result.success.double().mean()) > 0.9
