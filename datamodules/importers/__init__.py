"""Importers: each writes a dataset folder, the one layout that everything else reads."""

from collections.abc import Callable

from datamodules.importers.fashion_mnist import fashion_mnist
from datamodules.importers.synthetic import synthetic

IMPORTERS: dict[str, Callable[..., None]] = {"fashion-mnist": fashion_mnist, "synthetic": synthetic}
"""The importers by their names on the command line, ``catwalk data NAME``."""
