"""A shop's clean items as a network sees them, by what each is for: fitting, calibrating, or judging a detector."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catwalk.detectors import ItemRoles, Reference
from catwalk.detectors.item_roles import Role
from catwalk.networks.classifier import Classifier
from catwalk.networks.network import Network, network_fingerprint
from catwalk.networks.prediction import predict
from catwalk.poisoning.poison import declared_categories
from catwalk.shop.catalogue import Catalogue, item_names
from catwalk.shop.decoding import UInt8Array
from catwalk.shop.images import ReportProgress, StoredImages, store_images


@dataclass(frozen=True, eq=False)
class CleanItems:
    """The clean items of a catalogue, seen by one network.

    Attributes:
        catalogue: The catalogue.
        network: The network.
        fingerprint: Of the network.
        images: Every item's image.
        features: float32 ``(N, D)``.
        declared: The category that each is listed under, int64 ``(N,)`` by the network's numbers, -1 where it does not
            tell it.
        roles: Which of them are for what.
    """

    catalogue: Catalogue
    network: Network
    fingerprint: str
    images: StoredImages
    features: Tensor
    declared: Tensor
    roles: ItemRoles

    @classmethod
    def see(
        cls, classifier: Classifier, catalogue: Catalogue, roles: ItemRoles, progress: ReportProgress | None = None
    ) -> "CleanItems":
        """Run a network over a catalogue.

        Args:
            classifier: The network.
            catalogue: The catalogue.
            roles: Which items are for what.
            progress: Called as images are decoded.
        """
        names = item_names(catalogue)
        images = store_images(catalogue.folder, catalogue.images, classifier.image_size, names=names, progress=progress)
        network = classifier.network
        features = predict(network, [images[row] for row in range(len(images))]).features.clone()
        declared = declared_categories(catalogue, classifier.category_names)
        return cls(catalogue, network, network_fingerprint(network), images, features, declared, roles)

    def with_role(self, role: Role) -> NDArray[np.bool_]:
        """Return which items have a role, bool ``(N,)``."""
        return self.roles.has(role, torch.from_numpy(self.catalogue.keys)).numpy()

    def levels(self, items: NDArray[np.int64]) -> list[UInt8Array]:
        """Return the images of items, uint8 ``(3, H, W)`` each."""
        return [self.images[item] for item in items]

    @property
    def reference(self) -> Reference:
        """The items to fit a detector to."""
        trusted = torch.from_numpy(self.with_role("fit"))
        return Reference(self.features[trusted], self.declared[trusted], self.fingerprint, self.roles)
