"""Checkpoints of recommenders: what they hold, and a model read from one of them."""

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.files.checkpoints import read_checkpoint
from catwalk.recommenders.vbpr import VBPRModel, VBPRSettings

BUILT_FOR = "built_for"
"""Key of a recommender's checkpoint with the sizes of the data, and by what features are divided."""

SIZES = ("num_users", "num_items", "num_features")

MODEL = "model."
"""What stands before a parameter's name where a LightningModule holds the model; nothing did before version 0.2."""


def built_for_of(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return for what sizes, and which ``feature_scale``, a recommender was built, by its checkpoint.

    Returns:
        ``num_users``, ``num_items``, ``num_features`` and ``feature_scale``; None if the checkpoint is not one of a
        recommender, or holds values of another kind.
    """
    found, weights = checkpoint.get(BUILT_FOR), checkpoint.get("state_dict")
    if not isinstance(found, dict) or set(found) != {*SIZES, "feature_scale"}:
        return None
    scale = found["feature_scale"]
    is_sound = (
        all(type(found[name]) is int and found[name] >= 0 for name in SIZES)
        and (scale is None or (isinstance(scale, float) and 0 < scale < math.inf))
        and isinstance(weights, dict)
        and all(isinstance(weight, Tensor) for weight in weights.values())
    )
    return found if is_sound else None


def name_as_today(checkpoint: dict[str, Any]) -> None:
    """Give the parameters in a checkpoint of a recommender with a model the names of today, in place."""
    weights = checkpoint.get("state_dict")
    if isinstance(weights, dict) and not any(str(name).startswith(MODEL) for name in weights):
        checkpoint["state_dict"] = {f"{MODEL}{name}": weight for name, weight in weights.items()}


@torch.inference_mode(False)
def read_visual_model(path: str | Path) -> VBPRModel:
    """Read the model of a recommender that looks at images: the scores of VBPR, or of AMR, which are VBPR's.

    It has no features; :meth:`VBPRModel.scores_of_images` scores by those that a network gives.

    Returns:
        The model on the CPU, in float32 as networks give features, whatever its own precision; its parameters ask for
        no gradients.

    Raises:
        CatwalkError: If the file is missing, damaged or none of such a recommender, or its values are not finite.
    """
    checkpoint = read_checkpoint(path)
    built_for, saved = built_for_of(checkpoint), checkpoint.get("hyper_parameters")
    error = CatwalkError(f"{path} is not a checkpoint of a recommender that looks at images, such as VBPR")
    if built_for is None or built_for["feature_scale"] is None or not isinstance(saved, dict):
        raise error
    name_as_today(checkpoint)
    weights = {name.removeprefix(MODEL): weight.float() for name, weight in checkpoint["state_dict"].items()}
    try:
        settings = VBPRSettings(**{field.name: saved[field.name] for field in fields(VBPRSettings)})
        with torch.device("meta"):  # neither memory nor random numbers
            model = VBPRModel(built_for["num_users"], built_for["num_items"], built_for["num_features"], settings)
        model.load_state_dict(weights, assign=True)
    except (CatwalkError, KeyError, TypeError, RuntimeError) as cause:
        raise error from cause
    model.feature_scale = built_for["feature_scale"]
    used = (*model.parameters(), model.projection / model.feature_scale)
    if not all(bool(tensor.isfinite().all()) for tensor in used):
        raise CatwalkError(f"{path} holds a recommender whose parameters are not finite: its training has diverged")
    return model.requires_grad_(False).eval()
