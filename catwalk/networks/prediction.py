"""Features and predicted categories of images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catwalk.errors import CatwalkError
from catwalk.networks.batching import Bucket, padded_batches, size_buckets
from catwalk.networks.frozen import exact_convolutions
from catwalk.networks.network import Network
from catwalk.shop.decoding import UInt8Array
from catwalk.shop.images import to_float


class Predictions(NamedTuple):
    """What a network says of some images; a tuple, which Lightning can move between devices.

    Attributes:
        features: float32 ``(N, D)``.
        categories: The most probable category, int64 ``(N,)``; of equal ones the first.
        probabilities: Its softmax probability, float32 ``(N,)``.
    """

    features: Tensor
    categories: Tensor
    probabilities: Tensor


@torch.inference_mode()
@exact_convolutions()
def predict(
    network: Network,
    levels: Tensor | Sequence[UInt8Array],
    batch_size: int = 256,
    buckets: Sequence[Bucket] | None = None,
) -> Predictions:
    """Run a network over images, in exact float32; the results have the same bits for every ``batch_size``.

    Args:
        network: In eval mode.
        levels: uint8 ``(N, 3, H, W)``, or N images of uint8 ``(3, H, W)``, each of its own size.
        batch_size: Images per forward pass.
        buckets: Which images share forward passes;
            by :func:`~catwalk.networks.batching.size_buckets` of these images if None.

    Returns:
        Features, categories and probabilities, in the order of the images and on the CPU.

    Raises:
        CatwalkError: If the network does not take images of a size.
        ValueError: If there are no images.
    """
    if len(levels) == 0:
        raise ValueError("predict needs at least one image")
    buckets = _buckets_of(levels) if buckets is None else buckets
    parts = []
    for bucket in buckets:
        for places, count in padded_batches(len(bucket.rows), batch_size, bucket.alone):
            batch = _batch(levels, bucket.rows[places.numpy()]).to(network.mean.device)
            parts.append([outputs[:count] for outputs in _features_and_logits(network, batch)])
    order = torch.from_numpy(np.concatenate([bucket.rows for bucket in buckets]).argsort())
    features, logits = (torch.cat(column)[order] for column in zip(*parts, strict=True))
    # By the logits, as attacks judge it: different ones may round to the same probability.
    categories = logits.argmax(dim=1)
    probabilities = logits.softmax(dim=1).gather(1, categories[:, None]).squeeze(1)
    return Predictions(features, categories, probabilities)


def _buckets_of(levels: Tensor | Sequence[UInt8Array]) -> list[Bucket]:
    if isinstance(levels, Tensor):
        return [Bucket(np.arange(len(levels)), alone=False)]
    return size_buckets(image.shape[1:] for image in levels)


def _batch(levels: Tensor | Sequence[UInt8Array], rows: NDArray[np.int64]) -> Tensor:
    """Return images of one size as uint8 ``(n, 3, H, W)``."""
    if isinstance(levels, Tensor):
        return levels[torch.from_numpy(rows).to(levels.device)]
    return torch.from_numpy(np.stack([levels[row] for row in rows]))


def _features_and_logits(network: Network, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return float32 features and logits, on the CPU, of uint8 images ``(n, 3, H, W)``."""
    try:
        features = network.features(to_float(levels)).float()
        logits = network.head(features).float()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError) as error:  # by which torch and timm say that a size does not fit
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CatwalkError(
            f"the network fails on images of {levels.shape[3]}×{levels.shape[2]}: {reason}; if it does not take that "
            "size, give an image_size"
        ) from error
    return features.cpu(), logits.cpu()
