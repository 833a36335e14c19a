"""Names of before 0.2: configurations and checkpoints that hold them work, and what they name is told."""

import importlib
from pathlib import Path

import pytest
import torch

import callbacks
from catwalk.moved import MOVED
from catwalk.networks.building import build_network
from catwalk.networks.classifier import load_classifier
from catwalk.shop.splits import DateSplit
from catwalk.study.specifications import split_of

NAMES = {"catwalk.backbones": "compact_cnn", "catwalk.lazy_adam": "LazyAdam", "catwalk.splits": "RatioSplit"}


@pytest.mark.parametrize("module", MOVED)
def test_a_module_of_old_gives_what_stands_elsewhere_now(module: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"{module}\.{NAMES[module]} is {MOVED[module]}\.{NAMES[module]} now"):
        found = getattr(importlib.import_module(module), NAMES[module])
    assert found is getattr(importlib.import_module(MOVED[module]), NAMES[module])
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nothing'"):
        _ = importlib.import_module(module).nothing


@pytest.mark.parametrize(
    ("old", "new"), [("RankingFigures", "RankingMetrics"), ("WriteUserFigures", "WriteUserMetrics")]
)
def test_a_callback_by_its_name_of_old(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"callbacks.{old} is callbacks.{new} now"):
        assert getattr(callbacks, old) is getattr(callbacks, new)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = callbacks.Nothing


def test_a_configuration_with_a_class_of_old() -> None:
    with pytest.warns(DeprecationWarning, match=r"catwalk\.splits\.DateSplit"):
        specification = split_of({"class_path": "catwalk.splits.DateSplit", "init_args": {"test_from": "2021-12-01"}})
    assert isinstance(specification.instantiate(), DateSplit)


def test_a_checkpoint_with_a_backbone_of_old(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network("catwalk.networks.compact_cnn", {"width": 4}, 3).eval()
    settings = {
        "backbone": "catwalk.backbones.compact_cnn",
        "backbone_args": {"width": 4},
        "category_names": ["a", "b", "c"],
        "mean": network.mean.flatten().tolist(),
        "std": network.std.flatten().tolist(),
        "image_size": None,
    }
    weights = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"hyper_parameters": settings, "state_dict": weights}, tmp_path / "old.ckpt")
    images = torch.rand(2, 3, 16, 16)
    for named in (None, "catwalk.backbones.compact_cnn", "catwalk.networks.compact_cnn"):
        loaded = load_classifier(tmp_path / "old.ckpt", named, {"width": 4}).network
        assert torch.equal(loaded(images), network(images))
