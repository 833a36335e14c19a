"""Rankings with other images, shared by callbacks."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from pytorch_lightning import Trainer

from callbacks.inject_poisoned_images import InjectPoisonedImages
from callbacks.trainer_callbacks import callbacks_of
from catwalk.networks.features import FeatureTable
from lightning_modules.data_protocols import recommender_data_of
from lightning_modules.recommender import Recommender


def clean_features(trainer: Trainer) -> FeatureTable | None:
    """Return the features whose place an attack's have taken; None where nothing was injected in this run."""
    for callback in callbacks_of(trainer):
        if isinstance(callback, InjectPoisonedImages) and callback.clean_features is not None:
            return callback.clean_features
    return None


@contextlib.contextmanager
def looking_at(table: FeatureTable, model: Recommender, trainer: Trainer) -> Iterator[Recommender]:
    """Give a copy of a recommender that is ready to score with other features, meanwhile, in eval and inference mode.

    Parameters are shared; nothing of the recommender, its data module or its modes is different afterwards.

    Args:
        table: The features.
        model: The recommender.
        trainer: Who runs it.
    """
    data = copy.copy(recommender_data_of(trainer, type(model).__name__))
    data.feature_table = table
    modes = {module: module.training for module in model.modules()}
    other = model.eval().sharing_parameters()
    try:
        with torch.inference_mode(), trainer.precision_plugin.forward_context():
            other.take_features(data)
            other.prepare_scores(data)
            yield other
    finally:
        for module, mode in modes.items():
            module.training = mode
