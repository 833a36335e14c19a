"""Data loaders over whole batches, so that no Python runs per example."""

from collections.abc import Callable, Iterator
from typing import Any

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

    def loader(self, pin_memory: bool = False) -> DataLoader:
        """Return a loader that hands the batches on as they are, from the process that trains."""
        return DataLoader(self, batch_size=None, num_workers=0, pin_memory=pin_memory)


def check_shares(count: int, world_size: int, what: str) -> None:
    """Raise a CatwalkError if there is something to share out among processes, but not enough for each.

    Lightning cannot evaluate where one process has no batches at all.
    """
    if 0 < count < world_size:
        raise CatwalkError(f"{count} {what} cannot be divided among {world_size} processes: use fewer devices")
