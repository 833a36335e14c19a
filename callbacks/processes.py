"""Values of all processes, gathered for callbacks."""

from typing import Any, TypeVar

import torch.distributed

T = TypeVar("T")


def gather(own: list[T], world_size: int) -> list[T]:
    """Return what all processes have collected, those of process 0 first; in every process.

    Args:
        own: What this process has collected, tensors on the CPU.
        world_size: Number of processes.
    """
    if world_size == 1:
        return own
    everyone: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(everyone, own)
    return [part for share in everyone for part in share]
