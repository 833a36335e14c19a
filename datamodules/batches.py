"""Data loaders over whole batches, so that no Python runs per example."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from catwalk.errors import CatwalkError


class Batches(IterableDataset):
    """An iterable of ready batches, which can begin in the middle of a pass.

    Lightning puts a ``DistributedSampler`` into loaders over indexed datasets, which repeats examples until all ranks
    have equally many, and so changes every metric that counts. It leaves iterable datasets alone: whoever makes the
    batches gives each rank its own share.

    Args:
        make: Returns the batches of one pass, from the one with the number given to the last.
        length: Number of batches per pass.
    """

    def __init__(self, make: Callable[[int], Iterator[Any]], length: int) -> None:
        super().__init__()
        self.make = make
        self.length = length
        self._first = 0
        self._given = 0

    def __iter__(self) -> Iterator[Any]:
        first, self._first = self._first, 0
        for number, batch in enumerate(self.make(first), first + 1):
            self._given = number
            yield batch

    def __len__(self) -> int:
        return self.length

    @property
    def position(self) -> int:
        """How many batches of this pass have been given away; setting it lets the next pass begin there, once."""
        return self._given % max(self.length, 1)

    @position.setter
    def position(self, position: int) -> None:
        self._first = self._given = position

    def loader(self, pin_memory: bool = False) -> "BatchLoader":
        """Return a loader that hands the batches on as they are, from the process that trains."""
        return BatchLoader(self, pin_memory)


class BatchLoader(DataLoader):
    """A loader over :class:`Batches` that goes on where a killed run stopped, in the middle of an epoch.

    Lightning saves and restores the state of a training loader that has one.
    """

    dataset: Batches

    def __init__(self, batches: Batches, pin_memory: bool = False) -> None:
        # Every pass draws a seed for worker processes, of which there are none here: not from the global generator,
        # whose numbers a run that is resumed must find as they were.
        super().__init__(batches, batch_size=None, num_workers=0, pin_memory=pin_memory, generator=torch.Generator())

    def state_dict(self) -> dict[str, int]:
        """Return where this pass stands."""
        return {"position": self.dataset.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next pass begin there."""
        self.dataset.position = state_dict["position"]


def check_shares(count: int, world_size: int, what: str) -> None:
    """Raise a CatwalkError if there is something to share out among processes, but not enough for each.

    Lightning cannot evaluate where one process has no batches at all.
    """
    if 0 < count < world_size:
        raise CatwalkError(f"{count} {what} cannot be divided among {world_size} processes: use fewer devices")
