import math
from importlib.resources import files
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from edge_images import make_images
from torch import nn

from catwalk.attacks import FGSM, PGD
from catwalk.attacks.pgd import random_point, steepest
from catwalk.errors import CatwalkError
from catwalk.keyed_random import uniform
from catwalk.poisoning.attack_files import read_summary
from catwalk.poisoning.poison import poison
from catwalk.study.specifications import attack_of


def reference_pgd(network, x0, y, epsilon, step, iterations, start, targeted):
    """PGD on one image after the other, by ``backward()`` and NumPy in float64."""
    results = []
    for row in range(len(x0)):
        clean = x0[row].numpy().astype(np.float64)
        x = np.clip(clean + start[row], 0, 1)
        for _ in range(iterations):
            variable = torch.tensor(x[None], requires_grad=True)
            logits = network(variable)
            loss = logits.logsumexp(1) - logits[0, y[row]]
            (-loss if targeted else loss).sum().backward()
            x = x + step * np.sign(variable.grad[0].numpy())
            x = np.clip(np.minimum(np.maximum(x, clean - epsilon), clean + epsilon), 0, 1)
        results.append(x)
    return np.stack(results)


def smooth_network():
    """No kinks, so that float32 and float64 agree on almost every sign of the gradient."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Softplus(),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(32, 7),
    ).eval()


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize(
    ("epsilon", "step", "iterations"), [(8.0, None, 10), (4.0, 1.0, 7), (2.3, 5.0, 3), (0.5, None, 1)]
)
def test_equals_a_reference_step_by_step(targeted, random_start, epsilon, step, iterations):
    network, images = smooth_network(), make_images(5)
    targets, keys = torch.randint(7, (5,)), torch.randperm(1000)[:5]
    start = np.zeros(images.shape)
    if random_start:
        start = epsilon / 255 * (2 * uniform(11, keys, (3, 6, 6)).double().numpy() - 1)
    attack = PGD(epsilon, step, iterations, random_start, targeted, seed=11)
    result = attack(network, images, targets, keys=keys)
    alpha = (epsilon / 6 if step is None else step) / 255
    expected = reference_pgd(network.double(), images, targets, epsilon / 255, alpha, iterations, start, targeted)
    # A gradient within rounding of 0 may take either sign.
    assert (abs(result.images.numpy() - expected) < 1e-6).mean() > 0.999
    assert abs(result.images.numpy() - images.numpy()).max() > 0.8 * epsilon / 255 * (iterations > 1)
    assert result.iterations.tolist() == [iterations] * 5


def test_equals_the_formula_bit_for_bit():
    network, images = smooth_network(), make_images(16)
    targets, keys = torch.randint(7, (16,)), torch.arange(16)
    epsilon, alpha = 8 / 255, 8 / 6 / 255
    x = (images + epsilon * (2 * uniform(0, keys, (3, 6, 6)) - 1)).clamp(0, 1)
    for _ in range(10):
        x.requires_grad_()
        F.cross_entropy(network(x), targets, reduction="sum").backward()
        x = (images + (x.detach() - alpha * x.grad.sign() - images).clamp(-epsilon, epsilon)).clamp(0, 1)
    assert torch.equal(PGD()(network, images, targets, keys=keys).images, x)


def test_one_whole_step_from_the_clean_image_is_fgsm():
    network, images = smooth_network(), make_images(16)
    targets = torch.randint(7, (16,))
    pgd = PGD(epsilon=8, step=8, iterations=1, random_start=False)(network, images, targets)
    fgsm = FGSM(epsilon=8)(network, images, targets)
    torch.testing.assert_close(pgd.images, fgsm.images, atol=1e-6, rtol=0)


def test_random_start_depends_on_seed_and_key_alone():
    network, images = smooth_network(), make_images(1).repeat(3, 1, 1, 1)
    targets = torch.zeros(3).long()

    def attacked(seed, keys):
        return PGD(seed=seed, iterations=1)(network, images, targets, keys=torch.tensor(keys)).images

    result = attacked(0, [4, 9, 4])
    assert torch.equal(result[0], result[2])
    assert not torch.equal(result[0], result[1])
    assert torch.equal(result, attacked(0, [4, 9, 4]))
    assert not torch.equal(result[0], attacked(1, [4, 9, 4])[0])


def test_random_start_needs_keys():
    network, images, targets = smooth_network(), make_images(2), torch.zeros(2).long()
    with pytest.raises(ValueError, match="keys: PGD starts from a random point"):
        PGD()(network, images, targets)
    keyless = PGD(random_start=False)(network, images, targets).images
    assert torch.equal(keyless, PGD(random_start=False)(network, images, targets, keys=torch.arange(2)).images)


def test_perturb_without_keys_draws_from_the_global_generator():
    network, images, targets = smooth_network(), make_images(16), torch.zeros(16).long()
    attack = PGD(iterations=2)
    torch.manual_seed(3)
    first, iterations = attack.perturb(network, images, targets, None)
    second, _ = attack.perturb(network, images, targets, None)
    torch.manual_seed(3)
    again, _ = attack.perturb(network, images, targets, None)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert iterations.tolist() == [2] * 16
    attack.threat_model.verify(first, images)
    keyed, _ = attack.perturb(network, images, targets, torch.arange(16))
    assert torch.equal(keyed, attack(network, images, targets, keys=torch.arange(16)).images)


def test_more_steps_find_more():
    network, images = smooth_network(), make_images(32)
    with torch.no_grad():
        targets = (network(images).argmax(1) + 1) % 7
    losses = [
        F.cross_entropy(
            network(PGD(2.0, iterations=iterations)(network, images, targets, keys=targets).images), targets
        )
        for iterations in (1, 3, 10)
    ]
    assert losses[0] > losses[1] > losses[2]


def test_name_and_defaults():
    attack = PGD()
    assert attack.name == "PGD (ε = 8)"
    assert PGD(epsilon=0.5).name == "PGD (ε = 0.5)"
    assert PGD(epsilon=255, norm="l2").name == "PGD-L2 (ε = 255)"
    assert attack.threat_model.norm == "linf"
    assert math.isclose(attack.step, 8 / 6)
    assert (attack.iterations, attack.random_start, attack.targeted, attack.seed) == (10, True, True, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": -1.0}, "epsilon: .* got -1.0"),
        ({"step": 0.0}, "step: .* got 0.0"),
        ({"step": math.nan}, "step: .* got nan"),
        ({"iterations": 0}, "iterations: must be at least 1, got 0"),
        ({"norm": "l1"}, "norm: must be one of linf, l2, got 'l1'"),
    ],
)
def test_refuses_other_values(arguments, message):
    with pytest.raises(CatwalkError, match=message):
        PGD(**arguments)


def reference_l2_pgd(network, x0, y, epsilon, step, iterations, start, targeted):
    """PGD in L2 on one image after the other, by ``backward()`` and NumPy in float64."""
    results = []
    for row in range(len(x0)):
        clean = x0[row].numpy().astype(np.float64)
        x = np.clip(clean + start[row], 0, 1)
        for _ in range(iterations):
            variable = torch.tensor(x[None], requires_grad=True)
            logits = network(variable)
            loss = logits.logsumexp(1) - logits[0, y[row]]
            (-loss if targeted else loss).sum().backward()
            gradient = variable.grad[0].numpy()
            perturbation = x + step * gradient / np.sqrt((gradient**2).sum()) - clean
            length = np.sqrt((perturbation**2).sum())
            if length > epsilon:
                perturbation *= epsilon / length
            x = np.clip(clean + perturbation, 0, 1)
        results.append(x)
    return np.stack(results)


def reference_l2_start(draws, epsilon):
    """Return a point of the ball from one draw for each value and one for the length, by the standard library."""
    normal = NormalDist()
    starts = []
    for *values, last in draws.tolist():
        direction = np.array([normal.inv_cdf(value + 2.0**-25) for value in values])
        starts.append(epsilon * last ** (1 / len(values)) * direction / np.linalg.norm(direction))
    return np.stack(starts)


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize(("epsilon", "step", "iterations"), [(255.0, None, 10), (120.0, 50.0, 7), (40.0, 100.0, 3)])
def test_l2_equals_a_reference_step_by_step(targeted, random_start, epsilon, step, iterations):
    network, images = smooth_network(), make_images(5)
    targets, keys = torch.randint(7, (5,)), torch.randperm(1000)[:5]
    start = np.zeros(images.shape)
    if random_start:
        start = reference_l2_start(uniform(11, keys, (109,)), epsilon / 255).reshape(images.shape)
    attack = PGD(epsilon, step, iterations, random_start, targeted, seed=11, norm="l2")
    result = attack(network, images, targets, keys=keys)
    alpha = (epsilon / 6 if step is None else step) / 255
    expected = reference_l2_pgd(network.double(), images, targets, epsilon / 255, alpha, iterations, start, targeted)
    np.testing.assert_allclose(result.images.numpy(), expected, atol=2e-5)
    assert result.iterations.tolist() == [iterations] * 5


@pytest.mark.parametrize("targeted", [True, False])
def test_l2_equals_torchattacks(targeted):
    torchattacks = pytest.importorskip("torchattacks")
    network, images = smooth_network(), make_images(16)
    targets = torch.randint(7, (16,))
    theirs = torchattacks.PGDL2(network, eps=0.5, alpha=0.1, steps=12, random_start=False)
    if targeted:
        theirs.set_mode_targeted_by_label(quiet=True)
    ours = PGD(127.5, 25.5, 12, False, targeted, norm="l2")(network, images, targets).images
    torch.testing.assert_close(ours, theirs(images, targets), atol=1e-5, rtol=0)


def test_l2_start_is_uniform_in_the_ball():
    number = 30000
    images = torch.full((number, 3, 1, 1), 0.5)
    torch.manual_seed(0)
    for keys in (torch.arange(number), None):
        points = ((random_point(images, "l2", 51.0, 3, keys) - 0.5) / 0.2).flatten(1).double().numpy()
        lengths = np.linalg.norm(points, axis=1)
        assert lengths.max() <= 1 + 1e-6
        # In three dimensions the cubes of lengths, and each coordinate of a direction, are uniform.
        for values in (lengths**3, *((points / lengths[:, None]).T + 1) / 2):
            quantiles = np.quantile(values, np.linspace(0.05, 0.95, 19))
            np.testing.assert_allclose(quantiles, np.linspace(0.05, 0.95, 19), atol=0.012)
        assert abs(np.corrcoef(points.T) - np.eye(3)).max() < 0.03
        assert abs(np.corrcoef(lengths, points[:, 0])[0, 1]) < 0.03


def test_l2_start_depends_on_seed_and_key_alone():
    images = make_images(48)
    keys = torch.randperm(1000)[:48]
    points = random_point(images, "l2", 100.0, 5, keys)
    order = torch.randperm(48)
    assert torch.equal(random_point(images[order], "l2", 100.0, 5, keys[order]), points[order])
    for rows in (slice(0, 16), slice(7, 8), slice(5, 37)):
        assert torch.equal(random_point(images[rows], "l2", 100.0, 5, keys[rows]), points[rows])
    assert not torch.equal(random_point(images, "l2", 100.0, 6, keys), points)
    same = random_point(images[:1].repeat(3, 1, 1, 1), "l2", 100.0, 5, torch.tensor([4, 9, 4]))
    assert torch.equal(same[0], same[2])
    assert not torch.equal(same[0], same[1])
    state = torch.get_rng_state()
    random_point(images, "l2", 100.0, 5, keys)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("extreme", [0.0, 1 - 2.0**-24])
def test_l2_start_is_finite_for_every_draw(extreme, monkeypatch):
    def draw(seed, keys, shape):
        draws = uniform(seed, keys, shape)
        draws[:, 3] = extreme
        return draws

    monkeypatch.setattr("catwalk.attacks.pgd.uniform", draw)
    images = torch.full((2, 3, 4, 4), 0.5)
    moves = (random_point(images, "l2", 100.0, 0, torch.arange(2)) - images).flatten(1)
    assert (moves.abs() > 0).all()
    assert (moves[:, 3].sign() == (1 if extreme else -1)).all()
    assert (moves.abs().argmax(1) == 3).all()


def test_l2_result_is_the_same_for_every_batch_size_and_order():
    network, images = smooth_network(), make_images(40)
    targets, keys = torch.randint(7, (40,)), torch.randperm(1000)[:40]
    whole = PGD(100.0, norm="l2")(network, images, targets, keys=keys)
    for batch_size in (1, 7, 16):
        result = PGD(100.0, norm="l2", batch_size=batch_size)(network, images, targets, keys=keys)
        assert torch.equal(result.images, whole.images)
    order = torch.randperm(40)
    result = PGD(100.0, norm="l2")(network, images[order], targets[order], keys=keys[order])
    assert torch.equal(result.images, whole.images[order])
    one = PGD(100.0, norm="l2")(network, images[33:34], targets[33:34], keys=keys[33:34])
    assert torch.equal(one.images, whole.images[33:34])


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("epsilon", [3.0, 60.0, 400.0])
def test_l2_moves_towards_or_away_and_stays_in_the_ball(targeted, epsilon):
    network = smooth_network()
    images = (make_images(32) * 255).round() / 255
    targets = torch.randint(7, (32,))
    attack = PGD(epsilon, targeted=targeted, norm="l2")
    result = attack(network, images, targets, keys=torch.arange(32)).images

    def log_probabilities(images):
        return network(images).log_softmax(1).gather(1, targets[:, None])[:, 0].detach()

    gain = log_probabilities(result) - log_probabilities(images)
    assert (gain > 0).all() if targeted else (gain < 0).all()
    lengths = np.linalg.norm((result.double() - images.double()).flatten(1).numpy() * 255, axis=1)
    assert lengths.max() <= epsilon + 0.01
    assert lengths.min() > 0.5 * epsilon
    levels = attack.threat_model.quantise(result, images).double() - images.double() * 255
    assert (levels.flatten(1).square().sum(1).sqrt() <= epsilon + 1e-3).all()


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e25])
def test_l2_step_has_its_length_however_small_or_large_the_gradient(size):
    gradient = torch.tensor([3.0, 0, -4, 0, 0, 0]).reshape(1, 3, 1, 2) * size
    expected = torch.tensor([0.6, 0, -0.8, 0, 0, 0]).reshape(1, 3, 1, 2)
    torch.testing.assert_close(steepest(gradient, "l2"), expected)
    assert torch.equal(steepest(gradient, "linf"), expected.sign())
    assert torch.equal(steepest(gradient * 0, "l2"), gradient * 0)


def test_l2_poisons_a_shop(trained, tmp_path):
    attack = PGD(600.0, norm="l2")
    poison(trained.classifier, attack, trained.catalogue, trained.table, tmp_path, source="Sandal", target="Sneaker")
    summary = read_summary(tmp_path)
    assert (summary.attack, summary.epsilon) == ("PGD-L2 (ε = 600)", 600)
    assert summary.sr > summary.sr_clean


def test_the_l2_configuration_is_accepted():
    settings = yaml.safe_load(Path(str(files("configs")), "attack", "pgd_l2.yaml").read_text())
    attack = attack_of(settings["poison"]["attack"]).instantiate()
    assert (type(attack), attack.name, attack.targeted) == (PGD, "PGD-L2 (ε = 255)", True)
    assert (attack.threat_model.norm, attack.step) == ("l2", 255 / 6)
