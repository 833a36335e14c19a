"""Every callback that looks on and changes nothing, and all that could be different after a run."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from callbacks import (
    AdversarialAccuracy,
    AttackedItems,
    AttackGallery,
    CategoryBars,
    CategoryHitRatio,
    PerceptualDistance,
    RankingMetrics,
    ResumableCheckpoint,
    RobustAccuracy,
    WandbAxes,
    WriteAttackedItems,
    WriteFeatures,
    WriteReachableShifts,
    WriteRecommendations,
    WriteUserMetrics,
)
from catwalk.attacks import PGD, AutoAttack
from catwalk.recommenders.vbpr import VBPRModel
from lightning_modules import VBPR, FreeAdversarialClassifier

OF_RECOMMENDERS: dict[str, Callable[[Path, Path], Callback]] = {
    "AttackGallery": lambda folder, trunk: AttackGallery(folder, 3, "squeeze", trunk),
    "AttackedItems": lambda folder, _: AttackedItems(folder, [3, 8], mean_rank=True),
    "CategoryBars": lambda folder, _: CategoryBars(folder, 8),
    "CategoryHitRatio": lambda folder, _: CategoryHitRatio([3, 8]),
    "PerceptualDistance": lambda folder, trunk: PerceptualDistance(folder, "squeeze", trunk),
    "RankingMetrics": lambda folder, _: RankingMetrics([3, 8]),
    "ResumableCheckpoint": lambda folder, _: ResumableCheckpoint(str(folder), "whole", every_n_batches=4),
    "WandbAxes": lambda folder, _: WandbAxes(),
    "WriteAttackedItems": lambda folder, _: WriteAttackedItems(folder / "items.csv", folder, [3, 8]),
    "WriteRecommendations": lambda folder, _: WriteRecommendations(folder / "recommendations.csv"),
    "WriteUserMetrics": lambda folder, _: WriteUserMetrics(folder / "users.csv", [3, 8], attack=folder),
}
"""By name, made of an attack's folder, into which they write as well, and of a file with the weights of LPIPS."""

OF_CLASSIFIERS: dict[str, Callable[[Path], Callback]] = {
    "AdversarialAccuracy": lambda folder: AdversarialAccuracy(PGD(epsilon=4.0, iterations=2, targeted=False), 21),
    "ResumableCheckpoint": lambda folder: ResumableCheckpoint(str(folder), "whole", every_n_batches=4),
    "RobustAccuracy": lambda folder: RobustAccuracy(folder, AutoAttack(iterations=2, num_targets=2, queries=3), 5),
    "WandbAxes": lambda folder: WandbAxes(),
    "WriteFeatures": lambda folder: WriteFeatures(folder),
    "WriteReachableShifts": lambda folder: WriteReachableShifts(folder, directions=1, iterations=1),
}
"""By name, made of a folder to write to."""

HOOKS = [name for name in vars(nn.Module()) if name.endswith("_hooks")]


class DrawingModel(VBPRModel):
    """Draws from all random generators while it learns, as dropout, sampling or a random start would."""

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        drawn = random.random() + np.random.random() + torch.rand(())  # noqa: NPY002 - the one that libraries share
        return super().loss(users, positives, negatives) * drawn


class DrawingVBPR(VBPR):
    """Trains a :class:`DrawingModel`."""

    def make_model(self, num_users: int, num_items: int, num_features: int) -> DrawingModel:
        return DrawingModel(num_users, num_items, num_features, self.settings)


def with_dropout(num_classes: int = 6) -> nn.Sequential:
    """Return a backbone with everything that has a state."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, num_classes),
    )


def drawing_recommender() -> DrawingVBPR:
    return DrawingVBPR(factors=4, visual_factors=4, top_k=[5])


def drawing_classifier() -> FreeAdversarialClassifier:
    return FreeAdversarialClassifier(backbone="observers.with_dropout", replays=2)


def run(
    make_trainer: Callable[..., Trainer],
    make_model: Callable[[], LightningModule],
    data: LightningDataModule,
    *callbacks: Callback,
    **settings: Any,
) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """Fit, test and predict; return what could be different after each, and the metrics that were logged."""
    seed_everything(0, verbose=False)
    model = make_model()
    saves = any(isinstance(callback, ResumableCheckpoint) for callback in callbacks)
    trainer = make_trainer(**{"max_epochs": 2} | settings, callbacks=list(callbacks), enable_checkpointing=saves)
    footprints, values = [], []
    for command in (trainer.fit, trainer.test, trainer.predict):
        before = dict(vars(data))
        command(model, data, **QUIETLY.get(command.__name__, {}))
        footprints.append(footprint(model, data, before))
        values.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    return footprints, values


QUIETLY = {"test": {"verbose": False}, "predict": {"return_predictions": False}}


def footprint(model: LightningModule, data: LightningDataModule, before: dict[str, Any]) -> dict[str, Any]:
    """Return all that a callback could have changed, in values that compare: tensors as their bytes.

    Args:
        model: What was run.
        data: Its data.
        before: The attributes of the data before the run.
    """
    generator = np.random.get_state()  # noqa: NPY002 - the one that libraries share
    plain = {name: value for name, value in vars(model).items() if isinstance(value, int | float | str | Tensor | None)}
    # Lightning makes an empty one when it saves.
    of_data = {name: value for name, value in vars(data).items() if name != "_hparams"}
    return {
        "attributes": set(vars(model)),
        "values": {name: plain_bytes(value) for name, value in plain.items()},
        "weights": {name: plain_bytes(value) for name, value in model.state_dict().items()},
        "gradients": {name: plain_bytes(parameter.grad) for name, parameter in model.named_parameters()},
        "is trained": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            f"{name} {kind}": len(getattr(module, kind)) for name, module in model.named_modules() for kind in HOOKS
        },
        "features": plain_bytes(model.model.features.features) if isinstance(model, VBPR) else None,
        "data's attributes": set(of_data),
        "data's changes": {name for name, value in of_data.items() if before.get(name, ...) is not value},
        "random numbers": (
            plain_bytes(torch.get_rng_state()),
            [part.tobytes() if isinstance(part, np.ndarray) else part for part in generator],
            random.getstate(),
        ),
        "torch": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
    }


def plain_bytes(value: Any) -> Any:
    """Return a tensor as its bytes, and anything else as it is."""
    return value.detach().to_dense().numpy().tobytes() if isinstance(value, Tensor) else value
