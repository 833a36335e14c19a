"""Networks in their quickest form, against themselves in plain eval mode and in float64."""

import copy
import gc
import shutil
import weakref
from collections import Counter
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations, parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from catwalk.attacks import PGD, CarliniWagner
from catwalk.backbones import build_network
from catwalk.frozen_network import frozen


def far_from_defaults(network, seed=0):
    """Give BatchNorms statistics, scales and offsets that no one could leave out, and last layers a size that shows."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor, low, high):
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            draw(module.running_mean, -0.7, 0.7)
            draw(module.running_var, 0.2, 3)
        if isinstance(module, _BatchNorm) and module.affine:
            draw(module.weight, -0.5, 2)
            draw(module.bias, -0.5, 0.5)
        if isinstance(module, nn.Linear):
            draw(module.weight, -0.3, 0.3)
    return network


def convolution(inputs=3, outputs=8, **settings):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **settings)


def tail(channels=8):
    return nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 5))


def small_network():
    torch.manual_seed(0)
    parts = convolution(), nn.BatchNorm2d(8), nn.ReLU(inplace=True), convolution(8), nn.BatchNorm2d(8), tail()
    return far_from_defaults(nn.Sequential(*parts)).eval()


def make_images(number=2, size=12, seed=0):
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(seed))


def evaluate(function, images):
    """Return what a function gives, and the gradient of a weighted sum of that with respect to the images."""
    images = images.clone().requires_grad_()
    values = function(images)
    weights = torch.linspace(-1, 1, values[0].numel(), dtype=values.dtype).view_as(values[:1])
    return values.detach(), torch.autograd.grad((values * weights).sum(), images)[0]


def exact(network, images, method="forward"):
    reference = copy.deepcopy(network).double().eval()
    return evaluate(getattr(reference, method), images.double())


def assert_close(pair, expected, tolerance=2e-5):
    """Compare values and gradients, by the largest of each."""
    for one, other in zip(pair, expected, strict=True):
        assert one.shape == other.shape
        assert float(other.abs().max()) > 0
        assert float((one.double() - other).abs().max() / other.abs().max()) < tolerance


def num_batch_norms(function, images):
    with mock.patch.object(F, "batch_norm", wraps=F.batch_norm) as spy:
        function(images)
    return spy.call_count


def check(network, images=None, left=None, **settings):
    """Compare logits and gradients with those in float64, and the number of BatchNorms that are left."""
    images = make_images() if images is None else images
    expected = exact(network, images)
    with frozen(network, images, **settings) as view:
        assert_close(evaluate(view, images), expected)
        if left is not None:
            assert num_batch_norms(view, images) == left
    assert_close(evaluate(network, images), expected)


TRANSFORMER = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 64}
BACKBONES = {  # with arguments, size of images, and BatchNorms that are left of all
    "catwalk.backbones.compact_cnn": ({}, 32, 0, 4),
    "torchvision.models.resnet18": ({}, 64, 0, 20),
    "torchvision.models.densenet121": ({}, 32, 62, 121),
    "torchvision.models.mobilenet_v3_small": ({}, 64, 0, 34),
    "torchvision.models.VisionTransformer": (TRANSFORMER, 32, 0, 0),
    "timm.models.tf_efficientnet_lite0": ({}, 64, 0, 49),
    "timm.models.regnetx_002": ({}, 64, 0, 44),
}
every_backbone = pytest.mark.parametrize("backbone", BACKBONES)


def network_of(backbone):
    if backbone.startswith("timm"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    return far_from_defaults(build_network(backbone, BACKBONES[backbone][0], 7))


class Recorder(TorchDispatchMode):
    """Notes dtype and layout of what convolutions and matrix products get."""

    def __init__(self):
        super().__init__()
        self.dtypes = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        if function in (torch.ops.aten.convolution.default, torch.ops.aten.addmm.default):
            self.dtypes.update(value.dtype for value in arguments if isinstance(value, torch.Tensor))
        return function(*arguments, **kwargs or {})


@every_backbone
def test_equals_the_network_in_eval_mode(backbone):
    network = network_of(backbone).train()
    _, size, left, number = BACKBONES[backbone]
    images = make_images(size=size)
    logits, features = exact(network, images), exact(network, images, "features")
    with frozen(network, images[:1]) as view:
        assert_close(evaluate(view, images), logits)
        assert_close(evaluate(view.features, images), features)
        assert num_batch_norms(view, images) == left
    assert network.training
    assert num_batch_norms(network.eval(), images) == number
    double = copy.deepcopy(network).double()
    with frozen(double, images.double()) as view:
        assert_close(evaluate(view, images.double()), logits, 1e-10)
        assert_close(evaluate(view.features, images.double()), features, 1e-10)


@every_backbone
def test_in_bfloat16_within_its_rounding(backbone):
    network = network_of(backbone)
    images = make_images(4, BACKBONES[backbone][1])
    # Of linear activations and depthwise convolutions, which let rounding grow with such statistics.
    tolerance = 0.1 if "lite0" in backbone else 0.02
    for method in ("forward", "features"):
        expected, slopes = exact(network, images, method)
        with frozen(network, images, precision="bf16") as view:
            with Recorder() as recorder:
                values, gradient = evaluate(getattr(view, method), images)
            with torch.no_grad():  # where attention has a kernel of its own
                assert_close([getattr(view, method)(images)], [expected], tolerance)
        assert set(recorder.dtypes) == {torch.bfloat16}
        assert values.dtype == gradient.dtype == torch.float32
        assert_close([values], [expected], tolerance)
        assert F.cosine_similarity(gradient.double().flatten(), slopes.flatten(), dim=0) > 0.8


def test_layers_of_every_kind():
    torch.manual_seed(0)
    parts = (
        (convolution(3, 8, bias=True), nn.BatchNorm2d(8, affine=False)),
        (convolution(8, 12, groups=4), nn.BatchNorm2d(12, eps=0.1)),
        (convolution(12, 12, groups=12, bias=False), nn.BatchNorm2d(12, momentum=None)),
        (convolution(12, 8, padding_mode="reflect"), nn.SyncBatchNorm(8)),
        (nn.Conv2d(8, 8, 3, stride=2, dilation=2, padding="valid"), nn.BatchNorm2d(8)),
        (convolution(8), nn.BatchNorm2d(8, track_running_stats=False)),  # by the statistics of the batch
        (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 9), nn.BatchNorm1d(9), nn.Linear(9, 5)),
    )
    network = far_from_defaults(nn.Sequential(*(layer for part in parts for layer in (*part, nn.ELU())))).eval()
    assert all(parameter.requires_grad for parameter in network.parameters())
    check(network, left=2)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_scale():
    network, images = small_network(), make_images()
    scale = torch.tensor([0.229, 0.5, 2.0]).view(1, 3, 1, 1)
    logits, gradient = exact(network, images)
    with frozen(network, images / scale, scale=scale) as view:
        assert_close(evaluate(view, images / scale), (logits, gradient * scale))


class Module(nn.Module):
    """A network of parts, whose forward is given as a function."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, images):
        return self.function(self, images)


def basic(function=lambda m, x: m.tail(m.norm(m.conv(x))), **parts):
    torch.manual_seed(1)
    parts = {"conv": convolution(), "norm": nn.BatchNorm2d(8), "tail": tail()} | parts
    return far_from_defaults(Module(function, **parts)).eval()


class Standardised(nn.Conv2d):
    def forward(self, images):
        weight = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) / self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(images, weight, self.bias)


class Gated(nn.Conv2d):
    def forward(self, images):
        values, gates = super().forward(images).chunk(2, dim=1)
        return values * gates.sigmoid()


class Positive(nn.Conv2d):
    def forward(self, images):
        return super().forward(images).relu()


class Doubling(nn.Module):
    def forward(self, values):
        return 2 * values


def with_parametrised_bias():
    module = convolution()
    parametrize.register_parametrization(module, "bias", Doubling())
    return module


def with_buffer_for_bias():
    module = convolution()
    del module.bias
    module.register_buffer("bias", torch.rand(8))
    return module


def branch(module, images):
    """Can be followed by no one: goes by values, and by how many images there are."""
    values = module.tail(module.norm(module.conv(images)))
    return values if len(images) > 100 or values.sum() > 1e9 else values * 2


TWO = {"other": nn.BatchNorm2d(8)}
STAY = {
    "result used twice": lambda: basic(lambda m, x: m.tail((y := m.conv(x)) + m.norm(y))),
    "changed in between": lambda: basic(lambda m, x: m.tail(m.norm(m.conv(x).relu_()))),
    "result changed in place": lambda: basic(lambda m, x: m.tail(m.norm((y := m.conv(x), y.relu_())[0]))),
    "convolution called twice": lambda: basic(lambda m, x: m.tail(m.norm(m.conv(x)) + m.conv(x.flip(3)))),
    "BatchNorm called twice": lambda: basic(lambda m, x: m.tail(m.norm(m.norm(m.conv(x))))),
    "weight used elsewhere": lambda: basic(lambda m, x: m.tail(m.norm(m.conv(x)) * m.conv.weight.mean())),
    "weight norm": lambda: basic(conv=parametrizations.weight_norm(convolution())),
    "spectral norm": lambda: basic(conv=parametrizations.spectral_norm(convolution())),
    "parametrised bias": lambda: basic(conv=with_parametrised_bias()),
    "buffer for bias": lambda: basic(conv=with_buffer_for_bias()),
    "standardised weight": lambda: basic(conv=Standardised(3, 8, 3, padding=1)),
    "makes half of its channels": lambda: basic(conv=Gated(3, 16, 3, padding=1)),
    "with activation": lambda: basic(conv=Positive(3, 8, 3, padding=1)),
}


@pytest.mark.parametrize("make", STAY.values(), ids=STAY)
def test_what_must_not_be_folded(make):
    network = make()
    number = num_batch_norms(network, make_images())
    assert number > 0
    check(network, left=number)
    check(network, left=number)


def test_parts_of_a_network_that_cannot_be_followed():
    conv, norm = convolution(), nn.BatchNorm2d(8)
    check(basic(branch), left=1)  # its own modules, which it may call as it likes
    network = basic(branch, norm=nn.Identity(), conv=nn.Sequential(conv, norm, convolution(8), nn.BatchNorm2d(8)))
    check(network, left=0)
    check(Module(lambda m, x: m.inner(x) if len(x) else x, inner=network), left=0)


def test_what_is_in_two_places_may_be_called_from_both():
    torch.manual_seed(0)
    conv = convolution()
    light, dark = (nn.Sequential(conv, nn.BatchNorm2d(8)) for _ in range(2))
    parts = {"light": light, "dark": dark, "tail": tail()}
    network = far_from_defaults(Module(lambda m, x: m.tail(m.light(x) if x.mean() > 0.5 else m.dark(x)), **parts))
    images = make_images() / 2
    expected = exact(network, images)
    with frozen(network, 1 - images) as view:
        assert_close(evaluate(view, images), expected)
    # Another name for the same part is no second place for what is in it.
    check(Module(lambda m, x: m.inner(x), also=(inner := small_network()), inner=inner), left=0)


HOOKS = ["forward", "forward_pre", "full_backward", "full_backward_pre"]


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("place", ["0", "0.0", "1", "1.0"])
def test_hooks_fire_and_see_what_they_saw(place, kind):
    """On a convolution, on the BatchNorm after it, and on what ends with the one and begins with the other."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Sequential(convolution()), nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()), tail())
    network = far_from_defaults(network).eval()
    check(network, left=0)
    seen = []
    hook = getattr(network.get_submodule(place), f"register_{kind}_hook")(lambda *arguments: seen.append(arguments[1:]))
    evaluate(network, make_images())
    before = seen[:]
    with frozen(network, make_images()) as view:
        del seen[:]
        assert num_batch_norms(lambda images: evaluate(view, images), make_images()) == 1
    assert len(seen) == len(before) == 1
    for one, other in zip(seen[0], before[0], strict=True):
        torch.testing.assert_close(one, other)
    hook.remove()
    check(network, left=0)


def test_nothing_sees_the_symbols_by_which_the_computation_is_followed():
    seen = []
    network = basic(lambda m, x: m.tail(setattr(m, "kept", m.norm(m.conv(x))) or m.kept))
    network.tail.register_forward_hook(lambda _, arguments, output: seen.append(output))
    with frozen(network, make_images()) as view:
        assert type(network.kept) is torch.Tensor
        assert num_batch_norms(view, make_images()) == 0
    assert {type(value) for value in seen} == {torch.Tensor}


def state_of(network):
    """Return all that has to be as before: who is where, flags, bits, layouts, gradients, hooks and attributes."""
    tensors = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    return (
        [(name, id(module), module.training) for name, module in network.named_modules(remove_duplicate=False)],
        [(name, id(tensor), tensor.requires_grad, id(tensor.grad), tensor.stride()) for name, tensor in tensors],
        [tensor.detach().double().numpy().tobytes() for _, tensor in tensors],
        [
            (name, list(value) if isinstance(value, dict) else id(value))
            for module in network.modules()
            for name, value in module.__dict__.items()
        ],
        list(network.state_dict()),
        torch.get_rng_state().tolist(),
        (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        torch.backends.cudnn.allow_tf32,
    )


def mixed_network():
    network = small_network().train()
    network[1].eval()
    network[0].weight.data = network[0].weight.data.contiguous(memory_format=torch.channels_last)
    network[3].weight.requires_grad_(False)
    network[3].bias.grad = torch.ones(8)
    network[4].register_forward_hook(lambda *_: None)
    deep = nn.Conv2d(8, 128, 1), nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(128, 8, 1)
    return nn.Sequential(*network[:5], *deep, *network[5:])


def test_everything_is_as_before():
    network, images = mixed_network(), make_images(size=4)
    before, outputs = state_of(network), copy.deepcopy(network).eval()(images)
    for settings in ({}, {"precision": "bf16"}):
        with frozen(network, images, **settings) as view:
            inside = state_of(network)
            evaluate(view, images)
            was = view.training
            view.train(was)  # as attacks of others do
            assert not any(module.training for module in network.modules())
            if not settings:
                with frozen(network, images, precision="bf16") as inner:
                    evaluate(inner, images)
            assert state_of(network) == inside
            with frozen(view, images) as inner:
                assert torch.equal(inner(images), view(images))
            assert state_of(network) == inside
        assert state_of(network) == before
    assert inside != before
    assert torch.equal(network.eval()(images), outputs)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_everything_is_as_before_after_an_exception(number):
    """In the two passes by which a network is prepared, in that for bfloat16, and inside."""
    calls = []

    def fail(module, images):
        calls.append(images)
        if len(calls) == number:
            raise RuntimeError("out of order")

    network, images = mixed_network(), make_images(size=4)
    network[-1].register_forward_pre_hook(fail)
    before = state_of(network)
    with pytest.raises(RuntimeError, match="out of order"), frozen(network, images, precision="bf16") as view:
        view(images)
    assert state_of(network) == before


def test_where_gradients_are_off_or_autocast_is_on():
    network, images = small_network(), make_images()
    expected = exact(network, images)
    for mode in (torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)):
        with mode(), frozen(network, images.clone()) as view:
            assert_close([view(images.clone())], expected[:1])
            with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
                assert_close(evaluate(view, images), expected)


def test_a_network_that_has_learnt_or_lost_something_since():
    network, images = small_network(), make_images()
    check(network, images, left=0)
    network[0].weight.data.mul_(0.5)
    network[4].running_mean.add_(0.3)
    check(network, images, left=0)
    network[1] = nn.Identity()
    check(network, images, left=0)
    network[1] = nn.BatchNorm2d(8)
    check(far_from_defaults(network).eval(), images, left=0)


def test_networks_are_not_kept_alive():
    network = small_network()
    check(network)
    reference = weakref.ref(network)
    del network
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_rows_have_the_same_bits_in_every_padded_batch(precision):
    network = network_of("torchvision.models.resnet18")
    images = make_images(32, 64)
    with frozen(network, images, precision=precision) as view:
        _, whole = evaluate(view, images)
        for rows in (slice(0, 16), slice(16, 32)):
            assert torch.equal(evaluate(view, images[rows])[1], whole[rows])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled():
    network, images = small_network(), make_images()
    with frozen(network, images, compiled=True) as view:
        assert_close(evaluate(view, images), exact(network, images))


def test_success_is_what_the_exact_network_says():
    torch.manual_seed(0)
    network = nn.Sequential(convolution(), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 144, 5)).eval()
    images = make_images(32)
    with torch.no_grad():
        targets = network(images).argmax(1)
    search = {"targeted": False, "initial_c": 10, "searches": 3, "iterations": 100, "learning_rate": 0.05}
    for attack in (PGD(200, targeted=False, precision="bf16"), CarliniWagner(precision="bf16", **search)):
        result = attack(network, images, targets, keys=torch.arange(32))
        with torch.no_grad():
            assert torch.equal(result.success, network(result.images).argmax(1) != targets)
        assert result.success.any()
        if attack.threat_model.epsilon is None:
            assert torch.equal(result.images[~result.success], images[~result.success])
