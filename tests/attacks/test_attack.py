"""The contract of every attack, tried on each of them."""

import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from every_attack import (
    ALL,
    BOUNDARY,
    BY_DISTANCE,
    CARLINI_WAGNER,
    OF_OTHER_AIMS,
    RADIUS_SEARCH,
    SPARSE,
    TRANSFER,
    UNTARGETED,
    SmallNetwork,
    aims,
    attack_towards_a_category,
    every_attack,
    make_batch,
    make_levels,
    make_network,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from catwalk.attacks import FGSM, PGD, Attack, ThreatModelError
from catwalk.attacks.attack import cross_entropy_gradient
from catwalk.errors import CatwalkError


class GradientStep(Attack):
    """Keeps the size of the gradient, so that its last bit shows where a sign would hide it."""

    def __init__(self, batch_size=64):
        super().__init__("linf", 8.0, batch_size=batch_size)

    def perturb(self, network, images, targets, keys):
        gradient = cross_entropy_gradient(network, images, targets)
        step = 0.02 * gradient / gradient.abs().amax((1, 2, 3), keepdim=True)
        return self.threat_model.project(images - step, images), torch.ones_like(targets)


@pytest.mark.parametrize("make_attack", [*ALL.values(), GradientStep], ids=[*ALL, "gradient step"])
def test_result_is_the_same_for_every_batch_size_order_and_company(make_attack):
    network = make_network()
    images, categories, keys = make_batch(70)
    targets = aims(make_attack(), categories)
    whole = make_attack(batch_size=64)(network, images, targets, keys=keys)
    assert not torch.equal(whole.images, images)
    for batch_size in (1, 7, 16):
        result = make_attack(batch_size=batch_size)(network, images, targets, keys=keys)
        assert torch.equal(result.images, whole.images)
        assert torch.equal(result.success, whole.success)
        assert torch.equal(result.iterations, whole.iterations)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(5))
    result = make_attack()(network, images[order], targets[order], keys=keys[order])
    assert torch.equal(result.images, whole.images[order])
    assert torch.equal(result.success, whole.success[order])
    for row in () if make_attack().is_joint else (0, 37, 69):
        one = slice(row, row + 1)
        assert torch.equal(make_attack()(network, images[one], targets[one], keys=keys[one]).images, whole.images[one])


@attack_towards_a_category
@pytest.mark.parametrize("targeted", [True, False])
def test_success_is_what_the_network_says(make_attack, targeted):
    network = make_network()
    images, _, keys = make_batch(40)
    predicted, runner_up = network(images).topk(2).indices.unbind(1)
    targets = runner_up if targeted else predicted
    result = make_attack(epsilon=40.0, targeted=targeted)(network, images, targets, keys=keys)
    with torch.no_grad():
        now = network(result.images).argmax(1)
    assert torch.equal(result.success, (now == targets) if targeted else (now != targets))
    assert result.success.any(), "so strong an attack succeeds somewhere"
    assert result.images.dtype == torch.float32
    assert result.success.dtype == torch.bool
    assert result.iterations.tolist() == [1 if isinstance(make_attack(), FGSM) else 3] * 40


@attack_towards_a_category
def test_depends_on_the_targets(make_attack):
    network = make_network()
    images, targets, keys = make_batch(16)
    toward = make_attack()(network, images, targets, keys=keys).images
    toward_others = make_attack()(network, images, (targets + 1) % 5, keys=keys).images
    away = make_attack(targeted=False)(network, images, targets, keys=keys).images

    def log_probabilities(images):
        return network(images).log_softmax(1).gather(1, targets[:, None])[:, 0].detach()

    assert (log_probabilities(toward) > log_probabilities(images)).all()
    assert (log_probabilities(away) < log_probabilities(images)).all()
    assert (toward_others != toward).flatten(1).any(1).all()


def state_of(network):
    return (
        [module.training for module in network.modules()],
        {name: tensor.clone() for name, tensor in network.state_dict().items()},
        [None if parameter.grad is None else parameter.grad.clone() for parameter in network.parameters()],
        [parameter.requires_grad for parameter in network.parameters()],
        torch.get_rng_state(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    )


def assert_same_state(after, before):
    assert after[0] == before[0], "flags"
    for name, tensor in before[1].items():
        assert torch.equal(after[1][name], tensor), name
    for now, then in zip(after[2], before[2], strict=True):
        assert (now is None and then is None) or torch.equal(now, then), "a parameter's gradient"
    assert after[3] == before[3], "requires_grad"
    assert torch.equal(after[4], before[4]), "the global generator"
    assert after[5:] == before[5:], "the gradient mode"


@every_attack
def test_leaves_the_network_as_it_was(make_attack):
    network = make_network().train()
    network[1].eval()  # a frozen BatchNorm in a network in training
    network[8].weight.requires_grad_(False)
    network[3].weight.grad = torch.ones_like(network[3].weight)
    images, categories, keys = make_batch(20)
    targets = aims(make_attack(), categories)
    originals = images.clone(), targets.clone(), keys.clone()
    before = state_of(network)
    assert len(set(before[0])) == 2
    result = make_attack()(network, images, targets, keys=keys)
    assert_same_state(state_of(network), before)
    for tensor, original in zip((images, targets, keys), originals, strict=True):
        assert torch.equal(tensor, original)
    assert not result.images.requires_grad
    # Dropout and batch statistics play no part: it was in eval mode while under attack.
    assert torch.equal(result.images, make_attack()(network.eval(), images, targets, keys=keys).images)


ASKING = {name: make_attack for name, make_attack in ALL.items() if name not in TRANSFER}
"""Attacks that ask the network under attack more than to judge."""


class FailsInCall(nn.Module):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x):
        self.number -= 1
        if self.number <= 0:
            raise RuntimeError("out of order")
        return x


@pytest.mark.parametrize("make_attack", ASKING.values(), ids=ASKING)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_leaves_the_network_as_it_was_after_an_exception(make_attack, number):
    network = SmallNetwork(FailsInCall(number), *make_network().train())
    network[2].eval()
    before = state_of(network)
    images, categories, keys = make_batch(3)
    targets = aims(make_attack(), categories)
    with pytest.raises(RuntimeError, match="out of order"):
        make_attack()(network, images, targets, keys=keys)
    assert_same_state(state_of(network), before)


@every_attack
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_works_where_gradients_are_off(make_attack, mode):
    network = make_network()
    images, categories, keys = make_batch(20)
    targets = aims(make_attack(), categories)
    expected = make_attack()(network, images, targets, keys=keys).images
    with mode():
        result = make_attack()(network, images.clone(), targets.clone(), keys=keys.clone())
        assert not torch.is_grad_enabled()
        empty = make_attack()(network, images[:0].clone(), targets[:0].clone(), keys=keys[:0].clone())
    assert torch.equal(result.images, expected)
    for images in (result.images, empty.images):
        images.requires_grad_()  # an inference tensor would refuse


@pytest.mark.filterwarnings("error")
@every_attack
def test_takes_images_that_are_part_of_a_graph(make_attack):
    network = make_network()
    images, categories, keys = make_batch(3)
    targets = aims(make_attack(), categories)
    result = make_attack()(network, images.clone().requires_grad_() * 1, targets, keys=keys)
    assert not result.images.requires_grad
    assert torch.equal(result.images, make_attack()(network, images, targets, keys=keys).images)


@every_attack
def test_an_empty_batch_gives_an_empty_result(make_attack):
    none = torch.zeros(0).long()
    result = make_attack()(make_network(), torch.zeros(0, 3, 9, 9), aims(make_attack(), none), keys=none)
    assert result.images.shape == (0, 3, 9, 9)
    assert (result.images.dtype, result.success.dtype) == (torch.float32, torch.bool)
    assert (result.success.shape, result.iterations.shape) == ((0,), (0,))


def test_progress_counts_images():
    calls = []
    images, targets, _ = make_batch(40)
    FGSM(batch_size=16)(make_network(), images, targets, progress=lambda *call: calls.append(call))
    assert calls == [(16, 40), (32, 40), (40, 40)]


class InLowPrecision(nn.Module):
    """Computes in another dtype inside and returns its logits in it."""

    def __init__(self, network, dtype):
        super().__init__()
        self.network = network.to(dtype)
        self.dtype = dtype

    def forward(self, images):
        return self.network(images.to(self.dtype))


@attack_towards_a_category
def test_attacks_a_network_of_lower_precision(make_attack):
    images, targets, keys = make_batch(16)
    result = make_attack()(InLowPrecision(make_network(), torch.bfloat16), images, targets, keys=keys)
    assert result.images.dtype == torch.float32
    expected = make_attack()(make_network(), images, targets, keys=keys).images
    # bfloat16 flips some signs of the gradient, but most stay.
    assert ((result.images - images).sign() == (expected - images).sign()).float().mean() > 0.8


def budget_of(kind, epsilon):
    """Return the argument that says how much an attack may change, where there is one."""
    if kind in CARLINI_WAGNER:
        return {"confidence": 0.01}
    if kind in SPARSE:
        return {"pixels": int(epsilon)}
    return {} if kind in (*BY_DISTANCE, *RADIUS_SEARCH, "fab without a budget") else {"epsilon": epsilon}


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(ALL)),
    targeted=st.booleans(),
    epsilon=st.floats(0.3, 40, exclude_min=True),
    precision=st.sampled_from(["32", "bf16"]),
    seed=st.integers(0, 10**6),
)
def test_8_bit_files_are_inside_the_ball_and_the_network_as_it_was(kind, targeted, epsilon, precision, seed):
    attack = ALL[kind](
        precision="32" if kind in (*RADIUS_SEARCH, *UNTARGETED, *BOUNDARY) else precision,
        **budget_of(kind, epsilon),
        **({} if kind in (*OF_OTHER_AIMS, *UNTARGETED, *BOUNDARY) else {"targeted": targeted}),
    )
    images, categories, keys = make_batch(3, seed=seed)
    network = make_network(seed=seed).train()
    network[4].eval()
    network[3].weight.grad = torch.ones_like(network[3].weight)
    before = state_of(network)
    result = attack(network, images, aims(attack, categories), keys=keys)
    assert_same_state(state_of(network), before)
    levels = attack.threat_model.quantise(result.images, images)
    read_back = []
    for image in levels.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="PNG")
        read_back.append(np.asarray(Image.open(file)))
    levels_read = torch.from_numpy(np.stack(read_back)).permute(0, 3, 1, 2)
    assert torch.equal(levels_read, levels)
    clean_levels = make_levels(3, seed=seed)
    attack.threat_model.verify_levels(levels_read, clean_levels)
    differences = levels_read.numpy().astype(int) - clean_levels.numpy()
    if attack.threat_model.epsilon is None:  # they have no budget
        assert not differences[~result.success.numpy()].any(), "what fails stays clean"
    elif kind in SPARSE:
        assert differences.any(axis=1).sum(axis=(1, 2)).max() <= int(epsilon)
    elif attack.threat_model.norm == "l2":
        assert (differences.reshape(3, -1) ** 2).sum(axis=1).max() <= epsilon**2
    else:
        assert abs(differences).max() <= epsilon
    # The attack uses its budget, to the last level that fits, wherever a gradient leads and the box allows.
    if kind == "fgsm":
        assert abs(differences).max() == math.floor(epsilon)


class Damaged(FGSM):
    """Damages the last image of its second batch."""

    def __init__(self, value):
        super().__init__(batch_size=16)
        self.value, self.calls = value, 0

    def perturb(self, network, images, targets, keys):
        adversarial, iterations = super().perturb(network, images, targets, keys)
        self.calls += 1
        if self.calls == 2:
            adversarial[-1, 0, 0, 0] = self.value
        return adversarial, iterations


@pytest.mark.parametrize(
    ("value", "message"),
    [(1.0, "is 255 grey levels .* budget of 8 grey"), (math.nan, "holds nan"), (1.1, "holds 280.5")],
)
def test_every_result_is_verified(value, message):
    images, targets, _ = make_batch(48)
    images[31, 0, 0, 0] = 0
    with pytest.raises(ThreatModelError, match=f"adversarial image 31 {message}"):
        Damaged(value)(make_network(), images, targets)


class WritesInPlace(FGSM):
    def perturb(self, network, images, targets, keys):
        images.fill_(0.5)
        return images, torch.ones_like(targets)


@attack_towards_a_category
def test_another_budget_holds_from_the_random_start_on(make_attack):
    """The threat model is where the budget stands: whoever replaces it has an attack that was made with the other."""
    images, targets, keys = make_batch(5)
    step = {"step": 0.5} if "step" in vars(make_attack()) else {}
    made, replaced = make_attack(epsilon=2, **step), make_attack(epsilon=8, **step)
    replaced.threat_model = dataclasses.replace(replaced.threat_model, epsilon=2.0)
    network = make_network()
    images_of = [attack(network, images, targets, keys=keys).images for attack in (made, replaced)]
    assert torch.equal(*images_of)


def test_is_verified_against_the_images_given():
    images, targets, _ = make_batch(4)
    original = images.clone()
    with pytest.raises(ThreatModelError, match="adversarial image 0"):
        WritesInPlace()(make_network(), images, targets)
    assert torch.equal(images, original)


@pytest.mark.parametrize("returned", [lambda pair: pair[0], lambda pair: [*pair], lambda pair: (*pair, None)])
def test_an_own_attack_that_returns_something_else_is_told_what_to_return(returned):
    class ReturnsElse(FGSM):
        def perturb(self, network, images, targets, keys):
            return returned(super().perturb(network, images, targets, keys))

    images, targets, _ = make_batch(4)
    with pytest.raises(CatwalkError, match=r"ReturnsElse\.perturb returns a .*: return two tensors, the adversarial"):
        ReturnsElse()(make_network(), images, targets)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(4, 3, 9, 9, dtype=torch.float64)}, "images: must be float32"),
        ({"images": torch.zeros(4, 1, 9, 9)}, "images: must be float32 of shape"),
        ({"images": torch.zeros(3, 9, 9)}, "images: must be float32 of shape"),
        ({"images": torch.full((4, 3, 9, 9), 1.01)}, r"images: values must be in \[0, 1\], got 1.01"),
        ({"images": torch.full((4, 3, 9, 9), -0.01)}, r"images: values must be in \[0, 1\], got -0.01"),
        ({"images": torch.full((4, 3, 9, 9), math.nan)}, r"images: values must be in \[0, 1\], got nan"),
        ({"targets": torch.zeros(4)}, r"targets: must be int64 of shape \(4,\)"),
        ({"targets": torch.zeros(3).long()}, r"targets: must be int64 of shape \(4,\)"),
        ({"targets": torch.zeros(4, device="meta").long()}, "targets: must be on the images' device, cpu, got meta"),
        ({"keys": torch.zeros(4)}, r"keys: must be int64 of shape \(4,\)"),
        ({"keys": torch.zeros(5).long()}, r"keys: must be int64 of shape \(4,\)"),
        ({"keys": torch.zeros(4, device="meta").long()}, "keys: must be on the images' device"),
        ({"network": nn.Linear(3, 4, device="meta")}, "network: must be on the images' device, cpu, got meta"),
        ({"network": nn.Conv2d(3, 3, 1)}, r"network: must return logits of shape \(N, C\), got \(1, 3, 9, 9\)"),
    ],
)
def test_refuses_wrong_arguments(change, message):
    images, targets, keys = make_batch(4)
    arguments = {"network": make_network(), "images": images, "targets": targets, "keys": keys, **change}
    with pytest.raises(ValueError, match=message):
        PGD()(**arguments)


@pytest.mark.parametrize("wrong", [-1, 5])
def test_refuses_targets_that_are_no_class(wrong):
    images, targets, _ = make_batch(20)
    targets[17] = wrong
    with pytest.raises(CatwalkError, match=rf"targets: must be in 0\.\.4, .* 5 classes; got {wrong} for image 17"):
        FGSM()(make_network(), images, targets)


def test_refuses_a_network_without_finite_logits():
    network = make_network()
    network[8].bias.data[2] = math.nan
    with pytest.raises(CatwalkError, match="network: its logits are not finite"):
        FGSM()(network, *make_batch(4)[:2])


def test_refuses_a_batch_size_of_zero():
    for attack in (FGSM, PGD):
        with pytest.raises(CatwalkError, match="batch_size: must be at least 1, got 0"):
            attack(batch_size=0)


def test_an_attack_without_budget_has_no_epsilon_in_its_name():
    class Unbounded(Attack):
        def perturb(self, network, images, targets, keys):
            return images, targets

    assert Unbounded("l2", None).name == "Unbounded"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_attacks_are_chosen_by_class_path():
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(Attack, "attack")
    config = {"class_path": "catwalk.attacks.PGD", "init_args": {"epsilon": 4, "step": None, "targeted": False}}
    attack = parser.instantiate_classes(parser.parse_object({"attack": config})).attack
    assert (attack.name, attack.targeted) == ("PGD (ε = 4)", False)
