"""Networks that classify product images and give their features."""

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from catwalk.errors import CatwalkError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Network(nn.Module):
    """A CNN that takes images in [0, 1], normalises them itself, and gives away its features.

    Args:
        body: Maps normalised images ``(N, 3, H, W)`` to features ``(N, D)``.
        head: The classification layer, ``(N, D)`` to logits ``(N, C)``.
        mean: Mean per colour channel, subtracted first.
        std: Standard deviation per colour channel, divided by then.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, head: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        self.head = head
        # Constants of the configuration, not weights: a checkpoint need not hold them.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """Return features ``(N, D)`` of images ``(N, 3, H, W)`` in [0, 1]: what the classification layer reads."""
        return self.body((images - self.mean) / self.std)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, C)`` of images ``(N, 3, H, W)`` in [0, 1]."""
        return self.head(self.features(images))


def build_network(
    backbone: str,
    backbone_args: Mapping[str, Any] | None,
    num_classes: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Network:
    """Build a network from any function or class that returns a classifier.

    The classification layer is the backbone's last ``nn.Linear``; what it reads are the features (the global average
    pool in ResNet, EfficientNet and their like). It is replaced by a new one if it has another number of outputs.

    Args:
        backbone: Import path, such as ``torchvision.models.resnet50`` or ``timm.create_model``.
        backbone_args: Its keyword arguments.
        num_classes: Number of categories, C.
        mean: Mean per colour channel of the images that the backbone expects.
        std: Standard deviation per colour channel.

    Raises:
        CatwalkError: If the path cannot be imported, the arguments do not fit, or there is no linear layer.
    """
    make = import_object(backbone, "backbone")
    try:
        body = make(**(backbone_args or {}))
    except (TypeError, ValueError, RuntimeError, OSError, LookupError) as error:
        raise CatwalkError(f"backbone {backbone} refused its arguments {dict(backbone_args or {})}: {error}") from error
    if not isinstance(body, nn.Module):
        raise CatwalkError(f"backbone {backbone} returns a {type(body).__name__}, not a network (torch.nn.Module)")
    linear = [name for name, module in body.named_modules() if name and isinstance(module, nn.Linear)]
    if not linear:
        raise CatwalkError(f"backbone {backbone} has no nn.Linear, so its classification layer cannot be found")
    parent_name, _, name = linear[-1].rpartition(".")
    parent = body.get_submodule(parent_name)
    head = getattr(parent, name)
    setattr(parent, name, nn.Identity())
    if head.out_features != num_classes:
        head = nn.Linear(head.in_features, num_classes)
    # Convolutions are faster in this layout, on CPUs and GPUs alike.
    return Network(body, head, mean, std).to(memory_format=torch.channels_last)


def import_object(path: str, argument: str) -> Any:
    """Import ``package.module.name``, or raise a CatwalkError that names ``argument``."""
    module, _, name = path.rpartition(".")
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


def load_classifier(path: str | Path) -> Classifier:
    """Load the network of a checkpoint that ``catwalk fit`` wrote for a product classifier.

    Raises:
        CatwalkError: If the file is missing or is no such checkpoint.
    """
    checkpoint = read_checkpoint(path)
    settings = checkpoint.get("hyper_parameters", {})
    if "category_names" not in settings or "state_dict" not in checkpoint:
        raise CatwalkError(f"{path} is not a checkpoint of a product classifier")
    network = build_network(
        settings["backbone"],
        # Initial weights that the trained ones replace: reading or downloading them would be wasted.
        without_initial_weights(settings["backbone_args"]),
        len(settings["category_names"]),
        settings["mean"],
        settings["std"],
    )
    prefix = "network."
    weights = {name.removeprefix(prefix): weight for name, weight in checkpoint["state_dict"].items()}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CatwalkError(f"{path} does not fit the network it describes: {error}") from error
    size = settings["image_size"]
    return Classifier(network.eval(), tuple(settings["category_names"]), tuple(size) if size is not None else None)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's tensors and plain values; code in it is refused.

    Raises:
        CatwalkError: If the file is missing or unreadable.
    """
    if not Path(path).is_file():
        raise CatwalkError(f"checkpoint {path} does not exist")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CatwalkError(f"checkpoint {path} cannot be read: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise CatwalkError(f"checkpoint {path} holds no dictionary")
    return checkpoint


def without_initial_weights(backbone_args: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a backbone's arguments less those by which torchvision and timm load pretrained weights."""
    loading = {"weights", "weights_backbone", "pretrained", "checkpoint_path"}
    return {name: value for name, value in (backbone_args or {}).items() if name not in loading}
