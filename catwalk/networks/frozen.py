"""A network in the form in which it is quickest to attack, for as long as an attack runs."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import accumulate, chain
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from catwalk.keyed_random import uniform
from catwalk.networks.subpixel_gradient import SubpixelConvolution, subpixel_kernel

Precision = Literal["32", "tf32", "bf16"]

_FOLDING_TOLERANCE = 1e-4
"""By how much folding may move a logit, as a share of the largest: float32 moves it by a hundredth of that."""

_FEW_POSITIONS, _MANY_CHANNELS = 16, 128
"""On CPUs in float32, a convolution over neighbouring pixels with so many channels or more and a feature map of so few
positions or fewer is quicker in the contiguous layout: by a third, for the deep layers of ResNet-18 on images of 64
pixels. All others are quicker in channels_last."""

_FEW_CHANNELS = 4
"""On CPUs in float32, the gradient of a strided convolution with so few input channels or fewer is quicker to have by
another convolution: for the first layer of ResNets two and a half times."""

GPU_LAYOUTS: dict[Precision, torch.memory_format] = dict.fromkeys(get_args(Precision), torch.channels_last)
"""Layout of the convolutions' weights on GPUs, for each precision. Tensor cores want channels_last; exact float32 does
without them, and ``benchmarks/linf_attacks.py --variants`` measures it in both."""

_GIVEN_EXAMPLES, _RANDOM_EXAMPLES = 4, 2
"""How many images a network with folded BatchNorms is compared on: some to come, from first to last, and noise. On a
single one whole layers may be silent, as on a white image."""

_OF_TIMM = ("drop", "act")
"""What timm's ``BatchNormAct2d`` does after it has normalised."""

_folded_pairs: "WeakKeyDictionary[nn.Module, list[tuple[str, str]]]" = WeakKeyDictionary()
"""What :func:`_batch_norms_after_convolutions` found in each network: following the computation takes a while."""


class FrozenNetwork(nn.Module):
    """The view of a network that :func:`frozen` gives.

    Args:
        network: Takes images in [0, 1], returns logits ``(N, C)``.
        precision: As in :func:`frozen`.
        scale: What to multiply images by first, ``(1, 3, 1, 1)``; None leaves them.
        compiled: Whether to compile the network.
    """

    def __init__(self, network: nn.Module, precision: Precision, scale: Tensor | None, compiled: bool) -> None:
        super().__init__()
        self._network = network
        self._precision = precision
        self._scale = scale
        self._is_compiled = compiled
        self._functions: dict[str, Callable[[Tensor], Tensor]] = {}
        self.training = False  # as the network is: an attack of others may ask, and set it to that again

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, C)``, float32 unless the images are float64, of float32 images ``(N, 3, H, W)``."""
        return self._call("logits", self._network, images)

    def features(self, images: Tensor) -> Tensor:
        """Return float32 features ``(N, D)`` of float32 images ``(N, 3, H, W)``, of a network that has them."""
        return self._call("features", self._network.features, images)  # type: ignore[arg-type]

    def _call(self, name: str, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        if self._scale is not None:
            images = images * self._scale
        if self._is_compiled:
            if name not in self._functions:
                self._functions[name] = _compiled(function)
            function = self._functions[name]
            # CUDA graphs write into the same memory every time; what is kept of them, gradients too, must be elsewhere.
            images = images * 1.0
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._precision == "bf16", cache_enabled=False):
            outcome = function(images)
        return outcome.to(torch.promote_types(outcome.dtype, torch.float32), copy=self._is_compiled)


@contextmanager
def frozen(
    network: nn.Module,
    images: Tensor,
    *,
    precision: Precision = "32",
    scale: Tensor | None = None,
    compiled: bool = False,
) -> Iterator[FrozenNetwork]:
    """Put a network into eval mode and its quickest form, and everything back afterwards.

    While the context lasts, every BatchNorm that directly follows a convolution is part of it (``W·γ/√(σ² + ε)``), the
    convolutions' weights are laid out for speed, channels_last but for deep layers with small feature maps on CPUs, the
    gradient of a strided first layer comes from :mod:`catwalk.networks.subpixel_gradient` on CPUs, and no parameter
    of a convolution asks for a gradient. A network that cannot be followed, or whose logits would change by more than
    rounding on one of several images, keeps its BatchNorms. Nothing is copied but the weights of convolutions and
    linear layers, so that hooks and wrappers stay in force. Not for several threads on one network.

    Args:
        network: Takes images in [0, 1], returns logits.
        images: float32 ``(N, 3, H, W)``, some images of the size to come, one at least.
        precision: ``"32"`` computes in exact float32, on GPUs as well; ``"tf32"`` lets GPUs round what convolutions
            take to 10 bits, as they do by default, and is ``"32"`` on CPUs; ``"bf16"`` lets the network compute in
            bfloat16 inside (autocast). Images and logits stay float32.
        scale: What images are multiplied by first, ``(1, 3, 1, 1)``; None leaves them as they are.
        compiled: Whether to compile it (:func:`torch.compile`), with CUDA graphs on a GPU. Takes up to a minute.

    Yields:
        The network in its new form.
    """
    with ExitStack() as undo:
        undo.enter_context(eval_mode(network))
        # For all that is done inside: gradients would be computed under an autocast around it, as the logits are not.
        undo.enter_context(torch.autocast(images.device.type, enabled=False))
        if precision == "32":
            undo.enter_context(exact_convolutions())
        # No inference mode: what is made in it could not take part in gradients later.
        with torch.inference_mode(False), torch.no_grad():
            examples = [image if scale is None else image * scale for image in _examples(images)]
            example = examples[0]
            with exact_convolutions():
                with _watch(network) as outputs:
                    before = [network(example)]
                before += [network(image) for image in examples[1:]]
                with ExitStack() as unfold:
                    if _fold(network, unfold) and all(map(_agree, before, map(network, examples))):
                        undo.enter_context(unfold.pop_all())
            if precision == "bf16":
                with _watch(network) as outputs, torch.autocast(images.device.type, torch.bfloat16):
                    network(example)
            for layer, results in outputs.items():
                # Not what the network keeps out of autocast.
                if precision == "bf16" and all(dtype == torch.bfloat16 for _, dtype in results):
                    _cast(layer, undo)
                if isinstance(layer, nn.Conv2d):
                    _lay_out(layer, math.prod(results[-1][0][-2:]), precision, undo)
                    if precision != "bf16" and not compiled:
                        _quicken_gradient(layer, undo)
        yield FrozenNetwork(network, precision, scale, compiled)


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put every module into eval mode and give each its own flag back afterwards.

    Sets the flags themselves: ``train()`` and ``eval()`` reach all submodules alike, and may be overridden.
    """
    flags = [(module, module.training) for module in network.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Keep GPUs from computing convolutions in TF32, as they do by default: it moves logits by more than rounding."""
    switch: Any = torch.backends.cudnn
    name: str = "allow_tf32"
    exact: Any = False
    try:
        before: Any = switch.allow_tf32
    except RuntimeError:
        # Since torch 2.9 convolutions have a switch of their own, and the older one, which the compiler reads, refuses
        # to answer where that was used.
        switch = switch.conv
        name, exact = "fp32_precision", "ieee"
        before = switch.fp32_precision
    setattr(switch, name, exact)
    try:
        yield
    finally:
        setattr(switch, name, before)


@contextmanager
def _watch(network: nn.Module) -> Iterator[dict[nn.Conv2d | nn.Linear, list[tuple[torch.Size, torch.dtype]]]]:
    """Note of which shape and dtype is what convolutions and linear layers give, every time that they are called."""
    outputs: dict[nn.Conv2d | nn.Linear, list[tuple[torch.Size, torch.dtype]]] = {}

    def note(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.setdefault(module, []).append((output.shape, output.dtype))  # type: ignore[arg-type]

    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                stack.callback(module.register_forward_hook(note).remove)
        yield outputs


def _lay_out(convolution: nn.Conv2d, positions: int, precision: Precision, undo: ExitStack) -> None:
    """Bring a convolution's weight into the layout in which it is quickest."""
    weight = convolution._parameters.get("weight")
    if weight is None or weight.ndim != 4:  # it is computed from others
        return
    if weight.device.type == "cuda":
        _swap(convolution._parameters, "weight", weight.detach().contiguous(memory_format=GPU_LAYOUTS[precision]), undo)
        return
    is_contiguous = (
        precision != "bf16"
        and weight.device.type == "cpu"
        and convolution.groups == 1
        and max(convolution.kernel_size) > 1
        and min(weight.shape[:2]) >= _MANY_CHANNELS
        and positions <= _FEW_POSITIONS
    )
    layout = torch.contiguous_format if is_contiguous else torch.channels_last
    _swap(convolution._parameters, "weight", weight.detach().contiguous(memory_format=layout), undo)
    if is_contiguous:
        undo.callback(convolution.register_forward_pre_hook(_make_contiguous).remove)


def _quicken_gradient(convolution: nn.Conv2d, undo: ExitStack) -> None:
    """Let a layer that looks at images compute its gradient in another way, if it is a plain strided convolution."""
    weight = convolution._parameters.get("weight")
    kind = type(convolution)
    if (
        weight is not None
        and weight.ndim == 4
        and weight.device.type == "cpu"
        and weight.shape[1] <= _FEW_CHANNELS
        and min(convolution.stride) > 1
        and convolution.groups == 1
        and set(convolution.dilation) == {1}
        and isinstance(convolution.padding, tuple)
        and convolution.padding_mode == "zeros"
        and (kind.forward, kind._conv_forward) == (nn.Conv2d.forward, nn.Conv2d._conv_forward)
        and not {"forward", "_conv_forward"} & set(vars(convolution))
    ):
        kernel = subpixel_kernel(weight, convolution.stride)  # type: ignore[arg-type]
        vars(convolution)["forward"] = partial(_convolve, convolution, kernel)
        undo.callback(vars(convolution).pop, "forward")


def _convolve(convolution: nn.Conv2d, kernel: Tensor, input: Tensor) -> Tensor:
    if input.ndim == 4 and input.requires_grad:
        return SubpixelConvolution.apply(input, convolution, kernel)
    return nn.Conv2d.forward(convolution, input)


def _make_contiguous(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.contiguous() if isinstance(value, Tensor) else value for value in arguments)


def _cast(module: nn.Conv2d | nn.Linear, undo: ExitStack) -> None:
    """Let a layer hold its weights in bfloat16, into which they would otherwise be cast at every call."""
    for name in ("weight", "bias"):
        tensor = module._parameters.get(name)
        if tensor is not None and tensor.is_floating_point():
            _swap(module._parameters, name, tensor.detach().to(torch.bfloat16), undo)


def _fold(network: nn.Module, undo: ExitStack) -> bool:
    """Make BatchNorms part of the convolutions before them; return whether there were any."""
    pairs = _folded_pairs.get(network)
    if pairs is None:
        # A network that keeps what it computes would keep symbols.
        states = [(module, module.__dict__.copy()) for module in network.modules()]
        try:
            pairs = _folded_pairs[network] = _batch_norms_after_convolutions(network)
        finally:
            for module, state in states:
                module.__dict__.clear()
                module.__dict__.update(state)
    modules = dict(network.named_modules())
    places = Counter(chain.from_iterable(module._modules.values() for module in modules.values()))
    has_folded = False
    for convolution_name, norm_name in pairs:
        convolution, norm = modules.get(convolution_name), modules.get(norm_name)
        # What was found may have been replaced since. What is in two places may be called from both.
        if (
            not isinstance(convolution, nn.Conv2d)
            or not _is_foldable(convolution, norm)
            or places[convolution] > 1
            or places[norm] > 1
            or any(_is_watched(modules[name]) for name in _between(convolution_name, norm_name))
        ):
            continue
        assert isinstance(norm, _BatchNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            factor = factor * norm.weight.double()
        offset = -norm.running_mean.double() * factor
        if norm.bias is not None:
            offset = offset + norm.bias.double()
        if convolution.bias is not None:
            offset = offset + convolution.bias.double() * factor
        weight = convolution.weight.detach()
        _swap(convolution._parameters, "weight", (weight * factor[:, None, None, None]).to(weight.dtype), undo)
        _swap(convolution._parameters, "bias", offset.to(weight.dtype), undo)
        parent, _, name = norm_name.rpartition(".")
        rest: nn.Module = nn.Identity() if _is_plain(norm) else nn.Sequential(*map(norm.get_submodule, _OF_TIMM))
        _swap(modules[parent]._modules, name, rest.eval(), undo)
        has_folded = True
    return has_folded


def _is_plain(norm: nn.Module) -> bool:
    return type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm)


def _is_foldable(convolution: nn.Conv2d, norm: nn.Module | None) -> bool:
    """Return whether a normalisation is by fixed statistics, and the convolution before it has what it can go into."""
    weight = convolution._parameters.get("weight")
    is_known = norm is not None and (
        _is_plain(norm) or all(isinstance(getattr(norm, part, None), nn.Module) for part in _OF_TIMM)
    )
    return (
        is_known
        and isinstance(norm, _BatchNorm)
        and norm.running_mean is not None
        and norm.running_var is not None
        and weight is not None
        and weight.ndim == 4
        and len(weight) == len(norm.running_mean)  # not where a subclass makes something else of what it has convolved
        and "bias" in convolution._parameters
    )


def _between(convolution: str, norm: str) -> set[str]:
    """Return the names of the modules, these two too, that see what goes from a convolution to a BatchNorm."""
    above = [set(accumulate(name.split("."), "{}.{}".format)) for name in (convolution, norm)]
    return above[0] ^ above[1]


def _is_watched(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


class _Tracer(fx.Tracer):
    """Follows a computation down to convolutions and BatchNorms of any class."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | _BatchNorm) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Leave hooks out, which are not for symbols."""
        return super().call_module(m, m.forward, args, kwargs)


def _batch_norms_after_convolutions(network: nn.Module, prefix: str = "") -> list[tuple[str, str]]:
    """Return the names of convolutions whose result goes into a BatchNorm and nowhere else, and of those BatchNorms.

    Where a computation cannot be followed, for it depends on values, its parts are tried one by one.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception:  # whatever the code of a network makes of symbols instead of tensors
        return [
            pair
            for name, child in network.named_children()
            for pair in _batch_norms_after_convolutions(child, f"{prefix}{name}.")
        ]
    modules = dict(network.named_modules(remove_duplicate=False))
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times: dict[nn.Module, int] = {}
    for node in calls:
        times[modules[str(node.target)]] = times.get(modules[str(node.target)], 0) + 1
    pairs = []
    for node in calls:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution, norm = modules[str(before.target)], modules[str(node.target)]
        if (
            isinstance(convolution, nn.Conv2d)
            and isinstance(norm, _BatchNorm)
            and times[convolution] == times[norm] == 1
        ):
            pairs.append((f"{prefix}{before.target}", f"{prefix}{node.target}"))
    return pairs


def _examples(images: Tensor) -> list[Tensor]:
    """Return images to compare a network on, ``(1, 3, H, W)`` each, for one at a time takes least memory."""
    count = min(len(images), _GIVEN_EXAMPLES)
    rows = torch.linspace(0, len(images) - 1, count).round().long().tolist()
    given = [images[[row]] for row in rows]
    keys = torch.arange(_RANDOM_EXAMPLES, device=images.device)
    noise = uniform(0, keys, tuple(images.shape[1:])).to(images)
    return given + [image[None] for image in noise]


def _agree(before: Tensor, after: Tensor) -> bool:
    """Return whether two results are the same but for rounding."""
    return bool((before - after).abs().max() <= _FOLDING_TOLERANCE * before.abs().max())


def _swap(mapping: MutableMapping[str, Any], name: str, value: Any, undo: ExitStack) -> None:
    """Put a value into a mapping until the stack unwinds."""
    undo.callback(mapping.__setitem__, name, mapping[name])
    mapping[name] = value


def _compiled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return torch.compile(function, mode="reduce-overhead" if torch.cuda.is_available() else "default")
