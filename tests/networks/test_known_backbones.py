"""A file of results never decides which code is imported and run."""

import sys
import zipfile

import pytest
import torch

from callbacks.inject_poisoned_images import InjectPoisonedImages
from catwalk.attacks import FGSM
from catwalk.errors import CatwalkError
from catwalk.networks.classifier import load_classifier
from catwalk.networks.known_backbones import check_backbone
from catwalk.poisoning.attack_inputs import attack_inputs
from catwalk.poisoning.protocol import Protocol
from lightning_modules import VBPR, ProductClassifier


@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [
        ("catwalk.networks.compact_cnn", {"width": 4}),
        ("torchvision.models.resnet18", None),
        ("torchvision.models.resnet.resnet18", {}),
        ("torchvision.models.get_model", {"name": "resnet18"}),
        ("timm.create_model", {"model_name": "resnet10t.c3_in1k"}),
        ("timm.models.create_model", {"model_name": "resnet10t"}),
        ("timm.models.resnet10t", {}),
        ("timm.models.resnet.resnet10t", {}),
    ],
)
def test_what_catwalk_torchvision_and_timm_build_is_known(backbone, arguments):
    check_backbone("x.ckpt", backbone, arguments)


UNKNOWN = [
    ("os.system", {"command": "touch ran"}),
    ("subprocess.Popen", {"args": ["touch", "ran"]}),
    ("builtins.exec", {}),
    ("code_of_an_attacker.build", {}),
    ("importlib.import_module", {"name": "code_of_an_attacker"}),
    # Whatever else can be reached below the names that are trusted.
    ("catwalk.configuration.import_object.import_object", {"path": "code_of_an_attacker.build", "argument": ""}),
    ("catwalk.configuration.import_object.importlib.import_module", {"name": "code_of_an_attacker"}),
    ("catwalk.networks.building.build_network", {"backbone": "os.system", "backbone_args": {}, "num_classes": 2}),
    ("catwalk.code_of_an_attacker.build", {}),
    ("torchvision.models.resnet.partial", {}),
    ("torchvision.models.segmentation.fcn_resnet50", {}),  # downloads a backbone unless it is told not to
    ("torchvision.models.get_model", {"name": "fcn_resnet50"}),
    ("torchvision.models.get_model", {"name": ["resnet18"]}),
    ("torchvision.models.get_model", None),
    ("torchvision.code_of_an_attacker.resnet18", {}),
    ("timm.models.load_checkpoint", {}),
    ("timm.create_model", {"model_name": "hf-hub:attacker/network"}),
    ("timm.create_model", {"model_name": "hf_hub:attacker/network"}),
    ("timm.create_model", {"model_name": "local-dir:/tmp"}),
    ("timm.create_model", {"model_name": "../resnet10t"}),
    ("timm.create_model", {}),
    ("timm", {}),
    ("resnet18", {}),
    ("", {}),
]


@pytest.mark.parametrize(("backbone", "arguments"), UNKNOWN)
def test_anything_else_is_refused_before_it_is_imported(backbone, arguments, tmp_path, monkeypatch):
    (tmp_path / "code_of_an_attacker.py").write_text("import pathlib\npathlib.Path('ran').touch()\nbuild = dict\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CatwalkError, match=r"^x\.ckpt asks for backbone .* if you trust it, set backbone: "):
        check_backbone("x.ckpt", backbone, arguments)
    assert not (tmp_path / "ran").exists()
    assert "code_of_an_attacker" not in sys.modules


@pytest.mark.parametrize(("backbone", "arguments"), UNKNOWN[:4])
def test_what_the_user_names_is_trusted(backbone, arguments):
    check_backbone("x.ckpt", backbone, arguments, named=backbone, named_args=arguments)


@pytest.mark.parametrize(
    ("backbone", "arguments", "named_args"),
    [
        ("torch.hub.load", {"repo_or_dir": "/somewhere", "model": "net", "source": "local"}, None),
        ("torch.hub.load", {"repo_or_dir": "/somewhere"}, {"repo_or_dir": "/mine"}),
        ("my.network", {"callback": "os.system"}, {}),
        ("timm.create_model", {"model_name": "hf-hub:attacker/network"}, {"model_name": "resnet10t"}),
        ("timm.create_model", {"model_name": "local-dir:/tmp"}, None),
    ],
)
def test_the_arguments_of_what_is_named_are_not_the_files(backbone, arguments, named_args):
    with pytest.raises(CatwalkError, match=r"^backbone_args: x\.ckpt was trained with .*: they must agree"):
        check_backbone("x.ckpt", backbone, arguments, named=backbone, named_args=named_args)


def test_what_is_known_needs_no_arguments_where_it_is_named():
    check_backbone("x.ckpt", "timm.create_model", {"model_name": "resnet10t"}, named="timm.create_model")


def test_what_the_user_names_must_be_the_checkpoints():
    with pytest.raises(
        CatwalkError, match=r"mine: is my\.network, and x\.ckpt was trained with backbone your\.network"
    ):
        check_backbone("x.ckpt", "your.network", {}, named="my.network", argument="mine")


@pytest.mark.parametrize(("backbone", "arguments"), [(3, {}), (None, {}), ("os.system", ["touch ran"]), ("x.y", "z")])
def test_values_of_another_kind(backbone, arguments):
    with pytest.raises(CatwalkError, match=r"x\.ckpt is damaged"):
        check_backbone("x.ckpt", backbone, arguments)


@pytest.fixture
def hostile(trained, tmp_path, monkeypatch):
    """A checkpoint of plain values that names a command."""
    monkeypatch.chdir(tmp_path)
    checkpoint = torch.load(trained.checkpoint, weights_only=True)
    checkpoint["hyper_parameters"] |= {"backbone": "os.system", "backbone_args": {"command": "touch ran"}}
    torch.save(checkpoint, "hostile.ckpt")
    yield tmp_path / "hostile.ckpt"
    assert not (tmp_path / "ran").exists()


def test_every_door_by_which_a_classifier_comes_in(hostile, trained, tmp_path):
    with pytest.raises(CatwalkError, match=r"hostile\.ckpt asks for backbone os\.system with"):
        load_classifier(hostile)
    with pytest.raises(CatwalkError, match=r"hostile\.ckpt asks for backbone os\.system"):
        ProductClassifier.load_from_checkpoint(hostile)
    arguments = {"source": "Sandal", "target": "Sneaker", "protocol": Protocol(), "purchases": None}
    with pytest.raises(CatwalkError, match=r"set InjectPoisonedImages\.backbone: os\.system and Inj"):
        attack_inputs(hostile, FGSM(), trained.catalogue, tmp_path, **arguments)
    callback = InjectPoisonedImages(hostile, FGSM(), "Sandal", tmp_path / "attack", backbone="my.network")
    assert callback.backbone == "my.network"


def test_a_network_of_ones_own_is_loaded_where_it_is_named(trained, tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text("from catwalk.networks import compact_cnn as mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    checkpoint = torch.load(trained.checkpoint, weights_only=True)
    checkpoint["hyper_parameters"]["backbone"] = "my_networks.mine"
    torch.save(checkpoint, tmp_path / "mine.ckpt")
    with pytest.raises(CatwalkError, match=r"asks for backbone my_networks\.mine"):
        load_classifier(tmp_path / "mine.ckpt")
    assert "my_networks" not in sys.modules
    width = {"width": 8}
    with pytest.raises(CatwalkError, match=r"backbone_args: .* they must agree"):
        load_classifier(tmp_path / "mine.ckpt", backbone="my_networks.mine")
    assert "my_networks" not in sys.modules
    loaded = load_classifier(tmp_path / "mine.ckpt", "my_networks.mine", width).network.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in trained.classifier.network.state_dict().items())
    module = ProductClassifier.load_from_checkpoint(
        tmp_path / "mine.ckpt", backbone="my_networks.mine", backbone_args=width
    )
    assert module.hparams["backbone"] == "my_networks.mine"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone_args": [1]}, "backbone_args cannot be"),
        ({"backbone_args": {1: 2}}, "backbone_args cannot be"),
        ({"backbone": None}, "backbone cannot be None"),
        ({"category_names": "Sandal"}, "category_names cannot be 'Sandal'"),
        ({"category_names": []}, "category_names cannot be"),
        ({"mean": [0.5]}, "mean cannot be"),
        ({"std": None}, "std cannot be None"),
        ({"image_size": [28]}, "image_size cannot be"),
        ({"image_size": [0, 28]}, "image_size cannot be"),
    ],
)
def test_settings_of_another_kind_are_one_line(trained, tmp_path, settings, message):
    checkpoint = torch.load(trained.checkpoint, weights_only=True)
    checkpoint["hyper_parameters"] |= settings
    torch.save(checkpoint, tmp_path / "odd.ckpt")
    with pytest.raises(CatwalkError, match=rf"odd\.ckpt is damaged: its {message}"):
        load_classifier(tmp_path / "odd.ckpt")


@pytest.mark.parametrize("kind", [ProductClassifier, VBPR])
def test_no_checkpoint_says_by_which_function_it_is_loaded(trained, tmp_path, kind):
    checkpoint = torch.load(trained.checkpoint, weights_only=True)
    saved = checkpoint["hyper_parameters"]
    for change, message in (
        ({"hyper_parameters": {**saved, "_instantiator": "os.system"}}, r"by, _instantiator: os\.system"),
        ({"hyper_parameters": {**saved, "_class_path": "os.system"}}, r"by, _class_path: os\.system"),
        ({"hparams": {"_instantiator": "os.system"}}, "no checkpoint of ours: it holds hparams"),
        ({"module_arguments": {"_instantiator": "os.system"}}, "no checkpoint of ours: it holds module_arguments"),
        ({"hparams_type": torch.Size([1])}, "no checkpoint of ours: it holds hparams_type"),
        ({"hparams_name": "backbone"}, "no checkpoint of ours: it holds another hparams_name"),
        ({"hyper_parameters": None}, "its settings are no names with values"),
        ({"hyper_parameters": [1]}, "its settings are no names with values"),
    ):
        torch.save({**checkpoint, **change}, tmp_path / "hostile.ckpt")
        with pytest.raises(CatwalkError, match=message):
            kind.load_from_checkpoint(tmp_path / "hostile.ckpt")
    with pytest.raises(CatwalkError, match="hparams_file: leave it out"):
        kind.load_from_checkpoint(tmp_path / "hostile.ckpt", hparams_file="hparams.yaml")


def test_a_checkpoint_with_changed_bytes_is_damaged(trained, tmp_path):
    content = bytearray(trained.checkpoint.read_bytes())
    with zipfile.ZipFile(trained.checkpoint) as file:
        weights = file.read(max(file.infolist(), key=lambda entry: entry.file_size))
    content[content.index(weights)] ^= 1
    (tmp_path / "flipped.ckpt").write_bytes(content)
    torch.load(tmp_path / "flipped.ckpt", weights_only=True)  # PyTorch does not see it
    with pytest.raises(CatwalkError, match=r"flipped\.ckpt cannot be read: data/\d+ in it was changed"):
        load_classifier(tmp_path / "flipped.ckpt")
