"""Distances measured where a network has normalised its images, as in the reproduced paper's code."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from edge_images import make_images
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_descent import smooth_network
from torch import nn
from visual_models import visual_model

from catwalk.attacks import APGD, FGSM, MIFGSM, PGD, CarliniWagner, FeatureMatching, RankAttack
from catwalk.attacks.pgd import random_point
from catwalk.attacks.threat_model import ThreatModel, ThreatModelError
from catwalk.errors import CatwalkError
from catwalk.keyed_random import uniform
from catwalk.networks.network import IMAGENET_MEAN, IMAGENET_STD, Network
from catwalk.poisoning.attack_files import read_summary
from catwalk.poisoning.poison import poison
from catwalk.poisoning.protocol import Protocol

QUANTISATIONS = ["inside", "round", "truncate"]
AS_PUBLISHED = Protocol(epsilon_space="normalised", clip=False, quantise="truncate")
every_clip = pytest.mark.parametrize("clip", [True, False])


def imagenet_network():
    network = smooth_network()
    return Network(network.body, network.head, IMAGENET_MEAN, IMAGENET_STD).eval()


def normalised(attack, clip=False, quantisation="truncate"):
    """Return the attack with its budget meant as the paper's code means it."""
    attack.threat_model = dataclasses.replace(
        attack.threat_model, space="normalised", clip=clip, quantisation=quantisation
    )
    return attack


class Plain:
    """A network as others write it: it takes images that were normalised before, and knows nothing of pixels."""

    def __init__(self, network):
        self.layers = nn.Sequential(network.body, network.head).double()
        self.mean, self.std = (getattr(network, name).double().numpy()[0] for name in ("mean", "std"))

    def normalise(self, image):
        return (image.double().numpy() - self.mean) / self.std

    def pixels(self, image):
        """Return a normalised image as pixels: here, at last, it is clipped."""
        return np.clip(image * self.std + self.mean, 0, 1)

    def gradient(self, image, category):
        """The gradient of the cross-entropy of a normalised image."""
        variable = torch.tensor(image[None], requires_grad=True)
        logits = self.layers(variable)[0]
        (logits.logsumexp(0) - logits[category]).backward()
        return variable.grad[0].numpy()

    def limit(self, image, clip):
        return np.clip(image, -self.mean / self.std, (1 - self.mean) / self.std) if clip else image


@pytest.mark.parametrize(("epsilon", "moves"), [(4.0, {0, -1}), (8.0, {1, -2}), (16.0, {3, -4})])
@pytest.mark.parametrize("targeted", [True, False])
def test_the_papers_fgsm_moves_levels_by_so_much(epsilon, moves, targeted):
    """Finding 2 of the reproduction: ε = 4 lowers by a level or does nothing, and ε = 8 adds 1 or takes 2."""
    network, images = imagenet_network(), (make_images(16) * 255).round() / 255
    targets = torch.randint(7, (16,))
    attack = normalised(FGSM(epsilon, targeted=targeted))
    result = attack(network, images, targets)
    threat_model = attack.threat_model.of(network)
    levels, clean = (threat_model.quantise(result.images, images).numpy(), (images * 255).round().numpy())
    plain = Plain(network)
    for row in range(16):
        x = plain.normalise(images[row])
        sign = np.sign(plain.gradient(x, int(targets[row])))
        x = x - epsilon / 255 * sign if targeted else x + epsilon / 255 * sign
        np.testing.assert_allclose(result.images[row].numpy(), plain.pixels(x), atol=1e-6)
        assert np.array_equal(levels[row], (plain.pixels(x) * 255).astype(np.uint8))
    inner = (clean > 4) & (clean < 251)
    assert set((levels.astype(int) - clean.astype(int))[inner].tolist()) == moves
    threat_model.verify_levels(torch.from_numpy(levels), torch.from_numpy(clean.astype(np.uint8)))


@every_clip
@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8.0), ("l2", 150.0)])
@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_equals_one_on_normalised_images(clip, targeted, norm, epsilon, random_start):
    network, images = imagenet_network(), make_images(5)
    targets, keys = torch.randint(7, (5,)), torch.randperm(1000)[:5]
    start = np.zeros(images.shape)
    if random_start and norm == "linf":
        start = epsilon / 255 * (2 * uniform(3, keys, (3, 6, 6)).double().numpy() - 1)
    elif random_start:
        start = random_point(torch.zeros(5, 3, 6, 6), "l2", epsilon, 3, keys).double().numpy()
    attack = normalised(PGD(epsilon, None, 8, random_start, targeted, 3, norm), clip)
    result = attack(network, images, targets, keys=keys)
    plain, radius, step = Plain(network), epsilon / 255, (-1 if targeted else 1) * epsilon / 6 / 255
    for row in range(5):
        clean = plain.normalise(images[row])
        x = plain.limit(clean + start[row], clip)
        for _ in range(8):
            gradient = plain.gradient(x, int(targets[row]))
            if norm == "linf":
                x = np.clip(x + step * np.sign(gradient), clean - radius, clean + radius)
            else:
                moved = x + step * gradient / np.linalg.norm(gradient.ravel()) - clean
                x = clean + moved * min(1, radius / np.linalg.norm(moved.ravel()))
            x = plain.limit(x, clip)
        # A gradient within rounding of 0 may take either sign.
        off = abs(result.images[row].numpy() - plain.pixels(x))
        assert (off < (1e-6 if norm == "linf" else 1e-5)).mean() > 0.98


@every_clip
@pytest.mark.parametrize("targeted", [True, False])
def test_mi_fgsm_equals_one_on_normalised_images(clip, targeted):
    network, images, targets = imagenet_network(), make_images(5), torch.randint(7, (5,))
    result = normalised(MIFGSM(8.0, 1.5, 8, 0.9, targeted), clip)(network, images, targets)
    plain, radius, step = Plain(network), 8 / 255, (-1 if targeted else 1) * 1.5 / 255
    for row in range(5):
        clean = plain.normalise(images[row])
        x, total = clean, 0
        for _ in range(8):
            gradient = plain.gradient(x, int(targets[row]))
            total = 0.9 * total + gradient / abs(gradient).sum()
            x = plain.limit(np.clip(x + step * np.sign(total), clean - radius, clean + radius), clip)
        assert (abs(result.images[row].numpy() - plain.pixels(x)) < 1e-6).mean() > 0.98


class Stretched(nn.Module):
    """Takes normalised images that were shrunk into the middle of [0, 1], where nothing is ever clipped."""

    def __init__(self, network, factor=16):
        super().__init__()
        self.network, self.factor = network, factor

    def shrink(self, images):
        return (images - self.network.mean) / self.network.std / self.factor + 0.5

    def pixels(self, images):
        return ((images - 0.5) * self.factor * self.network.std + self.network.mean).clamp(0, 1)

    def forward(self, images):
        return self.network.head(self.network.body((images - 0.5) * self.factor))


@pytest.mark.parametrize(
    "make",
    [
        lambda epsilon: FGSM(epsilon),
        lambda epsilon: PGD(epsilon, seed=5),
        lambda epsilon: PGD(epsilon * 20, seed=5, norm="l2"),
        lambda epsilon: MIFGSM(epsilon),
        lambda epsilon: APGD(epsilon, iterations=25, seed=5),
        lambda epsilon: APGD(epsilon, iterations=25, loss="dlr", targeted=False, random_start=False),
        lambda epsilon: APGD(epsilon * 20, "l2", iterations=25, seed=5),
    ],
)
def test_equals_the_attack_on_a_network_of_shrunk_images(make):
    """APGD's own tests compare it with its algorithm: here, only the space is another."""
    network, images, keys = imagenet_network(), make_images(8), torch.randperm(1000)[:8]
    with torch.no_grad():
        best, second = network(images).topk(2).indices.unbind(1)
    attack = make(8.0)
    targets = second if attack.targeted else best
    result = normalised(attack)(network, images, targets, keys=keys)
    stretched = Stretched(network)
    expected = make(8.0 / 16)(stretched, stretched.shrink(images), targets, keys=keys)
    # A gradient within rounding of 0 may take either sign, and what has no sign gathers rounding.
    is_linf = attack.threat_model.norm == "linf"
    agree = (result.images - stretched.pixels(expected.images)).abs() < (1e-5 if is_linf else 2e-4)
    assert agree.float().mean() > 0.97
    assert (result.images - images).abs().mean() > 2e-3


def reference_carlini_wagner(plain, clean, target, initial_c, searches, iterations, rate):
    """C&W without box, of one normalised image: Adam moves the image itself."""
    clean = torch.from_numpy(clean)
    nearest, least, c, lower, upper = clean, math.inf, initial_c, 0.0, math.inf
    for _ in range(searches):
        x = clean.clone().requires_grad_()
        optimizer, found = torch.optim.Adam([x], lr=rate), False
        for step in range(iterations + 1):
            z = plain.layers(x[None])[0]
            other = max(z[j] for j in range(len(z)) if j != target)
            distance = ((x - clean) ** 2).sum()
            if z[target] > other:
                found = True
                if distance.item() < least:
                    nearest, least = x.detach().clone(), distance.item()
            if step < iterations:
                optimizer.zero_grad()
                (distance + c * torch.clamp(other - z[target], min=0)).backward()
                optimizer.step()
        lower, upper = (lower, min(upper, c)) if found else (max(lower, c), upper)
        c = (lower + upper) / 2 if upper < math.inf else 10 * c
    return nearest.numpy(), least


def test_carlini_wagner_equals_one_on_normalised_images():
    network, images = imagenet_network(), make_images(6)
    images[:3] = 0.2 + 0.6 * images[:3]  # far from where clipping may undo a success
    with torch.no_grad():
        targets = network(images).topk(2).indices[:, 1]
        targets[2] = next(category for category in range(7) if category not in targets)
        network.head.bias[targets[2]] -= 30  # and one that cannot be reached
    arguments = {"initial_c": 0.5, "searches": 3, "iterations": 30}
    attack = normalised(CarliniWagner(learning_rate=0.02, check_every=30, rounded=False, **arguments))
    result = attack(network, images, targets)
    with torch.no_grad():
        assert torch.equal(result.success, network(result.images).argmax(1) == targets)

    plain = Plain(network)
    expected, lengths = zip(
        *(
            reference_carlini_wagner(plain, plain.normalise(image), int(target), *arguments.values(), 0.02)
            for image, target in zip(images, targets, strict=True)
        ),
        strict=True,
    )
    shift = torch.from_numpy(plain.mean / plain.std)
    attack.threat_model = attack.threat_model.of(network)
    precise, _ = attack.perturb(
        lambda points: plain.layers(points - shift), images.double() / torch.from_numpy(plain.std), targets, None
    )
    torch.testing.assert_close(precise - shift, torch.from_numpy(np.stack(expected)), rtol=0, atol=1e-9)
    found = [length < math.inf for length in lengths]
    assert result.success[:3].tolist() == found[:3] == [True, True, False]
    assert found[3:] == [True] * 3
    assert not result.success[3:].all()
    for row in range(6):
        # Also where clipping has undone what was found, which is judged before.
        np.testing.assert_allclose(result.images[row].numpy(), plain.pixels(expected[row]), atol=1e-2)
        assert torch.equal(result.images[row], images[row]) == (not found[row])


def levels_of(seed, number=3):
    """Grey levels of which many are exactly 0 or 255."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-100, 356, (number, 3, 4, 4), generator=generator).clamp(0, 255).to(torch.uint8)


def to_images(levels):
    return levels.to(torch.float32) / 255


def distances(images, clean, std, norm):
    """Distances in grey levels of the normalised space, in float64."""
    flat = ((np.asarray(images, np.float64) - np.asarray(clean)) / np.reshape(std, (3, 1, 1))).reshape(len(images), -1)
    return abs(flat).max(1) if norm == "linf" else np.sqrt((flat**2).sum(1))


stds = st.tuples(*[st.sampled_from([0.05, 0.225, 0.229, 0.5, 1.0, 1.7])] * 3)


@settings(max_examples=80, deadline=None)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    epsilon=st.floats(0.3, 80),
    spread=st.floats(0, 120),
    std=stds,
    quantisation=st.sampled_from(QUANTISATIONS),
    clip=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_whatever_is_projected_verifies_and_is_quantised_inside(norm, epsilon, spread, std, quantisation, clip, seed):
    network = Network(nn.Flatten(), nn.Identity(), (0, 0, 0), std)
    threat_model = ThreatModel(norm, epsilon, quantisation, "normalised", clip).of(network)
    clean_levels = levels_of(seed)
    clean = to_images(clean_levels)
    scale = threat_model.scale(clean)
    assert scale.flatten().tolist() == pytest.approx(std)
    noise = torch.rand(clean.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    coordinates = threat_model.project(clean / scale + noise * spread / 255, clean / scale)
    images = (coordinates * scale).clamp(0, 1)
    if clip:
        torch.testing.assert_close(coordinates * scale, images, rtol=0, atol=1e-6)
    rounding = 1e-5 * epsilon + 1e-4 / min(std) * (1 if norm == "linf" else 7)
    assert distances(images * 255, clean * 255, std, norm).max() <= epsilon + rounding
    threat_model.verify(images, clean)
    levels = threat_model.quantise(images, clean)
    threat_model.verify_levels(levels, clean_levels)
    moved = levels.numpy().astype(np.int64) - clean_levels.numpy()
    exact = (images.double() * 255).numpy() - clean_levels.numpy()
    if quantisation == "inside":
        assert distances(moved, 0, std, norm).max() <= epsilon * (1 + 1e-9)
        assert abs(moved - exact).max() <= 1.5 + 1e-3, "rounded, and moved back by a level at most"
    else:
        slack = 0.5 if quantisation == "round" else 1.0
        assert abs(moved - exact).max() <= slack + 1e-3
        nearer = np.maximum(abs(moved) - slack, 0)
        assert distances(nearer, 0, std, norm).max() <= epsilon + rounding


def test_every_channel_has_a_reach_of_its_own():
    std = (0.25, 0.5, 1.0)
    threat_model = ThreatModel("linf", 9.0, "inside", "normalised", std=std)  # 2.25, 4.5 and 9 levels
    clean_levels = torch.full((1, 3, 1, 2), 100, dtype=torch.uint8)
    clean = to_images(clean_levels)
    far = torch.tensor([2.2, -2.2, 4.4, -4.5, 9.0, -8.6]).reshape(1, 3, 1, 2)
    images = clean + far / 255
    threat_model.verify(images, clean)
    levels = threat_model.quantise(images, clean)
    assert (levels.flatten() - 100.0).tolist() == [2, -2, 4, -4, 9, -9]
    threat_model.verify_levels(levels, clean_levels)
    for channel, reach in enumerate((2, 4, 9)):
        for sign in (1, -1):
            beyond = clean_levels.clone().int()
            beyond[0, channel, 0, 1] += sign * (reach + 1)
            message = f"image 0 is {(reach + 1) / std[channel]:g} grey levels .* in linf of the normalised space"
            with pytest.raises(ThreatModelError, match=message):
                threat_model.verify_levels(beyond.to(torch.uint8), clean_levels)
            exact = clean.clone()
            exact[0, channel, 0, 0] += sign * 9 * std[channel] * 1.001 / 255
            with pytest.raises(ThreatModelError, match=r"image 0 is 9\.00"):
                threat_model.verify(exact, clean)


def test_files_are_verified_to_the_last_digit():
    levels, clean = (torch.full((1, 3, 1, 1), value, dtype=torch.uint8) for value in (104, 100))
    ThreatModel("linf", 8.0, space="normalised", std=(0.5, 0.5, 0.5)).verify_levels(levels, clean)
    with pytest.raises(ThreatModelError, match="image 0 is 8 grey levels"):
        ThreatModel("linf", 7.9999, space="normalised", std=(0.5, 0.5, 0.5)).verify_levels(levels, clean)


@pytest.mark.parametrize(("quantisation", "slack"), [("inside", 0), ("round", 0.5), ("truncate", 1)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_files_may_be_so_far_beyond_as_the_quantisation_allows(quantisation, slack, norm):
    std = (0.25, 0.5, 1.0)
    threat_model = ThreatModel(norm, 12.0, quantisation, "normalised", std=std)
    clean = torch.full((1, 3, 1, 1), 100, dtype=torch.uint8)
    for channel in range(3):
        most = math.floor(12 * std[channel] + slack)
        for move in (most, most + 1):
            levels = clean.clone()
            levels[0, channel] += move
            if move == most:
                threat_model.verify_levels(levels, clean)
            else:
                with pytest.raises(ThreatModelError):
                    threat_model.verify_levels(levels, clean)


def test_every_result_is_verified_in_the_networks_space():
    network, images = imagenet_network(), 0.3 + 0.4 * torch.rand(2, 3, 6, 6)
    attack = normalised(FGSM(8.0))
    attack.perturb = lambda network, images, *_: (images + 8.1 / 255, torch.zeros(2).long())
    with pytest.raises(ThreatModelError, match=r"image 0 is 8\.1.* in linf of the normalised space, .* of 8 grey"):
        attack(network, images, torch.zeros(2).long())
    attack.threat_model = ThreatModel("linf", 8.1, space="normalised")
    attack(network, images, torch.zeros(2).long())


def test_l2_undoes_the_least_of_the_rounding():
    threat_model = ThreatModel("l2", 10.0, "inside", "normalised", std=(0.25, 0.5, 1.0))
    clean_levels = torch.full((1, 3, 1, 1), 100, dtype=torch.uint8)
    # Rounds to (2, 2, 3), of squared length 64 + 16 + 9 = 89: inside, and nothing is undone.
    for moves, expected in [((1.9, 1.8, 3.3), [2, 2, 3]), ((1.6, 3.3, 3.9), [1, 3, 4])]:  # the second: 64 + 36 + 16
        images = to_images(clean_levels) + torch.tensor(moves).reshape(1, 3, 1, 1) / 255
        levels = threat_model.quantise(images, to_images(clean_levels))
        assert (levels.flatten() - 100.0).tolist() == expected


CATEGORIES = torch.tensor([0, 3, 6])


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["fgsm", "pgd", "mi-fgsm", "apgd", "feature matching", "rank attack"]),
    norm=st.sampled_from(["linf", "l2"]),
    epsilon=st.floats(0.5, 60),
    quantisation=st.sampled_from(QUANTISATIONS),
    clip=st.booleans(),
    std=stds,
    seed=st.integers(0, 1000),
)
def test_every_attack_stays_inside(kind, norm, epsilon, quantisation, clip, std, seed):
    network = smooth_network()
    network = Network(network.body, network.head, (0.4, 0.5, 0.6), std).eval()
    levels = levels_of(seed).repeat(1, 1, 2, 2)[:, :, :6, :6].contiguous()
    targets, keys = CATEGORIES, torch.arange(3) + seed
    if kind in ("fgsm", "mi-fgsm"):
        norm, attack = "linf", FGSM(epsilon) if kind == "fgsm" else MIFGSM(epsilon, iterations=3)
    elif kind in ("pgd", "apgd"):
        attack = (PGD if kind == "pgd" else APGD)(epsilon, norm=norm, iterations=3)
    elif kind == "feature matching":
        attack = FeatureMatching(epsilon, norm=norm, iterations=3, random_start=True)
        targets = torch.randn(3, 32)
    else:
        attack = RankAttack(epsilon, norm=norm, iterations=3, random_start=True)
        attack.scorers = [visual_model(*(torch.randn(shape) for shape in ((5, 2), (7, 2), (5, 4), (32, 4))))]
    result = normalised(attack, clip, quantisation)(network, to_images(levels), targets, keys=keys)
    rounding = 1e-5 * epsilon + 1e-4 / min(std) * (1 if norm == "linf" else 11)
    far = distances(result.images * 255, levels, std, norm)
    assert far.max() <= epsilon + rounding
    assert far.min() > 0.05 * min(epsilon, 10), "and it moves"
    saved = attack.threat_model.of(network).quantise(result.images, to_images(levels))
    moved = abs(saved.numpy().astype(np.int64) - levels.numpy())
    slack = {"inside": 0.0, "round": 0.5, "truncate": 1.0}[quantisation]
    exact = 1e-9 * epsilon if quantisation == "inside" else rounding
    assert distances(np.maximum(moved - slack, 0), 0, std, norm).max() <= epsilon + exact


def test_the_shop_is_poisoned_as_published(trained, tmp_path):
    network = trained.classifier.network
    assert network.std.flatten().tolist() == pytest.approx(IMAGENET_STD)
    arguments = trained.classifier, FGSM(8.0), trained.catalogue, trained.table
    goal = {"source": "Sandal", "target": "Sneaker"}
    poison(*arguments, tmp_path / "published", **goal, protocol=AS_PUBLISHED)
    poison(*arguments, tmp_path / "corrected", **goal)
    published, corrected = (read_summary(tmp_path / name) for name in ("published", "corrected"))
    assert (published.space, published.clip, published.quantisation) == ("normalised", False, "truncate")
    assert (published.epsilon, published.linf_levels) == (8.0, 2)
    assert (corrected.space, corrected.clip, corrected.quantisation) == ("pixels", True, "inside")
    assert corrected.linf_levels == 8
    assert corrected.feature_loss > published.feature_loss


@pytest.mark.parametrize("std", [None, torch.ones(1), (0.2, 0.2, 0.2)])
def test_needs_a_network_with_its_standard_deviations(std):
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 5))
    network.std = std
    with pytest.raises(CatwalkError, match="space: normalised needs a network with its standard deviations, `std`"):
        normalised(FGSM())(network, make_images(1), torch.zeros(1).long())
    with pytest.raises(CatwalkError, match="or measure in pixels"):
        ThreatModel("linf", 8.0, space="normalised").of(network)
    assert ThreatModel("linf", 8.0).of(network) == ThreatModel("linf", 8.0)


def test_the_space_must_be_a_networks():
    threat_model = ThreatModel("linf", 8.0, space="normalised")
    for method in (threat_model.project, threat_model.quantise, threat_model.verify):
        with pytest.raises(ValueError, match=r"std: the normalised space is a network's own; use ThreatModel\.of"):
            method(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2))
    with pytest.raises(CatwalkError, match="space: must be one of pixels, normalised, got 'inputs'"):
        ThreatModel("linf", 8.0, space="inputs")


def test_a_protocol_does_not_keep_another_networks_deviations():
    threat_model = ThreatModel("l2", 3.0, "round", "normalised", std=(1.0, 2.0, 3.0))
    assert AS_PUBLISHED.threat_model(threat_model) == ThreatModel("l2", 3.0, "truncate", "normalised", False)
