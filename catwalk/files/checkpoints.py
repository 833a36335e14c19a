"""Checkpoints, read as tensors and plain values: code in them is refused."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from catwalk.errors import CatwalkError


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's tensors and plain values; code in it is refused.

    Raises:
        CatwalkError: If the file is missing, unreadable or damaged, by the checksums in it.
    """
    if not Path(path).is_file():
        raise CatwalkError(f"checkpoint {path} does not exist")
    try:
        verify_checksums(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if reason.startswith("Weights only load failed"):  # and goes on with advice to run the code in it
            reason = "it is none, is damaged, or holds code, which is never run"
        raise CatwalkError(f"checkpoint {path} cannot be read: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise CatwalkError(f"checkpoint {path} holds no dictionary")
    return checkpoint


def verify_checksums(path: str | Path) -> None:
    """Compare the parts of a file of PyTorch with the checksums that were written with them: PyTorch does not.

    Files in PyTorch's old format have none.

    Raises:
        ValueError: If a part was changed.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged.partition('/')[2] or damaged} in it was changed after it was written")
