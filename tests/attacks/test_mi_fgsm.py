import math
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from edge_images import make_images
from torch import nn

from catwalk.attacks import FGSM, MIFGSM, PGD
from catwalk.attacks.threat_model import linf_levels
from catwalk.errors import CatwalkError
from catwalk.poisoning.attack_files import read_summary
from catwalk.poisoning.poison import poison
from catwalk.study.specifications import attack_of


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


def reference_mi_fgsm(network, x0, y, epsilon, step, iterations, momentum, targeted):
    """MI-FGSM on one image after the other, by ``backward()`` and NumPy in float64."""
    results = []
    for row in range(len(x0)):
        clean = x0[row].numpy().astype(np.float64)
        x, g = clean.copy(), np.zeros_like(clean)
        for _ in range(iterations):
            variable = torch.tensor(x[None], requires_grad=True)
            logits = network(variable)
            loss = logits.logsumexp(1) - logits[0, y[row]]
            (-loss if targeted else loss).sum().backward()
            gradient = variable.grad[0].numpy()
            g = momentum * g + gradient / np.abs(gradient).sum()
            x = x + step * np.sign(g)
            x = np.clip(np.minimum(np.maximum(x, clean - epsilon), clean + epsilon), 0, 1)
        results.append(x)
    return np.stack(results)


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize(
    ("epsilon", "step", "iterations", "momentum"),
    [(8.0, None, 10, 1.0), (4.0, 1.5, 7, 0.5), (2.3, 5.0, 3, 0.9), (40.0, None, 10, 2.0)],
)
def test_equals_a_reference(targeted, epsilon, step, iterations, momentum):
    network, images = smooth_network(), make_images(5)
    network[-1].weight.data *= 30  # so that a success leaves far smaller gradients than the way to it
    targets = torch.randint(7, (5,))
    attack = MIFGSM(epsilon, step, iterations, momentum, targeted)
    result = attack(network, images, targets)
    alpha = (epsilon / iterations if step is None else step) / 255
    expected = reference_mi_fgsm(
        network.double(), images, targets, epsilon / 255, alpha, iterations, momentum, targeted
    )
    # A sum of gradients within rounding of 0 may take either sign.
    assert (abs(result.images.numpy() - expected) < 1e-6).mean() > 0.995
    assert result.iterations.tolist() == [iterations] * 5


@pytest.mark.parametrize("targeted", [True, False])
def test_equals_torchattacks(targeted):
    torchattacks = pytest.importorskip("torchattacks")
    network, images = smooth_network(), make_images(16)
    targets = torch.randint(7, (16,))
    theirs = torchattacks.MIFGSM(network, eps=8 / 255, alpha=1 / 255, steps=12, decay=0.9)
    if targeted:
        theirs.set_mode_targeted_by_label(quiet=True)
    ours = MIFGSM(8.0, 1.0, 12, 0.9, targeted)(network, images, targets).images
    assert ((ours - theirs(images, targets)).abs() < 1e-6).float().mean() > 0.995


def test_without_momentum_it_is_pgd_and_in_one_step_fgsm():
    network, images = smooth_network(), make_images(16)
    targets = torch.randint(7, (16,))
    pgd = PGD(8.0, 1.0, 10, random_start=False)(network, images, targets).images
    assert torch.equal(MIFGSM(8.0, 1.0, 10, momentum=0.0)(network, images, targets).images, pgd)
    assert not torch.equal(MIFGSM(8.0, 1.0, 10)(network, images, targets).images, pgd)
    fgsm = FGSM(8.0)(network, images, targets).images
    torch.testing.assert_close(MIFGSM(8.0, iterations=1)(network, images, targets).images, fgsm, atol=1e-6, rtol=0)


def test_result_is_the_same_for_every_batch_size_and_order():
    network, images = smooth_network(), make_images(40)
    targets = torch.randint(7, (40,))
    whole = MIFGSM()(network, images, targets)
    for batch_size in (1, 7, 16):
        assert torch.equal(MIFGSM(batch_size=batch_size)(network, images, targets).images, whole.images)
    order = torch.randperm(40)
    result = MIFGSM()(network, images[order], targets[order])
    assert torch.equal(result.images, whole.images[order])
    assert torch.equal(result.success, whole.success[order])
    assert torch.equal(MIFGSM()(network, images[33:34], targets[33:34]).images, whole.images[33:34])


@pytest.mark.parametrize("targeted", [True, False])
def test_moves_towards_or_away_and_stays_in_the_ball(targeted):
    network, images = smooth_network(), make_images(32)
    targets = torch.randint(7, (32,))
    result = MIFGSM(6.5, targeted=targeted)(network, images, targets).images

    def log_probabilities(images):
        return network(images).log_softmax(1).gather(1, targets[:, None])[:, 0].detach()

    gain = log_probabilities(result) - log_probabilities(images)
    assert (gain > 0).all() if targeted else (gain < 0).all()
    distances = linf_levels(result, images)
    assert (distances <= 6.5 + 1e-4).all()
    assert (distances > 6).all()


def test_an_image_without_gradient_stays():
    class RedOnly(nn.Module):
        def forward(self, images):
            return images[:, 0].flatten(1)[:, :4] * (images[:, 1:].mean((1, 2, 3)) > 0.4)[:, None]

    images = torch.full((2, 3, 2, 2), 0.5)
    images[1, 1:] = 0
    result = MIFGSM()(RedOnly(), images, torch.tensor([0, 1])).images
    assert (result[0, 0] != images[0, 0]).all()
    assert torch.equal(result[0, 1:], images[0, 1:])
    assert torch.equal(result[1], images[1])


def test_an_image_that_loses_its_gradient_keeps_its_direction():
    class UntilItMoves(nn.Module):
        def forward(self, images):
            return images[:, 0].flatten(1)[:, :4] * (images[:, 0, 0, 0] <= 0.5)[:, None]

    images = torch.full((1, 3, 2, 2), 0.5)
    result = MIFGSM(8.0)(UntilItMoves(), images, torch.tensor([0])).images
    expected = images.clone()
    expected[0, 0] += torch.tensor([[8, -8], [-8, -8]]) / 255
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


def test_poisons_a_shop(trained, tmp_path):
    attack = MIFGSM(32.0)
    poison(trained.classifier, attack, trained.catalogue, trained.table, tmp_path, source="Sandal", target="Sneaker")
    summary = read_summary(tmp_path)
    assert (summary.attack, summary.epsilon) == ("MI-FGSM (ε = 32)", 32)
    assert 20 < summary.linf_levels <= 32
    assert summary.sr > summary.sr_clean


def test_the_configuration_is_accepted():
    settings = yaml.safe_load(Path(str(files("configs")), "attack", "mi_fgsm8.yaml").read_text())
    attack = attack_of(settings["poison"]["attack"]).instantiate()
    assert (type(attack), attack.name, attack.targeted) == (MIFGSM, "MI-FGSM (ε = 8)", True)


def test_name_and_defaults():
    attack = MIFGSM()
    assert (attack.name, MIFGSM(0.5).name) == ("MI-FGSM (ε = 8)", "MI-FGSM (ε = 0.5)")
    assert (attack.step, attack.iterations, attack.momentum, attack.random_start) == (0.8, 10, 1.0, False)
    assert (attack.threat_model.norm, attack.targeted, attack.batch_size) == ("linf", True, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": -1.0}, "epsilon: .* got -1.0"),
        ({"step": 0.0}, "step: .* got 0.0"),
        ({"step": math.inf}, "step: .* got inf"),
        ({"iterations": 0}, "iterations: must be at least 1, got 0"),
        ({"momentum": -0.1}, "momentum: must be a number of 0 or above, got -0.1"),
        ({"momentum": math.nan}, "momentum: .* got nan"),
    ],
)
def test_refuses_other_values(arguments, message):
    with pytest.raises(CatwalkError, match=message):
        MIFGSM(**arguments)
