"""What a recommender hands to callbacks, written down user by user."""

from dataclasses import dataclass

import numpy as np

from datamodules import InteractionTriplets
from lightning_modules import Recommender


@dataclass(frozen=True)
class User:
    """A user's list, held-out items and AUC, in plain numbers."""

    user: int
    items: list[int]
    targets: list[int]
    auc: float


def record(model: Recommender, stage: str) -> list[User]:
    """Return a list that fills with the users that the model ranks from now on, in ``val`` or ``test``."""
    found: list[User] = []
    name = f"{'validation' if stage == 'val' else stage}_step"
    step = getattr(model, name)

    def step_and_tell(*arguments):
        ranking = step(*arguments)
        columns = (ranking[name].tolist() for name in ("users", "recommended", "targets", "auc"))
        for user, items, targets, auc in zip(*columns, strict=True):
            found.append(User(user, items, [target for target in targets if target >= 0], auc))
        return ranking

    setattr(model, name, step_and_tell)
    return found


def bought(data: InteractionTriplets, stage: str) -> np.ndarray:
    """Return what each user may not be shown in a stage, bool ``(U, N)``."""
    matrix = np.zeros((data.num_users, data.num_items), dtype=bool)
    matrix[data.split.users, data.split.items] = True
    if stage == "test":
        matrix[data.split.validation.users, data.split.validation.items] = True
    return matrix
