"""Attacks of others under our threat model: functions written here, and those of libraries where they are installed."""

import sys

import pytest
import torch
import torch.nn.functional as F
from every_attack import make_batch, make_levels, make_network

from catwalk.attacks import FGSM, PGD, ForeignAttack
from catwalk.attacks.masks import Border
from catwalk.errors import CatwalkError

HERE = __name__


def own_fgsm(model, inputs, labels, targeted, eps):
    points = inputs.clone().requires_grad_()
    F.cross_entropy(model(points), labels, reduction="sum").backward()
    return (inputs + (-eps if targeted else eps) * points.grad.sign()).clamp(0, 1)


def own_noise(model, inputs, labels, targeted, length=0.02):
    model(inputs)
    return inputs + length * torch.randn_like(inputs)


def too_far(model, inputs, labels, targeted):
    return 1 - inputs


def not_finite(model, inputs, labels, targeted):
    return inputs / 0


def of_another_shape(model, inputs, labels, targeted):
    return inputs[:, :, 1:]


def that_fails(model, inputs, labels, targeted):
    raise ValueError("no luck")


no_function = 3


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_a_function_is_called_with_our_budget(targeted, batched):
    network = make_network()
    images, targets, keys = make_batch(20)
    attack = ForeignAttack(f"{HERE}.own_fgsm", targeted=targeted, batched=batched)
    result = attack(network, images, targets, keys=keys)
    expected = FGSM(epsilon=8, targeted=targeted)(network, images, targets)
    # A gradient within rounding of 0 may have another sign for an image by itself.
    assert ((result.images - expected.images).abs() < 1e-6).double().mean() > 0.999
    assert result.iterations.tolist() == [1] * 20
    assert attack.name == f"{HERE} own_fgsm (ε = 8)"
    stated = ForeignAttack(f"{HERE}.own_fgsm", {"eps": 2 / 255}, targeted=targeted)
    assert ((stated(network, images, targets, keys=keys).images - images).abs().max() * 255).round() == 2


def test_random_numbers_depend_on_seed_and_item_alone():
    network = make_network()
    images, targets, keys = make_batch(20)
    state = torch.get_rng_state()

    def run(rows=slice(None), **settings):
        return ForeignAttack(f"{HERE}.own_noise", **settings)(
            network, images[rows], targets[rows], keys=keys[rows]
        ).images

    whole = run()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(run(batch_size=3), whole)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    assert torch.equal(run(order), whole[order])
    assert torch.equal(run(slice(5, 6)), whole[5:6])
    assert not torch.equal(run(seed=1), whole)
    assert not torch.equal(*(whole[:2] - images[:2]))


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 5), ("l2", 90), ("l0", 4)])
def test_what_goes_too_far_is_moved_into_the_ball(norm, epsilon):
    images, targets, keys = make_batch(6)
    attack = ForeignAttack(f"{HERE}.too_far", norm=norm, epsilon=epsilon, mask=Border(2))
    result = attack(make_network(), images, targets, keys=keys)
    ball = attack.threat_model.for_images(images, keys)
    expected = ball.project(1 - images, images)
    assert torch.allclose(result.images, expected, atol=1e-6)
    ball.verify_levels(ball.quantise(result.images, images), make_levels(6))


def test_what_is_no_number_leaves_the_image_as_it_was():
    images, targets, keys = make_batch(3)
    result = ForeignAttack(f"{HERE}.not_finite", epsilon=None)(make_network(), images, targets, keys=keys)
    assert torch.equal(result.images, images)


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        (f"{HERE}.of_another_shape", {}, r"returns \(1, 3, 8, 9\), and images of the shape \(1, 3, 9, 9\) are needed"),
        (f"{HERE}.that_fails", {}, r"attack: .*\.that_fails fails: ValueError: no luck"),
        (f"{HERE}.own_noise", {"lenght": 1}, "arguments: .* takes no 'lenght'; it takes model, inputs, .*, length"),
        (f"{HERE}.no_function", {}, r"path: .*no_function' is a int; give an attack's class or function"),
        (f"{HERE}.nothing", {}, "path: .* cannot be imported: .* has no attribute 'nothing'"),
        ("no_such_library.attacks.PGD", {}, "path: .* needs no_such_library, which is not installed: install it"),
        ("PGD", {}, r"path: give an import path, such as foolbox\.attacks\.LinfPGD, got 'PGD'"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(path, arguments, message):
    images, targets, keys = make_batch(3)
    with pytest.raises(CatwalkError, match=message):
        ForeignAttack(path, arguments)(make_network(), images, targets, keys=keys)


def test_a_library_that_is_missing_is_named_as_it_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "adv_lib", None)
    with pytest.raises(CatwalkError, match="needs adv_lib, which is not installed: pip install adv-lib"):
        ForeignAttack("adv_lib.ddn")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("targeted", [True, False])
def test_pgd_of_foolbox_is_ours(targeted):
    pytest.importorskip("foolbox")
    network = make_network()
    images, targets, keys = make_batch(8)
    arguments = {"abs_stepsize": 2 / 255, "steps": 5, "random_start": False}
    theirs = ForeignAttack("foolbox.attacks.LinfPGD", arguments, targeted=targeted)
    ours = PGD(step=2, iterations=5, random_start=False, targeted=targeted)(network, images, targets)
    found = theirs(network, images, targets, keys=keys)
    assert ((found.images - ours.images).abs() < 1e-6).double().mean() > 0.99
    assert theirs.library.startswith("foolbox 3.")


@pytest.mark.filterwarnings("ignore")
def test_ddn_of_adv_lib_runs_without_a_budget():
    adv_lib = pytest.importorskip("adv_lib.attacks")
    network = make_network()
    images, targets, keys = make_batch(8)
    attack = ForeignAttack("adv_lib.attacks.ddn", {"steps": 20}, norm="l2", epsilon=None)
    found = attack(network, images, targets, keys=keys)
    expected = torch.cat(
        [adv_lib.ddn(network, images[[row]], targets[[row]], targeted=True, steps=20) for row in range(8)]
    )
    assert torch.allclose(found.images, expected, atol=1e-4)
    assert attack.name == "adv_lib ddn"


@pytest.mark.filterwarnings("ignore")
def test_torchattacks_is_told_the_targets():
    pytest.importorskip("torchattacks")
    network = make_network()
    images, targets, keys = make_batch(8)
    arguments = {"alpha": 2 / 255, "steps": 5, "random_start": False}
    found = ForeignAttack("torchattacks.PGD", arguments)(network, images, targets, keys=keys)
    ours = PGD(step=2, iterations=5, random_start=False)(network, images, targets)
    assert ((found.images - ours.images).abs() < 1e-6).double().mean() > 0.99
