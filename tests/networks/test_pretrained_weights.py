"""Files of weights in the layouts in which others publish them, each against the network that it came from."""

import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from catwalk.errors import CatwalkError
from catwalk.networks.building import build_network
from catwalk.networks.compact_cnn import compact_cnn
from catwalk.networks.network import IMAGENET_MEAN, IMAGENET_STD
from catwalk.networks.pretrained_weights import read_weights

RESNET = "torchvision.models.resnet18"


def randomise(network: nn.Module) -> nn.Module:
    """Give a network statistics and biases that no new one has."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) / 5)
            elif name.endswith("num_batches_tracked"):
                tensor.fill_(17)
    return network.eval()


@pytest.fixture(scope="module")
def original() -> nn.Module:
    torch.manual_seed(1)
    return randomise(torchvision.models.resnet18())


@pytest.fixture(scope="module")
def state(original: nn.Module) -> dict[str, Tensor]:
    return dict(original.state_dict())


def normalised(images: Tensor, mean=IMAGENET_MEAN, std=IMAGENET_STD) -> Tensor:
    return torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)


def assert_same(
    path: Path | str, original: nn.Module, backbone: str = RESNET, arguments=None, head: str = "fc"
) -> None:
    """Compare features and, with the head kept, logits with those of the network that the file came from."""
    outputs = original.get_submodule(head).out_features
    network = build_network(backbone, arguments, outputs, weights=str(path), keep_head=True).eval()
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(5))
    read = []
    hook = original.get_submodule(head).register_forward_hook(lambda layer, inputs, output: read.append(inputs[0]))
    with torch.no_grad():
        logits, features, expected = network(images), network.features(images), original(normalised(images))
    hook.remove()
    torch.testing.assert_close(features, read[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 1000 * (logits - expected).abs().max()


def channels(*values: float) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)


def robustness(state: dict[str, Tensor], mean=IMAGENET_MEAN, std=IMAGENET_STD) -> dict:
    """Return what MadryLab's ``robustness`` saves: an AttackerModel inside of DataParallel."""
    return {
        "model": {
            "module.normalizer.new_mean": channels(*mean),
            "module.normalizer.new_std": channels(*std),
            **{f"module.model.{name}": tensor for name, tensor in state.items()},
            "module.attacker.normalize.new_mean": channels(*mean),
            "module.attacker.normalize.new_std": channels(*std),
            **{f"module.attacker.model.{name}": tensor for name, tensor in state.items()},
        },
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "schedule": {"step_size": 30},
        "epoch": 105,
    }


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


LAYOUTS = {
    "torchvision's own": lambda state: state,
    "DataParallel": lambda state: prefixed(state, "module."),
    "Free AT's model_best.pth.tar": lambda state: {
        "epoch": 23,
        "arch": "resnet50",
        "best_prec1": torch.tensor(60.2),
        "state_dict": prefixed(state, "module."),
        "optimizer": {"state": {}, "param_groups": []},
    },
    "robustness": robustness,
    "Lightning, model.": lambda state: {
        "state_dict": prefixed(state, "model.") | {"loss.weight": torch.ones(1000)},
        "pytorch-lightning_version": "2.6.0",
        "hyper_parameters": {"lr": 0.1},
    },
    "Lightning, net.backbone.": lambda state: {"state_dict": prefixed(state, "net.backbone.")},
    "before num_batches_tracked": lambda state: {
        name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")
    },
    "under a key of its own": lambda state: {"anything": {"deep": state}, "other": torch.ones(2)},
    "a student and its smaller self": lambda state: {"state_dict": state, "ema": {"state_dict": state}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["weights.pt"])
def test_published_layouts(tmp_path: Path, original: nn.Module, state: dict, layout: str, name: str) -> None:
    torch.save(LAYOUTS[layout](state), tmp_path / name)
    assert_same(tmp_path / name, original)


@pytest.mark.parametrize("name", ["best.pth.tar", "x.ckpt", "noextension", "wrong.safetensors"])
def test_the_name_of_the_file_does_not_matter(tmp_path: Path, original: nn.Module, state: dict, name: str) -> None:
    torch.save({"state_dict": state}, tmp_path / name)
    assert_same(tmp_path / name, original)


def test_the_old_format_of_pytorch(tmp_path: Path, original: nn.Module, state: dict) -> None:
    torch.save(robustness(state), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_same(tmp_path / "old.pt", original)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
def test_safetensors_of_timm(tmp_path: Path, name: str) -> None:
    torch.manual_seed(2)
    original = randomise(timm.create_model("resnet10t"))
    state = {key: value for key, value in original.state_dict().items() if not key.endswith("num_batches_tracked")}
    safetensors.torch.save_file(state, tmp_path / name, {"format": "pt"})
    assert_same(tmp_path / name, original, "timm.create_model", {"model_name": "resnet10t", "pretrained": False})


def test_our_own_checkpoint(trained) -> None:
    outputs = len(trained.classifier.category_names)
    network = build_network(
        *("catwalk.networks.compact_cnn", {"width": 8}, outputs),
        weights=trained.checkpoint,
        category_names=trained.classifier.category_names,
    ).eval()
    images = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(images), trained.classifier.network(images))


class TestHead:
    """The classification layer is kept only where it is known to be of the same categories."""

    @pytest.fixture
    def path(self, tmp_path: Path, state: dict) -> Path:
        torch.save(state, tmp_path / "weights.pt")
        return tmp_path / "weights.pt"

    @pytest.mark.parametrize("outputs", [1000, 6])
    def test_others_weights_get_a_new_one(self, path: Path, state: dict, outputs: int) -> None:
        network = build_network(RESNET, None, outputs, weights=path)
        assert network.head.weight.shape == (outputs, 512)
        assert not torch.equal(network.head.weight[:6], state["fc.weight"][:6])
        assert torch.equal(network.body.conv1.weight, state["conv1.weight"])

    def test_so_do_those_that_the_backbone_loads_itself(self, monkeypatch) -> None:
        torch.manual_seed(0)
        trained = compact_cnn(4, 5)
        monkeypatch.setattr("catwalk.networks.compact_cnn", lambda pretrained: trained)
        network = build_network("catwalk.networks.compact_cnn", {"pretrained": True}, 5)
        assert network.head.weight.shape == (5, 32)
        assert torch.equal(network.body[0][0].weight, trained[0][0].weight)
        monkeypatch.setattr("catwalk.networks.compact_cnn", lambda pretrained: compact_cnn(4, 5))
        torch.manual_seed(0)
        untrained = build_network("catwalk.networks.compact_cnn", {"pretrained": False}, 5)
        torch.manual_seed(0)
        assert torch.equal(untrained.head.weight, compact_cnn(4, 5)[-1].weight)

    def test_ours_is_kept_for_the_same_categories_in_the_same_order(self, trained) -> None:
        names = list(trained.classifier.category_names)

        def head(names: list[str]) -> Tensor:
            network = build_network(
                *("catwalk.networks.compact_cnn", {"width": 8}, len(names)),
                weights=trained.checkpoint,
                category_names=names,
            )
            assert torch.equal(network.body[0][0].weight, trained.classifier.network.body[0][0].weight)
            return network.head.weight

        own = trained.classifier.network.head.weight
        assert torch.equal(head(names), own)
        assert not torch.equal(head(names[::-1]), own)
        assert not torch.equal(head([*names[:-1], "Hat"]), own)
        assert head([*names, "Hat"]).shape == (7, 64)

    def test_a_file_of_another_number_of_classes(self, tmp_path: Path) -> None:
        original = randomise(torchvision.models.resnet18(num_classes=10))
        torch.save(robustness(dict(original.state_dict())), tmp_path / "cifar.pt")
        assert_same(tmp_path / "cifar.pt", original)
        assert build_network(RESNET, None, 6, weights=tmp_path / "cifar.pt").head.out_features == 6
        with pytest.raises(CatwalkError, match=r"has 10 outputs in .*cifar\.pt, and the categories are 1000, tench"):
            build_network(
                RESNET, None, 1000, weights=tmp_path / "cifar.pt", keep_head=True, category_names=["tench"] * 1000
            )


class Touch:
    """An object that makes a file when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("touched",)


class TestRefused:
    @pytest.fixture(autouse=True)
    def _here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    @staticmethod
    def refusal(path: str, backbone: str = RESNET, arguments=None, **settings) -> str:
        with pytest.raises(CatwalkError) as caught:
            build_network(backbone, arguments, 6, weights=path, **settings)
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 900
        return message

    @pytest.mark.parametrize("new_format", [True, False])
    def test_code_is_not_run(self, state: dict, new_format: bool) -> None:
        torch.save({"state_dict": state, "extra": Touch()}, "x.pt", _use_new_zipfile_serialization=new_format)
        message = self.refusal("x.pt")
        assert not Path("touched").exists()
        assert "x.pt holds more than tensors" in message
        assert "mkdir" in message
        assert "if you know and trust them" in message

    def test_the_conversion_that_the_message_gives_works(self, original: nn.Module, state: dict) -> None:
        import shlex
        import subprocess
        import sys

        torch.save({"state_dict": prefixed(state, "module."), "extra": Touch()}, "x.pt")
        command = self.refusal("x.pt").partition("convert it once: ")[2]
        _, *arguments = shlex.split(command)
        subprocess.run([sys.executable, *arguments], check=True)
        assert_same("weights.pt", original)

    def test_a_whole_module(self, original: nn.Module) -> None:
        torch.save(original, "module.pt")
        assert "torchvision.models.resnet.ResNet" in self.refusal("module.pt")

    @pytest.mark.parametrize("length", [0, 10, 5000])
    @pytest.mark.parametrize("kind", ["torch", "safetensors"])
    def test_damaged(self, state: dict, length: int, kind: str) -> None:
        torch.save(state, "whole") if kind == "torch" else safetensors.torch.save_file(state, "whole")
        Path("half").write_bytes(Path("whole").read_bytes()[:length])
        message = self.refusal("half")
        assert re.search("half (cannot be read|is neither)", message)
        assert "fetch it again" in message

    @pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>", b"version https://git-lfs.github.com/spec/v1"])
    def test_a_page_instead_of_the_file(self, content: bytes) -> None:
        Path("page.pt").write_bytes(content)
        message = self.refusal("page.pt")
        assert "page.pt is neither a file of PyTorch nor of safetensors" in message
        assert content[:10].decode() in message

    def test_missing(self) -> None:
        assert "weights: nowhere.pt does not exist" in self.refusal("nowhere.pt")
        Path("folder.pt").mkdir()
        assert "weights: folder.pt is a folder" in self.refusal("folder.pt")

    def test_no_dictionary(self) -> None:
        torch.save(torch.zeros(3), "tensor.pt")
        assert "holds a Tensor, not a dictionary" in self.refusal("tensor.pt")

    def test_nothing_of_the_backbone(self) -> None:
        torch.save({"users": torch.zeros(3)}, "other.pt")
        assert "holds nothing of backbone torchvision.models.resnet18, such as conv1.weight, but users" in self.refusal(
            "other.pt"
        )
        torch.save({"epoch": 3}, "empty.pt")
        assert "no tensors" in self.refusal("empty.pt")

    def test_another_architecture(self, state: dict) -> None:
        torch.save({"state_dict": prefixed(state, "module.")}, "resnet18.pt")
        message = self.refusal("resnet18.pt", "torchvision.models.resnet50")
        assert "it lacks layer1.0.conv3.weight, layer1.0.bn3.weight, layer1.0.bn3.bias and" in message
        assert "shapes differ: layer1.0.conv1.weight (64, 64, 3, 3) there and (64, 64, 1, 1) here" in message

    def test_missing_and_left_over(self, state: dict) -> None:
        less = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
        torch.save({"model": prefixed(less | {"extra.weight": torch.zeros(2)}, "net.")}, "x.pt")
        message = self.refusal("x.pt")
        assert "it lacks fc.weight, fc.bias; the backbone has no extra.weight; give" in message
        torch.save(state | {f"extra.{number}": torch.zeros(2) for number in range(9)}, "x.pt")
        assert "the backbone has no extra.0, extra.1, extra.2 and 6 more" in self.refusal("x.pt")

    def test_another_shape(self, state: dict) -> None:
        torch.save(state | {"bn1.weight": torch.ones(63)}, "x.pt")
        assert "shapes differ: bn1.weight (63,) there and (64,) here" in self.refusal("x.pt")
        torch.save(state | {"fc.weight": torch.ones(1000, 511)}, "x.pt")
        assert "fc.weight (1000, 511) there and (1000, 512) here" in self.refusal("x.pt")

    def test_a_checkpoint_of_ours_with_another_backbone(self, trained) -> None:
        message = self.refusal(str(trained.checkpoint), "catwalk.networks.compact_cnn", {"width": 4})
        assert "but catwalk.networks.compact_cnn with {'width': 8}" in message
        assert "0.0.weight (8, 3, 3, 3) there and (4, 3, 3, 3) here" in message

    def test_several_networks(self, state: dict) -> None:
        torch.save(prefixed(state, "student.") | prefixed(state, "teacher."), "x.pt")
        assert "x.pt holds several networks, student and teacher; save the one" in self.refusal("x.pt")

    def test_the_networks_inside_of_an_attacker_does_not_count(self, state: dict) -> None:
        torch.save({"model": prefixed(state, "attacker.model.")}, "x.pt")
        assert "holds nothing of backbone" in self.refusal("x.pt")

    def test_another_normalisation(self, state: dict) -> None:
        torch.save(robustness(state, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.201)), "cifar.pt")
        message = self.refusal("cifar.pt")
        assert message == (
            "mean: the network of weights cifar.pt was trained with [0.4914, 0.4822, 0.4465], got [0.485, 0.456, "
            "0.406]; set mean: [0.4914, 0.4822, 0.4465] and std: [0.2023, 0.1994, 0.201]"
        )
        message = self.refusal("cifar.pt", mean=(0.4914, 0.4822, 0.4465))
        assert message.startswith("std: the network of weights cifar.pt was trained with [0.2023, 0.1994, 0.201]")
        build_network(
            RESNET, None, 6, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201), weights="cifar.pt"
        )  # as it was trained

    def test_another_normalisation_than_that_of_a_checkpoint_of_ours(self, trained) -> None:
        message = self.refusal(
            str(trained.checkpoint), "catwalk.networks.compact_cnn", {"width": 8}, mean=(0.5, 0.5, 0.5)
        )
        assert "was trained with [0.485, 0.456, 0.406], got [0.5, 0.5, 0.5]" in message

    @pytest.mark.parametrize("arguments", [{"weights": "IMAGENET1K_V1"}, {"pretrained": True}])
    def test_weights_given_twice(self, state: dict, arguments: dict) -> None:
        torch.save(state, "x.pt")
        message = self.refusal("x.pt", arguments=arguments)
        assert message.startswith(f"weights: x.pt would replace what backbone_args {arguments} loads; give one of them")

    @pytest.mark.parametrize("arguments", [{"weights": None}, {}, None])
    def test_weights_given_once(self, state: dict, arguments: dict | None) -> None:
        torch.save(state, "x.pt")
        build_network(RESNET, arguments, 6, weights="x.pt")


def test_a_normaliser_inside_of_the_backbone_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.normalize = nn.BatchNorm2d(3)
            self.rest = compact_cnn(4, 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.rest(self.normalize(images))

    original = randomise(Normalised())
    monkeypatch.setattr("catwalk.networks.compact_cnn", Normalised)
    torch.save(original.state_dict(), tmp_path / "x.pt")
    assert read_weights(tmp_path / "x.pt").mean is None
    assert_same(tmp_path / "x.pt", original, "catwalk.networks.compact_cnn", head="rest.6")
