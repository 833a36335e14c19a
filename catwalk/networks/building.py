"""Networks built from any function or class that returns a classifier."""

import urllib.error
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from catwalk.configuration.import_object import import_object
from catwalk.errors import CatwalkError
from catwalk.networks.network import IMAGENET_MEAN, IMAGENET_STD, Network
from catwalk.networks.pretrained_weights import TOLERANCE, PretrainedWeights, check_file, read_weights

LOADING = ("weights", "weights_backbone", "pretrained", "checkpoint_path")
"""Arguments by which the makers of torchvision and timm load pretrained weights."""


NETWORK_LIBRARIES = {"huggingface_hub", "httpx", "httpx2", "requests", "urllib3"}
"""Whose exceptions mean that something could not be fetched."""


def build_network(
    backbone: str,
    backbone_args: Mapping[str, Any] | None,
    num_classes: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    *,
    weights: str | Path | None = None,
    category_names: Sequence[str] | None = None,
    keep_head: bool = False,
) -> Network:
    """Build a network from any function or class that returns a classifier.

    The classification layer is the backbone's last ``nn.Linear``; what it reads are the features (the global average
    pool in ResNet, EfficientNet and their like). It is replaced by a new one if it has another number of outputs, and
    where weights were loaded in any case, unless they are known to be of these very categories.

    Args:
        backbone: Import path, such as ``torchvision.models.resnet50`` or ``timm.create_model``.
        backbone_args: Its keyword arguments.
        num_classes: Number of categories, C.
        mean: Mean per colour channel of the images that the backbone expects.
        std: Standard deviation per colour channel.
        weights: File with weights of the backbone, see :mod:`catwalk.networks.pretrained_weights`.
        category_names: Names of the categories: a checkpoint of ``catwalk fit`` keeps its classification layer if it
            was trained on the same.
        keep_head: Whether the categories are those on which the weights were trained, whoever trained them.

    Raises:
        CatwalkError: If the path cannot be imported, the arguments do not fit, there is no linear layer, or the weights
            cannot be had or do not fit.

    Example:
        >>> import torch
        >>> from catwalk.networks.building import build_network
        >>> network = build_network("catwalk.networks.compact_cnn", {"width": 8}, num_classes=6)
        >>> images = torch.rand(2, 3, 32, 32)
        >>> network(images).shape, network.features(images).shape
        (torch.Size([2, 6]), torch.Size([2, 64]))
    """
    check_initial_weights(weights, backbone_args)
    body = _make_backbone(backbone, backbone_args)
    linear = [name for name, module in body.named_modules() if name and isinstance(module, nn.Linear)]
    if not linear:
        raise CatwalkError(f"backbone {backbone} has no nn.Linear, so its classification layer cannot be found")
    head_name = linear[-1]
    is_trained = weights is not None or loads_weights(backbone_args)
    if is_trained:
        _check_timm_normalisation(body, backbone, mean, std, weights)
    is_of_these = keep_head
    if weights is not None:
        file = read_weights(weights)
        _load_weights(body, file, head_name, backbone, mean, std)
        if file.category_names is not None and category_names is not None:
            is_of_these = file.category_names == tuple(category_names)
            if keep_head and not is_of_these:
                raise CatwalkError(
                    f"weights: the network in {weights} tells {', '.join(file.category_names[:5])}, …, and not the "
                    f"{num_classes} categories {', '.join(category_names[:3])}, …; give one that does"
                )
    head = _replace(body, head_name, nn.Identity())
    if keep_head and head.out_features != num_classes:
        raise CatwalkError(
            f"backbone {backbone} has {head.out_features} outputs{f' in {weights}' if weights else ''}, and the "
            f"categories are {num_classes}, {category_names[0] if category_names else ''}, …: give one of these"
        )
    if head.out_features != num_classes or (is_trained and not is_of_these):
        head = nn.Linear(head.in_features, num_classes)
    network = Network(body, head, mean, std, head_name)
    network.is_head_new = is_trained and not is_of_these
    # Convolutions are faster in this layout, on CPUs and GPUs alike.
    return network.to(memory_format=torch.channels_last)


def check_initial_weights(weights: str | Path | None, backbone_args: Mapping[str, Any] | None) -> None:
    """Raise a CatwalkError if initial weights are given twice, or their file is missing."""
    if weights is None:
        return
    if loads_weights(backbone_args):
        loading = {name: (backbone_args or {})[name] for name in LOADING if (backbone_args or {}).get(name)}
        raise CatwalkError(
            f"weights: {weights} would replace what backbone_args {loading} loads; give one of them "
            "(backbone_args: null leaves the other out)"
        )
    check_file(weights)


def loads_weights(backbone_args: Mapping[str, Any] | None) -> bool:
    """Return whether a backbone's arguments make it load pretrained weights."""
    return any((backbone_args or {}).get(name) for name in LOADING)


def _make_backbone(backbone: str, backbone_args: Mapping[str, Any] | None) -> nn.Module:
    """Call the function or class."""
    make, arguments = import_object(backbone, "backbone"), dict(backbone_args or {})
    try:
        body = make(**arguments)
    except Exception as error:
        if isinstance(error, urllib.error.URLError) or type(error).__module__.split(".")[0] in NETWORK_LIBRARIES:
            raise CatwalkError(_not_downloaded(make, backbone, arguments, error)) from error
        if isinstance(error, TypeError | ValueError | RuntimeError | OSError | LookupError):
            raise CatwalkError(f"backbone {backbone} refused its arguments {arguments}: {error}") from error
        raise
    if not isinstance(body, nn.Module):
        raise CatwalkError(f"backbone {backbone} returns a {type(body).__name__}, not a network (torch.nn.Module)")
    return body


def _not_downloaded(make: Callable, backbone: str, arguments: Mapping[str, Any], error: Exception) -> str:
    """Return the message for weights that could not be downloaded: where they are, and where they could be put."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    message = f"the pretrained weights of backbone {backbone} {dict(arguments)} could not be downloaded ({reason})"
    url = _url(make, arguments)
    elsewhere = f"download {url or 'them'} elsewhere and give the file as weights instead of those arguments"
    if url is None or url.startswith("https://huggingface.co"):
        return f"{message}; {elsewhere}"
    cached = Path(torch.hub.get_dir(), "checkpoints")
    return f"{message}; {elsewhere}, or put it into {cached}, keeping its name"


def _url(make: Callable, arguments: Mapping[str, Any]) -> str | None:
    """Return where torchvision or timm look for pretrained weights, if they can be asked."""
    try:
        if make.__module__.startswith("torchvision."):
            from torchvision.models import get_model_weights, get_weight

            wanted = str(arguments["weights"])
            return (get_weight(wanted) if "." in wanted else get_model_weights(make)[wanted]).url
        if make.__module__.startswith("timm."):
            import timm

            settings = timm.get_pretrained_cfg(arguments["model_name"])
            if settings is not None and settings.hf_hub_id:
                return f"https://huggingface.co/{settings.hf_hub_id}/resolve/main/model.safetensors"
            return settings.url or None if settings is not None and isinstance(settings.url, str) else None
    except (ImportError, LookupError, ValueError, AttributeError):
        pass  # the message can do without
    return None


def _load_weights(
    body: nn.Module, file: PretrainedWeights, head_name: str, backbone: str, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Load weights from a file into a backbone, whose classification layer takes the number of classes of the file."""
    tensors = file.of_backbone(body.state_dict(), head_name, backbone)
    file.check_normalisation(mean, std)
    head = body.get_submodule(head_name)
    assert isinstance(head, nn.Linear)
    outputs = len(tensors[f"{head_name}.weight"])
    if outputs != head.out_features:
        _replace(body, head_name, nn.Linear(head.in_features, outputs, bias=head.bias is not None))
    body.load_state_dict(tensors)


def _replace(body: nn.Module, name: str, module: nn.Module) -> Any:
    """Put a module in the place of another and return that."""
    parent_name, _, own_name = name.rpartition(".")
    parent = body.get_submodule(parent_name)
    replaced = getattr(parent, own_name)
    setattr(parent, own_name, module)
    return replaced


def _check_timm_normalisation(
    body: nn.Module, backbone: str, mean: Sequence[float], std: Sequence[float], weights: str | Path | None
) -> None:
    """Compare the normalisation with that which timm knows of its own pretrained networks: they are not all ImageNet's.

    Raises:
        CatwalkError: If it is another and timm loaded the weights; those of a file may be others, which is a warning.
    """
    settings = getattr(body, "pretrained_cfg", None)
    if not isinstance(settings, Mapping) or not {"mean", "std"} <= set(settings):
        return
    theirs, ours = [*settings["mean"], *settings["std"]], [*mean, *std]
    if len(theirs) != len(ours) or all(abs(a - b) <= TOLERANCE for a, b in zip(theirs, ours, strict=True)):
        return
    what = f"mean: {list(settings['mean'])} and std: {list(settings['std'])}"
    if weights is None:
        raise CatwalkError(f"mean and std: timm's weights of {backbone} were trained with others; set {what}")
    warnings.warn(
        f"timm's own weights of this backbone were trained with {what}; if those in {weights} are the same, set mean "
        "and std so",
        stacklevel=2,
    )


def without_initial_weights(backbone_args: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a backbone's arguments less those by which torchvision and timm load pretrained weights."""
    return {name: value for name, value in (backbone_args or {}).items() if name not in LOADING}
