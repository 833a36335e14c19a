"""Random trunks in files of torchvision's form."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from random_trunks import random_trunk

from catwalk.perceptual.trunks import TrunkName


@pytest.fixture(scope="session")
def trunk_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrunkName], Path]:
    """Return a function that gives the file of a random trunk."""
    folder = tmp_path_factory.mktemp("trunks")

    @functools.cache
    def file(net: TrunkName) -> Path:
        torch.save(random_trunk(net), folder / f"{net}.pth")
        return folder / f"{net}.pth"

    return file
