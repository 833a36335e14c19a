"""Base of all detectors: the contract, and the scores of many images."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from catwalk.detectors.item_roles import ItemRoles
from catwalk.errors import CatwalkError
from catwalk.networks.batching import padded_batches, size_buckets
from catwalk.networks.frozen import eval_mode, exact_convolutions
from catwalk.shop.decoding import UInt8Array
from catwalk.shop.images import to_float

UNKNOWN = -1
"""Declared category of an item whose category the network does not tell."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Clean items that a shop trusts, as a network sees them: what a detector is fitted to.

    Attributes:
        features: float32 ``(M, D)``.
        declared: The category that each was uploaded under, int64 ``(M,)``, by the network's numbers;
            :data:`UNKNOWN` where it has none.
        network: Fingerprint of the network; None where it is not known.
        roles: By which these items were chosen; None where that is not known.
    """

    features: Tensor
    declared: Tensor
    network: str | None = None
    roles: ItemRoles | None = None


class Score(Protocol):
    """How suspect images are."""

    def __call__(self, network: nn.Module, images: Tensor, logits: Tensor, declared: Tensor) -> Tensor:
        """Return a number for each image, the higher the more suspect; gradients flow to the images.

        Args:
            network: In eval mode; takes images, returns logits ``(N, C)``, and has a method ``features``.
            images: float32 ``(N, 3, H, W)`` in [0, 1].
            logits: What the network returns of them.
            declared: The category that each is uploaded under, int64 ``(N,)`` in 0..C-1, or :data:`UNKNOWN`.

        Returns:
            float32 ``(N,)``; each depends on its own image alone.
        """


class Detector(abc.ABC):
    """Tells poisoned images from clean ones by a score. A subclass is a dataclass of its settings."""

    @property
    def title(self) -> str:
        """Name of the method, for tables."""
        return type(self).__name__

    @property
    def passes(self) -> int:
        """How often an image goes through the network for a score, beside the once that gives its logits."""
        return 0

    @abc.abstractmethod
    def fitted(self, reference: Reference) -> Score:
        """Return the score, fitted to clean items.

        Args:
            reference: The items; none of them is judged afterwards.

        Raises:
            CatwalkError: If they do not fit the detector.
        """


def check_declared(declared: Tensor) -> None:
    """Raise a CatwalkError where an item's declared category is none of the network's."""
    unknown = (declared < 0).nonzero()
    if len(unknown):
        raise CatwalkError(
            "detector: compares with the declared category, and that of an item is none of the network's categories: "
            "take a network that was trained on the shop's categories, or a detector that needs none, such as "
            "FeatureSqueezing"
        )


def features_of(network: nn.Module, images: Tensor, size: int) -> Tensor:
    """Return a network's features of images, float32 ``(N, D)``.

    Args:
        network: Has a method ``features``.
        images: float32 ``(N, 3, H, W)`` in [0, 1].
        size: D, as the detector knows it.

    Raises:
        CatwalkError: If the network gives other ones.
    """
    features: Tensor = network.features(images).float()  # type: ignore[operator]
    if features.shape[1] != size:
        raise CatwalkError(
            f"detector: was fitted to {size} features, and the network gives {features.shape[1]}: fit it to those of "
            "the network that it is to protect"
        )
    return features


@torch.inference_mode()
@exact_convolutions()
def scores_of(
    score: Score, network: nn.Module, levels: Sequence[UInt8Array], declared: Tensor, batch_size: int = 64
) -> Tensor:
    """Return the score of each image, in exact float32; the same bits for every ``batch_size``.

    Args:
        score: A fitted detector's.
        network: Takes images in [0, 1], returns logits; it runs in eval mode.
        levels: N images, uint8 ``(3, H, W)``, each of its own size.
        declared: As :class:`Score` takes it.
        batch_size: Images per forward pass.

    Returns:
        float32 ``(N,)`` on the CPU; empty for no images.

    Raises:
        CatwalkError: If a score is not finite.
    """
    device = next(network.parameters()).device
    scores = torch.zeros(len(levels))
    with eval_mode(network):
        for bucket in size_buckets(image.shape[1:] for image in levels):
            for places, count in padded_batches(len(bucket.rows), batch_size, bucket.alone):
                rows = bucket.rows[places.numpy()]
                images = to_float(torch.from_numpy(np.stack([levels[row] for row in rows])).to(device))
                found = score(network, images, network(images).float(), declared[torch.from_numpy(rows)].to(device))
                scores[torch.from_numpy(rows[:count])] = found[:count].float().cpu()
    if not bool(scores.isfinite().all()):
        raise CatwalkError("detector: its score of an image is not finite; check the network's weights")
    return scores
