"""An attack on the tiny shop, and what its results come to without the callbacks that measure them."""

import csv
from pathlib import Path

import numpy as np
from visual_models import parameters_of

from catwalk.attacks import PGD
from catwalk.poisoning.poison import poison
from datamodules import InteractionTriplets

SOURCE, TARGET = "Sandal", "Sneaker"


def attack(trained, folder: Path) -> Path:
    """Attack the shop that a CNN was trained on, write what comes of it into a folder, and return that."""
    pgd = PGD(epsilon=32.0)
    poison(trained.classifier, pgd, trained.catalogue, trained.table, folder, source=SOURCE, target=TARGET)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ranked_candidates(scores: np.ndarray, bought: np.ndarray) -> list[list[int]]:
    """Return each user's candidates, the best first, equal scores by item number."""
    return [
        sorted(np.flatnonzero(~own).tolist(), key=lambda item: (-row[item], item))
        for row, own in zip(scores.tolist(), bought, strict=True)
    ]


def scores_of(model, data: InteractionTriplets, features: np.ndarray) -> np.ndarray:
    """Return what a VBPR scores with some features, float64 ``(U, N)``, by the formula itself."""
    p, q, rho, e = (weight.detach().double().numpy() for weight in parameters_of(model.model))
    scale = float(data.feature_table.scale)
    return p @ q.T + rho @ (features.astype(np.float64) / scale @ e).T
