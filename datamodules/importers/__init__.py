"""Importers: each writes a dataset folder, the one layout that everything else reads."""

from collections.abc import Callable

from datamodules.importers import fashion_mnist, hm, synthetic

IMPORTERS: dict[str, Callable[..., None]] = {
    "fashion-mnist": fashion_mnist.fashion_mnist,
    "hm": hm.hm,
    "synthetic": synthetic.synthetic,
}
"""The importers by their names on the command line, ``catwalk data NAME``."""
