"""Trained classifiers, loaded from checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from catwalk.errors import CatwalkError
from catwalk.files.checkpoints import read_checkpoint
from catwalk.moved import todays_name
from catwalk.networks.building import build_network, without_initial_weights
from catwalk.networks.known_backbones import check_backbone
from catwalk.networks.network import Network
from catwalk.processing.known import build_operations, complete
from catwalk.processing.operation import Operation, Specification


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
    path: str | Path,
    backbone: str | None = None,
    backbone_args: Mapping[str, Any] | None = None,
    operations: Sequence[Operation | Specification] | None = None,
) -> Classifier:
    """Load the network of a checkpoint that ``catwalk fit`` wrote for a product classifier.

    Nothing that the file says is imported but what Catwalk, torchvision and timm build by name
    (:mod:`catwalk.networks.known_backbones`); anything else must be named by the caller as well.

    Args:
        path: The checkpoint.
        backbone: Import path of the checkpoint's backbone, where it is your own.
        backbone_args: The arguments that it was trained with, if there were any.
        operations: The input operations of the checkpoint that are your own, if there are any.

    Raises:
        CatwalkError: If the file is missing or is no such checkpoint, or its backbone or an input operation is neither
            known nor named.
    """
    checkpoint = read_checkpoint(path)
    settings = NetworkSettings.of(checkpoint, path)
    if settings is None:
        raise CatwalkError(f"{path} is not a checkpoint of a product classifier")
    settings.check_backbone(path, backbone, backbone_args)
    network = build_network(
        settings.backbone, settings.backbone_args, len(settings.category_names), settings.mean, settings.std
    )
    network = network.behind(build_operations(settings.input_operations, str(path), operations))
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
        input_operations: What happens to images first, see :class:`~catwalk.processing.Operation`; none in checkpoints
            of versions before 0.3.
    """

    backbone: str
    backbone_args: dict[str, Any]
    category_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int] | None
    input_operations: tuple[Specification, ...] = ()

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any], path: str | Path) -> "NetworkSettings | None":
        """Take the settings from a checkpoint; None if it is not one of a product classifier.

        Raises:
            CatwalkError: If a setting is of another kind than ``catwalk fit`` writes.
        """
        saved, weights = checkpoint.get("hyper_parameters"), checkpoint.get("state_dict")
        names = [field.name for field in fields(cls) if field.name != "input_operations"]
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
            "input_operations": _is_list_of(saved.get("input_operations") or [], Mapping),
        }
        for name in sound:
            if not sound[name]:
                raise CatwalkError(f"{path} is damaged: its {name} cannot be {saved[name]!r}")
        return cls(
            backbone=todays_name(saved["backbone"]),
            backbone_args=without_initial_weights(arguments),
            category_names=tuple(saved["category_names"]),
            mean=tuple(saved["mean"]),
            std=tuple(saved["std"]),
            image_size=None if size is None else (size[0], size[1]),
            input_operations=tuple(complete(each) for each in saved.get("input_operations") or []),
        )

    def check_backbone(
        self,
        path: str | Path,
        named: str | None,
        named_args: Mapping[str, Any] | None = None,
        argument: str = "backbone",
    ) -> None:
        """Refuse a backbone that is neither known nor named; see :mod:`catwalk.networks.known_backbones`."""
        trained_args = None if named_args is None else without_initial_weights(named_args)
        check_backbone(str(path), self.backbone, self.backbone_args, named, trained_args, argument)


def _is_list_of(value: Any, kind: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(entry, kind) for entry in value)
