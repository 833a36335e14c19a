"""Data loaders over whole batches, so that no Python runs per example."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader, IterableDataset

from catwalk.errors import CatwalkError


class Batches(IterableDataset):
    """An iterable of ready batches.

    Lightning puts a ``DistributedSampler`` into loaders over indexed datasets, which repeats examples until all ranks
    have equally many, and so changes every metric that counts. It leaves iterable datasets alone: whoever makes the
    batches gives each rank its own share.

    Args:
        make: Returns the batches of one pass.
        length: Number of batches per pass.
    """

    def __init__(self, make: Callable[[], Iterator[Any]], length: int) -> None:
        super().__init__()
        self.make = make
        self.length = length

    def __iter__(self) -> Iterator[Any]:
        return self.make()

    def __len__(self) -> int:
        return self.length

    def loader(self, pin_memory: bool = False) -> "BatchLoader":
        """Return a loader that hands the batches on as they are, from the process that trains."""
        return BatchLoader(self, pin_memory=pin_memory)


class BatchLoader(DataLoader):
    """A loader over :class:`Batches`, with which a run that was killed goes on in the middle of an epoch."""

    def __init__(self, dataset: Batches, **settings: Any) -> None:  # the signature by which Lightning copies loaders
        # Every pass draws a seed for worker processes, of which there are none here: not from the global generator,
        # whose numbers a run that goes on must find as they were.
        super().__init__(dataset, **{"batch_size": None, "generator": torch.Generator(), **settings})

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: where an epoch stands is in Lightning's own state, and :func:`first_batch` reads it there.

        Lightning asks for a state to know that a loader can go on. It does not bring the state back, though, when the
        loader was made for the count of its batches, before the checkpoint is read.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing; see :meth:`state_dict`."""


def first_batch(trainer: Trainer | None) -> int:
    """Return the batch with which the epoch that now begins is to begin: 0 unless a killed run goes on in mid-epoch."""
    return 0 if trainer is None else trainer.fit_loop.batch_idx + 1


def check_shares(count: int, world_size: int, what: str) -> None:
    """Raise a CatwalkError if there is something to share out among processes, but not enough for each.

    Lightning cannot evaluate where one process has no batches at all.
    """
    if 0 < count < world_size:
        raise CatwalkError(f"{count} {what} cannot be divided among {world_size} processes: use fewer devices")
