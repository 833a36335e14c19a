"""Protocols of data modules: what recommenders, classifiers and callbacks need of one, which may be anybody's own."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from catwalk.detectors import ItemRoles
from catwalk.errors import CatwalkError
from catwalk.files.watched import WatchedFiles
from catwalk.networks.features import FeatureTable
from catwalk.recommenders.feature_rows import FeatureRows
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.splits import Split
from catwalk.shop.user_items import SeenItems, UserItems


class RecommenderData(Protocol):
    """What a recommender and the callbacks that measure it need, such as ``datamodules.InteractionTriplets`` has it.

    The loaders give blocks of users, int64 ``(B,)``, and in training triplets of a user, an item bought and an item not
    bought, int64 ``(B,)`` each.

    Attributes:
        catalogue: The items.
        split: The purchases: what is trained on, and the users' own ids.
        feature_table: Features of the items; None where there are none. Who injects poisoned images sets others.
    """

    catalogue: Catalogue
    split: Split
    feature_table: FeatureTable | None

    @property
    def num_users(self) -> int:
        """Number of users, U."""

    @property
    def num_items(self) -> int:
        """Number of items, N."""

    def feature_rows(self, device: torch.device | str) -> FeatureRows:
        """Return the features of :attr:`feature_table` as recommenders use them, for a model on ``device``."""

    def held_out_items(self, stage: str) -> UserItems:
        """Return each user's held-out items of the stage ``val`` or ``test``."""

    def seen_items(self, stage: str) -> SeenItems:
        """Return what is not to be recommended to each user in the stage ``val`` or ``test``."""

    def may_be_tested(self, trained_on: str) -> bool:
        """Return whether what was trained on the purchases with a hash, ``Split.trained_on``, may be tested here."""


class PoisonableData(RecommenderData, Protocol):
    """What it takes besides to look at other features than those of the clean images.

    Attributes:
        features: Folder that :attr:`feature_table` was read from; None where there are none.
    """

    features: Path | None

    def read_features(self, folder: Path) -> FeatureTable:
        """Read features of the catalogue from a folder."""


class ClassifierData(Protocol):
    """What a classifier needs, such as ``datamodules.ProductImages`` has it.

    The loaders give images, float32 ``(N, 3, H, W)`` in [0, 1], with their categories, int64 ``(N,)``; for ``predict``
    they give :class:`~catwalk.shop.images.ItemImages`.

    Attributes:
        image_size: Height and width of all images; None where they keep their own.
    """

    image_size: tuple[int, int] | None

    @property
    def category_names(self) -> Sequence[str]:
        """Names of the C categories."""


class CatalogueImages(ClassifierData, Protocol):
    """What it takes besides to write the features of a catalogue.

    Attributes:
        catalogue: The items.
        watched: The files that the images come from, watched since before they were read.
    """

    catalogue: Catalogue
    watched: tuple[WatchedFiles, ...]


class DetectorData(Protocol):
    """What a detector of poisoned images needs, such as ``datamodules.PoisonedImages`` has it.

    The loaders give dictionaries of ``is_poisoned``, bool ``(N,)``, ``features``, float32 ``(N, D)`` of the classifier,
    and, where all are of one size, ``images``, float32 ``(N, 3, H, W)`` in [0, 1].

    Attributes:
        num_features: D.
        network_fingerprint: Fingerprint of the classifier.
        attack_names: Names of the attacks that it has images of.
        clean_per_poisoned: Clean training images for each attacked one.
        roles: By which it chose the items to train on.
    """

    num_features: int
    network_fingerprint: str
    attack_names: Sequence[str]
    clean_per_poisoned: float
    roles: ItemRoles


def recommender_data_of(trainer: Trainer, who: str = "a recommender") -> RecommenderData:
    """Return a Trainer's data module, which has what ``who`` needs of :class:`RecommenderData`.

    Raises:
        CatwalkError: If it lacks something, or there is none.
    """
    return cast(RecommenderData, _data_with(trainer, RecommenderData, who, "datamodules.InteractionTriplets"))


def tested_users(data: RecommenderData) -> Tensor:
    """Return the users who are validated and tested, int64, ascending: all, unless the data module says who.

    One that says so has them as ``tested_users``, and its loaders of users give no others.
    """
    chosen: Tensor | None = getattr(data, "tested_users", None)
    return torch.arange(data.num_users) if chosen is None else chosen


def poisonable_data_of(trainer: Trainer, who: str) -> PoisonableData:
    """Return a Trainer's data module, which has what ``who`` needs of :class:`PoisonableData`; see above."""
    return cast(PoisonableData, _data_with(trainer, PoisonableData, who, "datamodules.InteractionTriplets"))


def classifier_data_of(trainer: Trainer, who: str = "a classifier") -> ClassifierData:
    """Return a Trainer's data module, which has what ``who`` needs of :class:`ClassifierData`; see above."""
    return cast(ClassifierData, _data_with(trainer, ClassifierData, who, "datamodules.ProductImages"))


def detector_data_of(trainer: Trainer, who: str = "a detector") -> DetectorData:
    """Return a Trainer's data module, which has what ``who`` needs of :class:`DetectorData`; see above."""
    return cast(DetectorData, _data_with(trainer, DetectorData, who, "datamodules.PoisonedImages"))


def catalogue_images_of(trainer: Trainer, who: str) -> CatalogueImages:
    """Return a Trainer's data module, which has what ``who`` needs of :class:`CatalogueImages`; see above."""
    return cast(CatalogueImages, _data_with(trainer, CatalogueImages, who, "datamodules.ProductImages"))


def _data_with(trainer: Trainer, protocol: type, who: str, example: str) -> Any:
    data = getattr(trainer, "datamodule", None)
    if data is None:
        raise CatwalkError(f"data: {who} needs a data module, and the Trainer has none; give one, such as {example}")
    # Properties are not asked for what they give: they may be slow.
    lacking = [name for name in _members(protocol) if not hasattr(type(data), name) and not hasattr(data, name)]
    if lacking:
        raise CatwalkError(
            f"data: {who} needs a data module with {', '.join(lacking)}, and {type(data).__name__} has no such "
            f"attribute; add it, or give another one, such as {example}"
        )
    return data


def _members(protocol: type) -> list[str]:
    """Return the names of all attributes and methods that a protocol asks for."""
    ours = [kind for kind in protocol.__mro__ if kind.__module__ == __name__]
    names = [name for kind in ours for name in (*inspect.get_annotations(kind), *vars(kind))]
    return sorted({name for name in names if not name.startswith("_")})
