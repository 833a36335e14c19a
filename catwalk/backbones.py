"""Networks that classify product images and give their features."""

import hashlib
import importlib
import urllib.error
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from catwalk.errors import CatwalkError
from catwalk.known_backbones import check_backbone
from catwalk.pretrained_weights import TOLERANCE, PretrainedWeights, check_file, read_weights, verify_checksums

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LOADING = ("weights", "weights_backbone", "pretrained", "checkpoint_path")
"""Arguments by which the makers of torchvision and timm load pretrained weights."""

NETWORK_LIBRARIES = {"huggingface_hub", "httpx", "httpx2", "requests", "urllib3"}
"""Whose exceptions mean that something could not be fetched."""


class Network(nn.Module):
    """A CNN that takes images in [0, 1], normalises them itself, and gives away its features.

    Args:
        body: Maps normalised images ``(N, 3, H, W)`` to features ``(N, D)``.
        head: The classification layer, ``(N, D)`` to logits ``(N, C)``.
        mean: Mean per colour channel, subtracted first.
        std: Standard deviation per colour channel, divided by then.
        head_name: Where in the body the classification layer has been taken from, such as ``fc``.

    Attributes:
        is_head_new: Whether :func:`build_network` put a new classification layer on top of trained weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, body: nn.Module, head: nn.Module, mean: Sequence[float], std: Sequence[float], head_name: str = ""
    ) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.head_name = head_name
        self.is_head_new = False
        self._frozen: tuple[str, ...] = ()
        # Constants of the configuration, not weights: a checkpoint need not hold them.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """Return features ``(N, D)`` of images ``(N, 3, H, W)`` in [0, 1]: what the classification layer reads."""
        features = self.body((images - self.mean) / self.std)
        # Asked like this, for what follows a computation gives symbols instead of tensors.
        if isinstance(features, tuple | list | Mapping):
            raise CatwalkError(
                f"backbone: returns a {type(features).__name__} of {len(features)}, as networks with several heads do, "
                "and one tensor of features (N, D) is needed; let it return that alone, as torchvision's inception_v3 "
                "and googlenet do with backbone_args: {aux_logits: false}"
            )
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, C)`` of images ``(N, 3, H, W)`` in [0, 1]."""
        return self.head(self.features(images))

    def freeze_up_to(self, name: str) -> None:
        """Let a module and everything that is registered before it stay as it is, in training too.

        Their parameters take no gradients, and they stay in eval mode, so that BatchNorm's statistics do not move and
        nothing is dropped. What surrounds the module keeps its mode, but its own parameters, such as a transformer's
        class token, count as registered before.

        Args:
            name: In the backbone's own naming, such as ``layer3``.

        Raises:
            CatwalkError: If there is no such module, or nothing would be left to train.
        """
        modules = [module for module, _ in self.body.named_modules() if module]
        if name not in modules:
            children = ", ".join(module for module, _ in self.body.named_children())
            raise CatwalkError(
                f"freeze_up_to: the backbone has no module {name!r}; it has {children}, and modules inside of them"
            )
        last = max(place for place, module in enumerate(modules) if f"{module}.".startswith(f"{name}."))
        before = modules[: last + 1]
        if self.head_name in before:
            raise CatwalkError(
                f"freeze_up_to: {name!r} leaves nothing to train: the classification layer, {self.head_name}, is in it "
                "or before it; name a module before that"
            )
        for module in ("", *before):
            for parameter in self.body.get_submodule(module).parameters(recurse=False):
                parameter.requires_grad_(False)
        self._frozen = tuple(module for module in before if not name.startswith(f"{module}."))
        self.train(self.training)

    def train(self, mode: bool = True) -> "Network":
        """Set the mode of everything that is not frozen."""
        super().train(mode)
        # By name: Lightning may have put other modules in their places, for BatchNorm over several processes.
        for name in self._frozen:
            self.body.get_submodule(name).eval()
        return self


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
        weights: File with weights of the backbone, see :mod:`catwalk.pretrained_weights`.
        category_names: Names of the categories: a checkpoint of ``catwalk fit`` keeps its classification layer if it
            was trained on the same.
        keep_head: Whether the categories are those on which the weights were trained, whoever trained them.

    Raises:
        CatwalkError: If the path cannot be imported, the arguments do not fit, there is no linear layer, or the weights
            cannot be had or do not fit.
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


def import_object(path: str, argument: str) -> Any:
    """Import ``package.module.name``, or raise a CatwalkError that names ``argument``."""
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise CatwalkError(f"{argument}: give an import path, such as torchvision.models.resnet50, got {path!r}")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CatwalkError(f"{argument}: {path!r} cannot be imported: {error}") from error


def compact_cnn(width: int = 16, num_classes: int = 10) -> nn.Sequential:
    """Return a small convolutional network for small images, quick on a CPU.

    Four 3×3 convolutions with batch normalisation, two of which halve the resolution, then the global average pool.

    Args:
        width: Channels of the first layer; the last has eight times as many, which is the number of features.
        num_classes: Number of outputs.
    """

    def convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )

    return nn.Sequential(
        convolution(3, width, 1),
        convolution(width, 2 * width, 2),
        convolution(2 * width, 4 * width, 2),
        convolution(4 * width, 8 * width, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, num_classes),
    )


def network_fingerprint(network: Network) -> str:
    """Return the SHA-256 of a network's weights, statistics and normalisation, as hexadecimal digits."""
    digest = hashlib.sha256()
    tensors = {**network.state_dict(), "mean": network.mean, "std": network.std}
    for name, tensor in sorted(tensors.items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}\0".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Classifier:
    """A trained network with what is needed to feed and to read it.

    Attributes:
        network: In eval mode.
        category_names: What its C outputs stand for.
        image_size: ``(height, width)`` of the images that it was trained on; None if those were of their own size.
    """

    network: Network
    category_names: tuple[str, ...]
    image_size: tuple[int, int] | None


def load_classifier(
    path: str | Path, backbone: str | None = None, backbone_args: Mapping[str, Any] | None = None
) -> Classifier:
    """Load the network of a checkpoint that ``catwalk fit`` wrote for a product classifier.

    Nothing that the file says is imported but what Catwalk, torchvision and timm build by name
    (:mod:`catwalk.known_backbones`); anything else must be named by the caller as well.

    Args:
        path: The checkpoint.
        backbone: Import path of the checkpoint's backbone, where it is your own.
        backbone_args: The arguments that it was trained with, if there were any.

    Raises:
        CatwalkError: If the file is missing or is no such checkpoint, or its backbone is neither known nor named.
    """
    checkpoint = read_checkpoint(path)
    settings = NetworkSettings.of(checkpoint, path)
    if settings is None:
        raise CatwalkError(f"{path} is not a checkpoint of a product classifier")
    settings.check_backbone(path, backbone, backbone_args)
    network = build_network(
        settings.backbone, settings.backbone_args, len(settings.category_names), settings.mean, settings.std
    )
    prefix = "network."
    weights = {name.removeprefix(prefix): weight for name, weight in checkpoint["state_dict"].items()}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CatwalkError(f"{path} does not fit the network it describes: {error}") from error
    return Classifier(network.eval(), settings.category_names, settings.image_size)


@dataclass(frozen=True)
class NetworkSettings:
    """What the checkpoint of a product classifier says of its network besides the weights, as plain values.

    Attributes:
        backbone: Import path.
        backbone_args: Its keyword arguments, without those that load initial weights, which the trained ones replace.
        category_names: Names of the C categories.
        mean: Mean per colour channel.
        std: Standard deviation per colour channel.
        image_size: ``(height, width)`` of the images that it was trained on; None if those were of their own size.
    """

    backbone: str
    backbone_args: dict[str, Any]
    category_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int] | None

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any], path: str | Path) -> "NetworkSettings | None":
        """Take the settings from a checkpoint; None if it is not one of a product classifier.

        Raises:
            CatwalkError: If a setting is of another kind than ``catwalk fit`` writes.
        """
        saved, weights = checkpoint.get("hyper_parameters"), checkpoint.get("state_dict")
        names = [field.name for field in fields(cls)]
        if not isinstance(saved, Mapping) or not isinstance(weights, Mapping) or not set(names) <= set(saved):
            return None
        arguments, size = saved["backbone_args"], saved["image_size"]
        sound = {
            "backbone": isinstance(saved["backbone"], str),
            "backbone_args": arguments is None
            or (isinstance(arguments, Mapping) and all(isinstance(name, str) for name in arguments)),
            "category_names": _is_list_of(saved["category_names"], str) and len(saved["category_names"]) > 0,
            "mean": _is_list_of(saved["mean"], int | float) and len(saved["mean"]) == 3,
            "std": _is_list_of(saved["std"], int | float) and len(saved["std"]) == 3,
            "image_size": size is None or (_is_list_of(size, int) and len(size) == 2 and min(size) >= 1),
        }
        for name in names:
            if not sound[name]:
                raise CatwalkError(f"{path} is damaged: its {name} cannot be {saved[name]!r}")
        return cls(
            backbone=saved["backbone"],
            backbone_args=without_initial_weights(arguments),
            category_names=tuple(saved["category_names"]),
            mean=tuple(saved["mean"]),
            std=tuple(saved["std"]),
            image_size=None if size is None else (size[0], size[1]),
        )

    def check_backbone(
        self,
        path: str | Path,
        named: str | None,
        named_args: Mapping[str, Any] | None = None,
        argument: str = "backbone",
    ) -> None:
        """Refuse a backbone that is neither known nor named: :func:`~catwalk.known_backbones.check_backbone`."""
        trained_args = None if named_args is None else without_initial_weights(named_args)
        check_backbone(str(path), self.backbone, self.backbone_args, named, trained_args, argument)


def _is_list_of(value: Any, kind: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(entry, kind) for entry in value)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's tensors and plain values; code in it is refused.

    Raises:
        CatwalkError: If the file is missing, unreadable or damaged, by the checksums in it.
    """
    if not Path(path).is_file():
        raise CatwalkError(f"checkpoint {path} does not exist")
    try:
        verify_checksums(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if reason.startswith("Weights only load failed"):  # and goes on with advice to run the code in it
            reason = "it is none, is damaged, or holds code, which is never run"
        raise CatwalkError(f"checkpoint {path} cannot be read: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise CatwalkError(f"checkpoint {path} holds no dictionary")
    return checkpoint


def without_initial_weights(backbone_args: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a backbone's arguments less those by which torchvision and timm load pretrained weights."""
    return {name: value for name, value in (backbone_args or {}).items() if name not in LOADING}
