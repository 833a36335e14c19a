import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from catwalk.attacks import FGSM, PGD
from catwalk.counter_random import uniform
from catwalk.errors import CatwalkError


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """So small networks lose more by waiting for threads than they win."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_images(number):
    images = torch.rand(number, 3, 6, 6)
    images[:, :, 0] = 0
    images[:, :, 5] = 1
    images[:, :, 1] = 2 / 255  # closer to the border than ε
    return images


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
    assert math.isclose(attack.step, 8 / 6)
    assert (attack.iterations, attack.random_start, attack.targeted, attack.seed) == (10, True, True, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": -1.0}, "epsilon: .* got -1.0"),
        ({"step": 0.0}, "step: .* got 0.0"),
        ({"step": math.nan}, "step: .* got nan"),
        ({"iterations": 0}, "iterations: must be at least 1, got 0"),
    ],
)
def test_refuses_other_values(arguments, message):
    with pytest.raises(CatwalkError, match=message):
        PGD(**arguments)
