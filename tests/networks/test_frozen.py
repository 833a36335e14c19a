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
from frozen_networks import (
    Module,
    assert_close,
    basic,
    check,
    convolution,
    evaluate,
    exact,
    far_from_defaults,
    make_images,
    num_batch_norms,
    small_network,
    tail,
)
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from catwalk.networks.building import build_network
from catwalk.networks.frozen import exact_convolutions, frozen

TRANSFORMER = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 64}
BACKBONES = {  # with arguments, size of images, and BatchNorms that are left of all
    "catwalk.networks.compact_cnn": ({}, 32, 0, 4),
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
    """Notes of which dtype is what convolutions and linear layers get."""

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


def test_bfloat16_where_the_network_lets_autocast_in():
    def forward(module, images):
        values = module.tail[:3](module.norm(module.conv(images)))
        with torch.autocast("cpu", enabled=False):
            return module.tail[3](values.to(images.dtype))

    network, images = basic(forward), make_images()
    expected = exact(network, images)
    with frozen(network, images, precision="bf16") as view:
        assert_close([view(images)], expected[:1], 0.02)
        assert (network.conv.weight.dtype, network.tail[3].weight.dtype) == (torch.bfloat16, torch.float32)
    double = small_network().double()  # which autocast leaves alone
    with frozen(double, images.double(), precision="bf16") as view:
        assert_close(evaluate(view, images.double()), exact(double, images), 1e-10)


def test_normalisations_of_timm_between_convolutions():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = far_from_defaults(timm.create_model("resnetv2_18", num_classes=7)).double().eval()
    images = make_images(size=64).double()
    assert num_batch_norms(network, images) == 17
    check(network, images, left=9)  # those that begin a block come after an addition


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
    network = network.to(memory_format=torch.channels_last)  # so that what is not folded may stay as it is
    assert all(parameter.requires_grad for parameter in network.parameters())
    check(network, left=2)
    with frozen(network, make_images()) as view:
        view(make_images()).sum().backward()
    assert all(module.weight.grad is None for module in network if isinstance(module, nn.Conv2d))


def test_scale():
    network, images = small_network(), make_images()
    scale = torch.tensor([0.229, 0.5, 2.0]).view(1, 3, 1, 1)
    logits, gradient = exact(network, images)
    with frozen(network, images / scale, scale=scale) as view:
        assert_close(evaluate(view, images / scale), (logits, gradient * scale))


def convolution_that(forward, inputs=3, outputs=8):
    """Return a convolution of a class of its own."""

    class Own(nn.Conv2d):
        def forward(self, *arguments):
            return forward(self, *arguments)

    return Own(inputs, outputs, 3, padding=1)


def standardised(module, images):
    weight = module.weight - module.weight.mean((1, 2, 3), keepdim=True)
    return module._conv_forward(images, weight / weight.std((1, 2, 3), keepdim=True), module.bias)


def gated(module, images):
    values, gates = nn.Conv2d.forward(module, images).chunk(2, dim=1)
    return values * gates.sigmoid()


def with_parametrised_bias():
    module = convolution()
    parametrize.register_parametrization(module, "bias", nn.Softplus())
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


STAY = {
    "result used twice": lambda: basic(lambda m, x: m.tail((y := m.conv(x)) + m.norm(y))),
    "changed in between": lambda: basic(lambda m, x: m.tail(m.norm(m.conv(x).relu_()))),
    "result changed in place": lambda: basic(lambda m, x: m.tail(m.norm((y := m.conv(x), y.relu_())[0]))),
    "convolution called twice": lambda: basic(lambda m, x: m.tail(m.norm(m.conv(x)) + m.conv(x.flip(3)))),
    "BatchNorm called twice": lambda: basic(lambda m, x: m.tail(m.norm(m.norm(m.conv(x))))),
    "weight norm": lambda: basic(conv=parametrizations.weight_norm(convolution())),
    "spectral norm": lambda: basic(conv=parametrizations.spectral_norm(convolution())),
    "parametrised bias": lambda: basic(conv=with_parametrised_bias()),
    "buffer for bias": lambda: basic(conv=with_buffer_for_bias()),
    "makes half of its channels": lambda: basic(conv=convolution_that(gated, outputs=16)),
}
SHOW = {  # only in the logits, so that nothing is folded
    "weight used elsewhere": lambda: basic(lambda m, x: m.tail(m.norm(m.conv(x)) * m.conv.weight.mean())),
    "standardised weight": lambda: basic(conv=convolution_that(standardised)),
    "with activation": lambda: basic(conv=convolution_that(lambda m, x: nn.Conv2d.forward(m, x).relu())),
}


@pytest.mark.parametrize("kind", [*STAY, *SHOW])
def test_what_must_not_be_folded(kind):
    network = (STAY | SHOW)[kind]()
    number = num_batch_norms(network, make_images())
    assert number > 0
    check(network, left=number)
    before = far_from_defaults(nn.Sequential(convolution(3, 3), nn.BatchNorm2d(3)), seed=1).eval()
    check(nn.Sequential(before, network), left=number + (kind in SHOW))


@pytest.mark.parametrize("given", [slice(0, 1), slice(0, 5), slice(0, 2)])
def test_one_image_on_which_folding_does_not_show_is_not_enough(given):
    """The layer adds something in images with white alone, of which the first two have none."""
    plain = nn.Conv2d.forward
    network = basic(conv=convolution_that(lambda m, x: plain(m, x) + (x > 0.99).any() * plain(m, x).relu()))
    images = make_images(5) * 0.9
    images[2:] = images[2:] / 0.9 + 0.1
    with torch.no_grad(), exact_convolutions():
        expected = [network(image[None]) for image in images]
        with frozen(network, images[given]) as view:
            found = [view(image[None]) for image in images]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_ways_to_call_a_deep_convolution():
    plain = nn.Conv2d.forward
    for conv, call in (
        (nn.Conv2d(128, 128, 3, padding=1), lambda m, x: m.conv(input=x)),
        (convolution_that(lambda m, x, by: plain(m, x) * by, 128, 128), lambda m, x: m.conv(x, 3.0)),
        (convolution_that(lambda m, x: (plain(m, x), None), 128, 128), lambda m, x: m.conv(x)[0]),
    ):
        parts = {"first": nn.Conv2d(3, 128, 1), "conv": conv, "last": nn.Conv2d(128, 8, 1)}
        network = basic(lambda m, x, call=call: m.tail(m.norm(m.last(call(m, m.first(x))))), **parts)
        check(network, make_images(size=4), left=0)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_layouts(precision):
    """In float32 on a CPU, deep convolutions that give few positions are contiguous; all others are not."""
    network, images = network_of("torchvision.models.resnet18"), make_images(size=64)
    with frozen(network, images, precision=precision) as view, mock.patch.object(F, "conv2d", wraps=F.conv2d) as spy:
        view(images)
    calls = [call.args[:2] for call in spy.call_args_list if call.args[1].shape[-1] > 1]
    assert len(calls) == 17
    for inputs, weight in calls:
        is_deep = precision == "32" and len(weight) >= 256  # 4 positions in the last four, 16 in the four before
        assert weight.is_contiguous() == is_deep
        assert weight.is_contiguous(memory_format=torch.channels_last) != is_deep
        assert inputs.is_contiguous() or not is_deep


def is_exact():
    """Return whether GPUs would compute convolutions in exact float32."""
    try:
        return not torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return torch.backends.cudnn.conv.fp32_precision == "ieee"


@pytest.mark.parametrize("by", ["the older switch", "their own switch"])
def test_convolutions_are_exact_meanwhile(by):
    cudnn = torch.backends.cudnn
    if by == "their own switch" and not hasattr(cudnn, "conv"):
        pytest.skip("this version of torch has no such switch")
    before = cudnn.allow_tf32
    try:
        for setting in (True, False):
            if by == "the older switch":
                cudnn.allow_tf32 = setting
            else:
                cudnn.conv.fp32_precision = "tf32" if setting else "ieee"
            with exact_convolutions():
                assert is_exact()
            assert is_exact() != setting
    finally:
        cudnn.allow_tf32 = before


def test_folds_where_a_gpu_would_compute_in_tf32():
    network, images = network_of("torchvision.models.resnet18"), make_images(size=32)
    compute, expected = F.conv2d, exact(network, images)

    def rounded(values):
        return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

    def as_on_a_gpu(values, weight, *rest):
        return compute(values, weight, *rest) if is_exact() else compute(rounded(values), rounded(weight), *rest)

    with mock.patch.object(F, "conv2d", as_on_a_gpu), torch.no_grad():
        with frozen(network, images, precision="tf32") as view:
            assert num_batch_norms(view, images) == 0
            assert_close([view(images)], expected[:1], 0.01)
            with pytest.raises(AssertionError):
                assert_close([view(images)], expected[:1], 1e-4)
        with frozen(network, images) as view:
            assert num_batch_norms(view, images) == 0
            assert_close([view(images)], expected[:1], 1e-4)


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


def test_nothing_keeps_the_symbols_by_which_the_computation_is_followed():
    seen = []
    network = basic(lambda m, x: m.tail(setattr(m, "kept", m.conv(x)) or m.kept))  # nothing to fold
    network.tail.register_forward_hook(lambda _, arguments, output: seen.append(output))
    with frozen(network, make_images()):
        assert {type(value) for value in (network.kept, *seen)} == {torch.Tensor}


def state_of(network):
    """Return all that has to be as before: who is where, flags, bits, layouts, gradients, hooks and attributes."""
    tensors = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    return (
        [(name, id(module), module.training) for name, module in network.named_modules(remove_duplicate=False)],
        [(name, id(tensor), tensor.requires_grad, id(tensor.grad), tensor.stride()) for name, tensor in tensors],
        [tensor.detach().double().numpy().tobytes() for _, tensor in tensors],  # bfloat16 is part of float64
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
            with torch.inference_mode(False), torch.enable_grad():
                assert_close(evaluate(view, images), expected)


def test_a_network_that_has_learnt_or_lost_something_since():
    network, images = small_network(), make_images()
    check(network, images, left=0)
    optimizer = torch.optim.SGD(network.train().parameters(), lr=0.1)
    network(images).square().sum().backward()  # moves statistics as well
    optimizer.step()
    check(network.eval(), images, left=0)
    check(nn.SyncBatchNorm.convert_sync_batchnorm(network), images, left=0)
    network[1] = nn.Identity()
    check(network, images, left=0)
    network[1] = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8))
    check(far_from_defaults(network).eval(), images, left=1)


def test_networks_are_not_kept_alive():
    network = small_network()
    check(network)
    reference = weakref.ref(network)
    del network
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize(
    "backbone",
    [pytest.param("torchvision.models.resnet18", marks=pytest.mark.slow), "catwalk.networks.compact_cnn"],
)
def test_rows_have_the_same_bits_in_every_padded_batch(backbone, precision):
    network, images = network_of(backbone), make_images(48, 64)
    with frozen(network, images, precision=precision) as view:
        whole = evaluate(view, images)
        for rows in (slice(16), slice(32), slice(16, 48), slice(32, 48)):
            part = evaluate(view, images[rows])
            assert all(torch.equal(one, other[rows]) for one, other in zip(part, whole, strict=True))


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_compiled(precision):
    torch.manual_seed(0)
    network, images = (
        far_from_defaults(build_network("catwalk.networks.compact_cnn", {"width": 4}, 5)),
        make_images(),
    )
    with frozen(network, images, precision=precision) as view:
        expected = evaluate(view, images), evaluate(view.features, images)
    with frozen(network, images, precision=precision, compiled=True) as view:
        for one, other in zip((evaluate(view, images), evaluate(view.features, images)), expected, strict=True):
            assert_close(one, other, 2e-5 if precision == "32" else 0.05)
