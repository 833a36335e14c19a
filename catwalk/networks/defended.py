"""Networks behind input operations: a shop's pipeline or an input defence, and how attacks see them."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from catwalk.errors import CatwalkError
from catwalk.files.atomic import write_bytes
from catwalk.files.checkpoints import read_checkpoint
from catwalk.networks.classifier import Classifier, NetworkSettings
from catwalk.networks.network import Network
from catwalk.processing.known import specifications_of
from catwalk.processing.operation import Operation

PREFIX = "network.input_operations."
"""Below which a checkpoint holds the weights of input operations, by number."""

DRAWS = 10
"""Draws of random operations over which an adaptive attacker averages, unless told otherwise."""


def defended(classifier: Classifier, operations: Sequence[Operation]) -> Classifier:
    """Return a classifier whose images go through further operations first; the layers are shared, and not changed.

    Args:
        classifier: May have input operations of its own, which come after.
        operations: In the order in which they are applied.

    Example:
        >>> import torch
        >>> from catwalk.networks.building import build_network
        >>> from catwalk.networks.classifier import Classifier
        >>> from catwalk.networks.defended import defended
        >>> from catwalk.processing import JPEG
        >>> network = build_network("catwalk.networks.compact_cnn", {"width": 8}, num_classes=2).eval()
        >>> behind = defended(Classifier(network, ("Sandal", "Sneaker"), None), [JPEG(quality=75)]).network
        >>> images = torch.rand(2, 3, 32, 32)
        >>> torch.equal(behind(images), network(JPEG(quality=75)(images)))
        True
    """
    network = classifier.network
    return replace(classifier, network=network.behind([*operations, *network.operations]))


def bare(network: Network) -> Network:
    """Return a network without its input operations, as an attacker has it who does not know them; layers shared."""
    return network.behind([])


def averaged(network: Network, draws: int) -> Network:
    """Return a network whose logits are averaged over draws of its random operations, as an adaptive attacker has it.

    The gradient of a loss then is that of the expectation over the operations (expectation over transformation, EOT:
    Athalye et al., "Synthesizing Robust Adversarial Examples", ICML 2018). The draws are others than the network's own:
    the attacker knows the distribution, and not what will be drawn. A network without random operations is returned as
    it is.

    Args:
        network: Any.
        draws: How many, at least 1: what a gradient costs is multiplied by it.

    Raises:
        CatwalkError: If there are no draws.
    """
    if draws < 1:
        raise CatwalkError(f"draws: must be at least 1, got {draws}")
    if not network.is_random:
        return network
    return network.behind(network.operations, tuple(range(1, draws + 1)))


def write_defended_checkpoint(source: Path, operations: Sequence[Operation], output: Path) -> None:
    """Write the checkpoint of a trained classifier anew, behind further input operations; nothing is trained.

    Args:
        source: Checkpoint that ``catwalk fit`` wrote for a product classifier, or this function.
        operations: In the order in which they are applied, before those that the checkpoint has already.
        output: Where to write; what is there is replaced.

    Raises:
        CatwalkError: If the source is no such checkpoint, there are no operations, or the output is the source.
    """
    if not operations:
        raise CatwalkError("operations: give one at least, such as catwalk.processing.JPEG")
    if Path(source).resolve() == Path(output).resolve():
        raise CatwalkError(f"output is {output}, the checkpoint of the undefended network: give another file")
    checkpoint = read_checkpoint(source)
    settings = NetworkSettings.of(checkpoint, source)
    if settings is None:
        raise CatwalkError(f"{source} is not a checkpoint of a product classifier")
    weights: dict[str, Any] = {}
    for name, tensor in checkpoint["state_dict"].items():
        if name.startswith(PREFIX):
            number, _, rest = name.removeprefix(PREFIX).partition(".")
            name = f"{PREFIX}{int(number) + len(operations)}.{rest}"
        weights[name] = tensor
    for number, operation in enumerate(operations):
        for name, tensor in operation.state_dict().items():
            weights[f"{PREFIX}{number}.{name}"] = tensor.detach().cpu()
    listed = [*specifications_of(operations), *settings.input_operations]
    written = {
        **checkpoint,
        "state_dict": weights,
        "hyper_parameters": {**checkpoint["hyper_parameters"], "input_operations": listed},
    }
    buffer = io.BytesIO()
    torch.save(written, buffer)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(output, buffer)
