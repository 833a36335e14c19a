"""Feature matrices that are put together from those of two networks, as the paper's published code does."""

import hashlib
import json

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.networks.features import FeatureTable
from catwalk.poisoning.protocol import FeatureScale
from catwalk.shop.catalogue import Catalogue

BLOCK_ROWS = 4096
"""Items whose features are brought to another scale at once."""


def mix_features(
    catalogue: Catalogue,
    *,
    background: FeatureTable,
    rows: FeatureTable,
    items: NDArray[np.int64],
    categories: FeatureTable,
    scale: FeatureScale,
) -> FeatureTable:
    """Return features that are one network's in some rows, and another's in all others.

    The paper's published attack on a defended network takes the *undefended* network's feature matrix and overwrites
    the attacked rows with the defended network's features. With the defended network's clean features in those rows
    this is a sham: nothing is attacked, and what a recommender makes of it is made by the mixing alone.

    Recommenders divide features by :attr:`FeatureTable.scale`. Two networks have features of different size, so it must
    be said what each row is divided by:

    ``clean``
        Every row by the largest absolute value of the clean features of *its own* network: both networks' clean
        features have 1 as their largest value, and stand on an equal footing.
    ``own_matrix``
        All rows by the largest absolute value of the mixed matrix itself, as the published code does: the network with
        the smaller features has less to say, and an attack that enlarges the largest feature makes all others smaller.

    The result is stated in the units of the network that the ``rows`` are of: its ``scale`` is always
    ``rows.scale``, and the features are multiplied by whatever makes the quotients the above. So a recommender that was
    trained on the clean features of that network may be tested on the mixed ones. Of one network, and by its
    ``clean`` scale, the result is ``rows`` at ``items`` and ``background`` elsewhere, to the bit.

    Args:
        catalogue: The catalogue.
        background: The features of the items that are not in ``items``.
        rows: The features of those that are: poisoned, or clean for a sham.
        items: int64 ``(n,)`` in ``0..N-1``, each once.
        categories: The table whose categories, probabilities and category names the result has.
        scale: What the rows are divided by, see above.

    Returns:
        The table; what it says of its network is a hash of those of the three, unless all are the same network and
        nothing has been rescaled.

    Raises:
        CatwalkError: If the tables are of other catalogues, or of networks with features of different length.
        ValueError: If an item is not in the catalogue, or occurs twice.
    """
    _check(catalogue, background, rows, categories)
    if len(np.unique(items)) < len(items) or (len(items) and not 0 <= items.min() <= items.max() < len(catalogue)):
        raise ValueError(f"items: must be different numbers in 0..{len(catalogue) - 1}")
    changed = torch.from_numpy(items)
    mixed, attacked = background.features.clone(), rows.features[changed].to(background.features.dtype)
    if scale == "clean":
        _multiply(mixed, rows.scale / background.scale)
        mixed[changed] = attacked
    else:
        mixed[changed] = attacked
        largest = max(float(mixed.max()), -float(mixed.min()))
        if not largest > 0:
            raise CatwalkError("feature_scale is own_matrix, and all features of the matrix are 0: train the networks")
        _multiply(mixed, rows.scale / largest)
    networks = [background.network, rows.network, categories.network]
    is_plain = len(set(networks)) == 1 and scale == "clean"
    return FeatureTable(
        features=mixed,
        categories=categories.categories,
        probabilities=categories.probabilities,
        category_names=categories.category_names,
        scale=rows.scale,
        catalogue=rows.catalogue,
        network=rows.network if is_plain else _combined([*networks, scale]),
    )


def _check(catalogue: Catalogue, background: FeatureTable, rows: FeatureTable, categories: FeatureTable) -> None:
    """Raise a CatwalkError unless the tables are of the catalogue, and their features of one length."""
    for name, table in (("background", background), ("attacked rows", rows), ("categories", categories)):
        if table.catalogue != catalogue.fingerprint:
            raise CatwalkError(
                f"mixed features: the {name} were made of another catalogue than {catalogue.folder}; extract them "
                "again with `catwalk predict`"
            )
    widths = background.features.shape[1], rows.features.shape[1]
    if widths[0] != widths[1]:
        raise CatwalkError(
            f"mixed features: the undefended network has {widths[0]} features per item and the defended one "
            f"{widths[1]}, which cannot stand in one matrix: take networks of one architecture, or let "
            "protocol.background_features be network"
        )


def _multiply(features: Tensor, factor: float) -> None:
    """Multiply features ``(N, D)`` in place, each rounded once."""
    if factor == 1:
        return
    for block in features.split(BLOCK_ROWS):
        block.copy_(block.double() * factor)


def _combined(parts: list[str]) -> str:
    """Return the fingerprint of what several networks made together."""
    return hashlib.sha256(json.dumps(["mixed features", *parts]).encode()).hexdigest()
