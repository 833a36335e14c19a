"""Networks of any library, divided into body and head."""

import copy
import urllib.error
import warnings

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from catwalk.configuration.import_object import import_object
from catwalk.errors import CatwalkError
from catwalk.files.checkpoints import read_checkpoint
from catwalk.networks.building import build_network, without_initial_weights
from catwalk.networks.classifier import load_classifier
from catwalk.networks.compact_cnn import compact_cnn
from catwalk.networks.network import Network, network_fingerprint

BACKBONES = {
    "resnet18": ("torchvision.models.resnet18", {}, "fc"),
    "efficientnet_b0": ("torchvision.models.efficientnet_b0", {}, "classifier.1"),
    "vgg11": ("torchvision.models.vgg11", {}, "classifier.6"),
    "mobilenet_v3_small": ("torchvision.models.mobilenet_v3_small", {}, "classifier.3"),
    "timm's resnet10t": ("timm.create_model", {"model_name": "resnet10t", "pretrained": False}, "fc"),
}
MAKERS = {"torchvision.models": torchvision.models, "timm": timm}
MEAN, STD = (0.1, 0.4, 0.6), (0.2, 0.3, 0.5)


@pytest.fixture(params=BACKBONES.values(), ids=BACKBONES)
def backbone(request):
    return request.param


def test_the_head_is_what_reads_the_features(backbone):
    path, arguments, head = backbone
    module, _, name = path.rpartition(".")
    torch.manual_seed(0)
    original = getattr(MAKERS[module], name)(**arguments, num_classes=11).eval()
    torch.manual_seed(0)
    network = build_network(path, arguments | {"num_classes": 11}, 11, MEAN, STD).eval()

    read = []
    original.get_submodule(head).register_forward_hook(lambda layer, inputs, output: read.append(inputs[0]))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    normalised = torch.stack([(images[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    with torch.no_grad():
        expected = original(normalised)
        logits, features = network(images), network.features(images)
    assert logits.shape == (2, 11)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(features, read[0], rtol=1e-3, atol=1e-4)
    assert features.shape == (2, network.head.in_features)
    assert expected.std() > 100 * (logits - expected).abs().max()  # the tolerance is small beside the values


def test_the_head_is_replaced_for_another_number_of_classes(backbone):
    path, arguments, _ = backbone
    torch.manual_seed(0)
    kept = build_network(path, arguments, 1000).eval()
    torch.manual_seed(0)
    replaced = build_network(path, arguments, 4).eval()
    assert (kept.head.out_features, replaced.head.out_features) == (1000, 4)
    with torch.no_grad():
        images = torch.rand(1, 3, 64, 64)
        assert replaced(images).shape == (1, 4)
        torch.testing.assert_close(replaced.features(images), kept.features(images))


def test_the_compact_network(tmp_path):
    network = compact_cnn(width=4, num_classes=3)
    features = []
    network[-1].register_forward_hook(lambda layer, inputs, output: features.append(inputs[0]))
    assert network(torch.rand(2, 3, 28, 28)).shape == (2, 3)
    assert features[0].shape == (2, 32)
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == 4


@pytest.mark.parametrize(
    ("backbone", "arguments", "message"),
    [
        ("nosuch.thing", {}, "backbone: 'nosuch.thing' cannot be imported: No module named 'nosuch'"),
        ("torchvision.models.resnet19", {}, "backbone: 'torchvision.models.resnet19' cannot be imported"),
        ("resnet18", {}, "backbone: give an import path, such as torchvision.models.resnet50, got 'resnet18'"),
        ("", {}, "backbone: give an import path, such as torchvision.models.resnet50, got ''"),
        ("torchvision.models.resnet18", {"depth": 3}, r"resnet18 refused its arguments \{'depth': 3\}"),
        ("torchvision.models.resnet18", {"weights": "BEST"}, "resnet18 refused its arguments"),
        ("timm.create_model", {"model_name": "resnet_of_mine"}, "timm.create_model refused its arguments"),
        ("math.pi", {}, "math.pi refused its arguments"),
        ("builtins.dict", {}, "builtins.dict returns a dict, not a network"),
        ("torch.nn.ReLU", {}, "torch.nn.ReLU has no nn.Linear"),
        ("torch.nn.Linear", {"in_features": 3, "out_features": 2}, "torch.nn.Linear has no nn.Linear"),
    ],
)
def test_what_is_wrong_is_said(backbone, arguments, message):
    with pytest.raises(CatwalkError, match=message):
        build_network(backbone, arguments, 3)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network("catwalk.networks.compact_cnn", {"width": 4}, 3).eval()


class TestFingerprint:
    def test_equal_networks_have_equal_ones(self, network):
        fingerprint = network_fingerprint(network)
        assert len(fingerprint) == 64
        assert network_fingerprint(copy.deepcopy(network)) == fingerprint
        assert network_fingerprint(copy.deepcopy(network).to(memory_format=torch.contiguous_format)) == fingerprint
        assert network_fingerprint(copy.deepcopy(network).train()) == fingerprint

    @pytest.mark.parametrize("part", ["weight", "head", "statistic", "mean", "std"])
    def test_it_changes_with_every_part(self, network, part):
        changed = copy.deepcopy(network)
        with torch.no_grad():
            tensor = {
                "weight": changed.body[2][0].weight,
                "head": changed.head.bias,
                "statistic": changed.body[1][1].running_var,
                "mean": changed.mean,
                "std": changed.std,
            }[part]
            last = (-1,) * tensor.ndim
            tensor[last] = float(np.nextafter(np.float32(tensor[last]), np.float32(9)))
        assert network_fingerprint(changed) != network_fingerprint(network)

    def test_it_changes_with_a_name(self):
        layers = [nn.Sequential(nn.Linear(2, 2)), nn.ModuleDict({"1": nn.Linear(2, 2)})]
        layers[1]["1"].load_state_dict(layers[0][0].state_dict())
        networks = [Network(body, nn.Identity(), MEAN, STD) for body in layers]
        assert len({network_fingerprint(network) for network in networks}) == 2


class TestLoadClassifier:
    def test_it_is_the_network_that_was_trained(self, trained):
        classifier = load_classifier(str(trained.checkpoint))
        assert not any(module.training for module in classifier.network.modules())
        assert classifier.category_names == trained.catalogue.category_names
        assert classifier.image_size is None
        assert network_fingerprint(classifier.network) == network_fingerprint(trained.classifier.network)
        saved = torch.load(trained.checkpoint, weights_only=True)["state_dict"]
        loaded = classifier.network.state_dict()
        assert {f"network.{name}" for name in loaded} == set(saved)
        assert all(torch.equal(loaded[name.removeprefix("network.")], weight) for name, weight in saved.items())

    def test_size_and_normalisation_are_those_of_the_checkpoint(self, trained, tmp_path):
        checkpoint = torch.load(trained.checkpoint, weights_only=True)
        checkpoint["hyper_parameters"] |= {"image_size": [24, 20], "mean": list(MEAN), "std": list(STD)}
        torch.save(checkpoint, tmp_path / "other.ckpt")
        classifier = load_classifier(tmp_path / "other.ckpt")
        assert classifier.image_size == (24, 20)
        assert classifier.network.mean.flatten().tolist() == pytest.approx(MEAN)
        assert classifier.network.std.flatten().tolist() == pytest.approx(STD)

    def test_initial_weights_are_not_fetched(self, trained, tmp_path):
        checkpoint = torch.load(trained.checkpoint, weights_only=True)
        # `compact_cnn` takes no such argument, so handing it on would fail.
        checkpoint["hyper_parameters"]["backbone_args"]["weights"] = "IMAGENET1K_V1"
        torch.save(checkpoint, tmp_path / "other.ckpt")
        load_classifier(tmp_path / "other.ckpt")

    def test_missing(self, tmp_path):
        with pytest.raises(CatwalkError, match=r"checkpoint .*absent\.ckpt does not exist"):
            load_classifier(tmp_path / "absent.ckpt")

    @pytest.mark.parametrize("length", [0, 10, 3000])
    def test_damaged(self, trained, tmp_path, length):
        (tmp_path / "half.ckpt").write_bytes(trained.checkpoint.read_bytes()[:length])
        with pytest.raises(CatwalkError, match=r"checkpoint .*half\.ckpt cannot be read"):
            load_classifier(tmp_path / "half.ckpt")

    def test_code_is_not_run(self, tmp_path):
        torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
        with pytest.raises(CatwalkError, match=r"checkpoint .*module\.pt cannot be read"):
            read_checkpoint(tmp_path / "module.pt")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (torch.zeros(3), "holds no dictionary"),
            ({"weight": torch.zeros(3)}, "is not a checkpoint of a product classifier"),
            ({"state_dict": {}, "hyper_parameters": {"factors": 3}}, "is not a checkpoint of a product classifier"),
        ],
    )
    def test_foreign(self, tmp_path, content, message):
        torch.save(content, tmp_path / "foreign.ckpt")
        with pytest.raises(CatwalkError, match=rf"foreign\.ckpt {message}"):
            load_classifier(tmp_path / "foreign.ckpt")

    def test_weights_of_another_network(self, trained, tmp_path):
        checkpoint = torch.load(trained.checkpoint, weights_only=True)
        checkpoint["hyper_parameters"]["backbone_args"] = {"width": 2}
        torch.save(checkpoint, tmp_path / "other.ckpt")
        with pytest.raises(CatwalkError, match=r"other\.ckpt does not fit the network it describes"):
            load_classifier(tmp_path / "other.ckpt")


def test_arguments_that_load_weights_are_left_out():
    arguments = {"model_name": "x", "pretrained": True, "weights": "y", "checkpoint_path": "z", "width": 3}
    assert without_initial_weights(arguments) == {"model_name": "x", "width": 3}
    assert without_initial_weights(None) == {}


class TestFreezing:
    """What is frozen, by the backbone's own names and order of registration."""

    @staticmethod
    def trainable(network: Network) -> set[str]:
        return {name.split(".")[0] for name, parameter in network.body.named_parameters() if parameter.requires_grad}

    def test_a_stage_and_all_before_it(self):
        network = build_network("torchvision.models.resnet18", None, 3)
        network.freeze_up_to("layer2")
        assert self.trainable(network) == {"layer3", "layer4"}
        assert all(parameter.requires_grad for parameter in network.head.parameters())
        frozen = {"conv1", "bn1", "relu", "maxpool", "layer1", "layer2"}
        for mode in (True, False, True):
            network.train(mode)
            for name, module in network.body.named_modules():
                assert module.training == (mode and name.split(".")[0] not in frozen), name
            assert network.head.training == network.training == mode

    def test_a_part_of_a_stage_leaves_the_stage_its_mode(self):
        network = build_network("torchvision.models.resnet18", None, 3)
        network.freeze_up_to("layer2.0.conv2")
        body = network.train().body
        assert body.layer2.training
        assert body.layer2[0].training
        assert not body.layer2[0].conv2.training
        assert not body.layer2[0].bn1.training
        assert body.layer2[0].bn2.training
        names = [name for name, parameter in body.named_parameters() if not parameter.requires_grad]
        assert names[-1] == "layer2.0.conv2.weight"
        assert all(parameter.requires_grad for parameter in list(body.parameters())[len(names) :])

    def test_everything_but_the_classification_layer(self):
        for backbone, arguments, name in (
            ("torchvision.models.resnet18", {}, "avgpool"),
            ("torchvision.models.mobilenet_v3_small", {}, "classifier.2"),
            ("timm.create_model", {"model_name": "resnet10t"}, "global_pool"),
        ):
            network = build_network(backbone, arguments, 3)
            network.freeze_up_to(name)
            assert self.trainable(network) == set()
            frozen = [module for module in network.train().body.modules() if not list(module.children())]
            head = network.body.get_submodule(network.head_name)
            assert not any(module.training for module in frozen if module is not head)

    def test_a_transformer_keeps_its_class_token(self):
        arguments = {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
        network = build_network("torchvision.models.VisionTransformer", arguments, 3)
        network.freeze_up_to("encoder.layers.encoder_layer_0")
        trainable = {name for name, parameter in network.body.named_parameters() if parameter.requires_grad}
        assert {name.rpartition(".")[0].split(".layers.")[-1].split(".")[0] for name in trainable} == {
            "encoder_layer_1",
            "encoder",
        }
        assert "class_token" not in trainable
        assert "encoder.pos_embedding" not in trainable
        assert "encoder.ln.weight" in trainable

    @pytest.mark.parametrize("name", ["layer9", "", "fc.weight"])
    def test_an_unknown_module(self, name):
        network = build_network("torchvision.models.resnet18", None, 3)
        message = rf"freeze_up_to: the backbone has no module '{name}'; it has conv1, bn1, relu, .*layer4, avgpool, fc"
        with pytest.raises(CatwalkError, match=message):
            network.freeze_up_to(name)

    @pytest.mark.parametrize(
        ("backbone", "name"),
        [
            ("torchvision.models.resnet18", "fc"),
            ("torchvision.models.vgg11", "classifier"),
            ("torchvision.models.vgg11", "classifier.6"),
        ],
    )
    def test_nothing_left_to_train(self, backbone, name):
        network = build_network(backbone, None, 3)
        with pytest.raises(CatwalkError, match=rf"freeze_up_to: '{name}' leaves nothing to train"):
            network.freeze_up_to(name)
        assert all(parameter.requires_grad for parameter in network.parameters())


class TestDownloads:
    @pytest.fixture(autouse=True)
    def _no_internet(self, monkeypatch, tmp_path):
        def refuse(*args, **kwargs):
            raise urllib.error.URLError("Name or service not known")

        monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
        monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path / "hub"))

    @pytest.mark.parametrize("name", ["IMAGENET1K_V1", "DEFAULT", "ResNet18_Weights.IMAGENET1K_V1"])
    def test_where_to_put_what_could_not_be_downloaded(self, tmp_path, name):
        with pytest.raises(CatwalkError) as caught:
            build_network("torchvision.models.resnet18", {"weights": name}, 3)
        message = str(caught.value)
        assert "download https://download.pytorch.org/models/resnet18-f37072fd.pth elsewhere" in message
        assert "give the file as weights" in message
        assert f"put it into {tmp_path / 'hub' / 'checkpoints'}" in message

    def test_a_backbone_of_ones_own(self, monkeypatch):
        def mine(pretrained):
            torch.hub.load_state_dict_from_url("https://example.org/mine.pth")

        monkeypatch.setattr("catwalk.networks.compact_cnn", mine)
        with pytest.raises(CatwalkError, match=r"could not be downloaded \(.*not known.*\); download them elsewhere"):
            build_network("catwalk.networks.compact_cnn", {"pretrained": True}, 3)

    def test_timm(self, monkeypatch):
        import huggingface_hub.errors

        def refuse(*args, **kwargs):
            raise huggingface_hub.errors.LocalEntryNotFoundError("cannot find the requested files\nin the cache")

        monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
        with pytest.raises(CatwalkError, match=r"download https://huggingface\.co/timm/resnet10t\S+ elsewhere"):
            build_network("timm.create_model", {"model_name": "resnet10t", "pretrained": True}, 3)

    def test_the_cache_is_used(self, tmp_path):
        torch.manual_seed(0)
        cached = torchvision.models.resnet18()
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        torch.save(cached.state_dict(), tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
        arguments = {"weights": "IMAGENET1K_V1"}
        # torchvision compares the hash of what it downloads, and not of what is in the cache.
        network = build_network("torchvision.models.resnet18", arguments, 1000, keep_head=True)
        assert torch.equal(network.head.weight, cached.fc.weight)


LITE = {"model_name": "tf_efficientnet_lite0"}


class TestTimmsNormalisation:
    def test_that_of_a_file_may_be_another(self, tmp_path):
        torch.save(timm.create_model(**LITE).state_dict(), tmp_path / "x.pt")
        with pytest.warns(UserWarning, match=r"mean: \[0\.5, 0\.5, 0\.5\] and std: \[0\.5, 0\.5, 0\.5\]"):
            build_network("timm.create_model", LITE, 3, weights=tmp_path / "x.pt")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            half = (0.5, 0.5, 0.5)
            build_network("timm.create_model", LITE, 3, half, half, weights=tmp_path / "x.pt")
            build_network("timm.create_model", LITE, 3)  # random weights were not trained with any

    def test_that_of_its_own_weights_must_be_the_same(self, monkeypatch):
        monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *args, **kwargs: None)
        with pytest.raises(CatwalkError, match=r"mean and std: timm's weights .* set mean: \[0\.5, 0\.5, 0\.5\]"):
            build_network("timm.create_model", LITE | {"pretrained": True}, 3)


class TwoHeads(nn.Module):
    """Gives categories and something else, as networks with an auxiliary classifier do."""

    def __init__(self, kind=tuple):
        super().__init__()
        self.kind = kind
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.first, self.second = nn.Linear(4, 5), nn.Linear(4, 2)

    def forward(self, images):
        hidden = self.layers(images)
        results = self.first(hidden), self.second(hidden)
        return dict(zip("ab", results, strict=True)) if self.kind is dict else self.kind(results)


@pytest.mark.parametrize("kind", [tuple, list, dict])
@pytest.mark.parametrize("method", ["forward", "features"])
def test_a_backbone_of_two_heads_is_one_line(kind, method):
    network = build_network(f"{__name__}.TwoHeads", {"kind": kind}, 2)
    with pytest.raises(CatwalkError, match=f"backbone: returns a {kind.__name__} of 2, as networks with several heads"):
        getattr(network, method)(torch.rand(2, 3, 8, 8))


def test_inception_in_training_is_one_line():
    network = build_network("torchvision.models.googlenet", {"init_weights": False}, 2).train()
    with pytest.raises(CatwalkError, match=r"returns a GoogLeNetOutputs of 3.*aux_logits: false"):
        network(torch.rand(2, 3, 64, 64))
    without = build_network("torchvision.models.googlenet", {"init_weights": False, "aux_logits": False}, 2).train()
    assert without(torch.rand(2, 3, 64, 64)).shape == (2, 2)


@pytest.mark.parametrize("path", ["resnet50", "", ".resnet50", "torchvision.", "torchvision..resnet50", "my model.net"])
def test_what_is_no_import_path_is_refused_with_an_example(path: str) -> None:
    message = f"backbone: give an import path, such as torchvision.models.resnet50, got {path!r}"
    with pytest.raises(CatwalkError) as info:
        import_object(path, "backbone")
    assert str(info.value) == message
