"""Importers: each writes a dataset folder, the one layout that everything else reads."""

from collections.abc import Callable

from catwalk.importers import amazon_release, amazon_reviews, fashion_mnist, folder, hm, synthetic

IMPORTERS: dict[str, Callable[..., None]] = {
    "amazon-release": amazon_release.amazon_release,
    "amazon-reviews": amazon_reviews.amazon_reviews,
    "fashion-mnist": fashion_mnist.fashion_mnist,
    "folder": folder.folder,
    "hm": hm.hm,
    "synthetic": synthetic.synthetic,
}
"""The importers by their names on the command line, ``catwalk data NAME``."""
