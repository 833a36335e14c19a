"""Where the tests of this folder compute."""

import contextlib
from collections.abc import Iterator

import torch

DEVICE = torch.device("cuda")
ACCELERATOR = "gpu"
"""What a Trainer calls it."""


def is_there() -> bool:
    """Return whether there is a GPU that PyTorch can use."""
    return torch.cuda.is_available()


@contextlib.contextmanager
def deterministic_kernels() -> Iterator[None]:
    """Let PyTorch take kernels alone that give the same bits whenever they are given the same."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
