"""Resuming: what a training that goes on must have in common with the one that was broken off."""

from collections.abc import Mapping
from typing import Any

import torch

from catwalk.errors import CatwalkError
from catwalk.keyed_random import derived_seed

TRAINING = "training"
"""Entry of a checkpoint: the seed of the training's random numbers, and its shape."""


class Resuming:
    """The seed and the shape of a training, kept in its checkpoints, and compared where it goes on from one of them."""

    def __init__(self) -> None:
        self._seed: int | None = None
        self._shape: dict[str, Any] = {}
        self._began_as: Mapping[str, Any] | None = None

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add the training to a checkpoint, once it has begun."""
        if self._seed is not None:
            checkpoint[TRAINING] = {"random_seed": self._seed, **self._shape}

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the training from the checkpoint that it goes on from."""
        self._began_as = checkpoint.get(TRAINING)

    def take_seed(self) -> None:
        """Take the seed of the run's random numbers from the checkpoint that it goes on from, or from the user."""
        self._seed = torch.initial_seed() if self._began_as is None else self._began_as["random_seed"]

    def take_shape(self, shape: dict[str, Any]) -> None:
        """Take the shape of the training, by what users call its parts, and compare it with that of the checkpoint.

        Raises:
            CatwalkError: If they differ.
        """
        for what, now in shape.items():
            then = now if self._began_as is None else self._began_as.get(what, now)
            if then != now:
                raise CatwalkError(
                    f"ckpt_path: its training had {then} as {what} and this one has {now}, so it cannot go on there; "
                    "give the same, or begin a new training with its weights (model.weights instead of ckpt_path)"
                )
        self._shape, self._began_as = shape, None

    def seed_batch(self, epoch: int, batch: int, process: int) -> None:
        """Let torch's global random numbers depend on seed, epoch, batch and process alone."""
        assert self._seed is not None
        torch.manual_seed(derived_seed(self._seed, epoch, batch, process))
