"""What is read from checkpoints of recommenders, and what is refused."""

from dataclasses import asdict

import pytest
import torch

from catwalk.errors import CatwalkError
from catwalk.recommenders.checkpoints import built_for_of, read_visual_model
from catwalk.recommenders.vbpr import VBPRSettings

SOUND = {"num_users": 3, "num_items": 4, "num_features": 2, "feature_scale": 1.5}


@pytest.mark.parametrize(
    "change",
    [
        {"num_users": "3"},
        {"num_items": -1},
        {"num_features": None},
        {"num_users": True},
        {"feature_scale": 0.0},
        {"feature_scale": float("nan")},
        {"feature_scale": float("inf")},
        {"feature_scale": "1"},
        {"more": 1},
    ],
)
def test_what_a_checkpoint_says_of_sizes_is_checked(tmp_path, change):
    weights = {
        f"model.{name}": torch.zeros(rows, 2)
        for name, rows in (("users.weight", 3), ("items.weight", 4), ("visual_users.weight", 3), ("projection", 2))
    }
    settings = asdict(VBPRSettings(factors=2, visual_factors=2))
    of_vbpr = {"state_dict": weights, "hyper_parameters": settings}
    assert built_for_of({"built_for": SOUND, "state_dict": weights}) == SOUND
    assert built_for_of({"built_for": SOUND | {"feature_scale": None}, "state_dict": {}}) is not None
    torch.save({"built_for": SOUND, **of_vbpr}, tmp_path / "vbpr.ckpt")
    random = torch.get_rng_state()
    read_visual_model(tmp_path / "vbpr.ckpt")
    assert torch.equal(torch.get_rng_state(), random)
    torch.save({"built_for": SOUND | change, **of_vbpr}, tmp_path / "vbpr.ckpt")
    with pytest.raises(CatwalkError, match=r"vbpr\.ckpt is not a checkpoint of a recommender that looks at images"):
        read_visual_model(tmp_path / "vbpr.ckpt")


@pytest.mark.parametrize(
    "content", [{}, {"built_for": [3]}, {"built_for": SOUND}, {"built_for": SOUND, "state_dict": 3}]
)
def test_checkpoints_of_another_kind_are_no_recommenders(tmp_path, content):
    assert built_for_of(content) is None
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CatwalkError, match=r"other\.ckpt is not a checkpoint of a recommender"):
        read_visual_model(tmp_path / "other.ckpt")
