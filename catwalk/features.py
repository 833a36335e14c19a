"""The features of every item and the category that the network sees in it, as tensors and as files."""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from catwalk.backbones import Network
from catwalk.batching import Bucket, padded_batches, size_buckets
from catwalk.catalogue import Catalogue
from catwalk.errors import CatwalkError
from catwalk.images import UInt8Array, to_float
from catwalk.tables import read_table

FEATURES_FILE = "features.safetensors"
PREDICTIONS_FILE = "predictions.csv"
STAMP = "catwalk"
"""The entry of the file's metadata that says what the features were made of."""


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
def predict(
    network: Network,
    levels: Tensor | Sequence[UInt8Array],
    batch_size: int = 256,
    buckets: Sequence[Bucket] | None = None,
) -> Predictions:
    """Run a network over images; the results have the same bits for every ``batch_size``.

    Args:
        network: In eval mode.
        levels: uint8 ``(N, 3, H, W)``, or N images of uint8 ``(3, H, W)``, each of its own size.
        batch_size: Images per forward pass.
        buckets: Which images share forward passes; by :func:`~catwalk.batching.size_buckets` of these images if None.

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


@dataclass(frozen=True)
class FeatureTable:
    """Features of a whole catalogue, made by one network, with the category of every item *before any attack*.

    Attributes:
        features: float32 ``(N, D)``.
        categories: Category that the network sees in the clean image, int64 ``(N,)`` in ``0..C-1``.
        probabilities: Its probability, float32 ``(N,)`` in [0, 1].
        category_names: The network's C categories.
        scale: Largest absolute value of the *clean* features. Recommenders divide by it, poisoned or not, so that an
            attack cannot rescale the items that it does not touch.
        catalogue: Fingerprint of the catalogue.
        network: Fingerprint of the network.
    """

    features: Tensor
    categories: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    category_names: tuple[str, ...]
    scale: float
    catalogue: str
    network: str

    @classmethod
    def from_predictions(
        cls, predictions: Predictions, category_names: tuple[str, ...], catalogue: str, network: str
    ) -> "FeatureTable":
        """Make the table of a clean catalogue."""
        scale = float(predictions.features.abs().max())
        if not (np.isfinite(scale) and scale > 0):
            raise CatwalkError(f"the network's features are unusable: their largest absolute value is {scale}")
        return cls(
            features=predictions.features,
            categories=predictions.categories.numpy(),
            probabilities=predictions.probabilities.numpy(),
            category_names=category_names,
            scale=scale,
            catalogue=catalogue,
            network=network,
        )

    def poisoned(self, items: NDArray[np.int64], features: Tensor) -> "FeatureTable":
        """Return a copy in which the features of ``items`` are ``features``, and nothing else differs."""
        changed = self.features.clone()
        changed[torch.from_numpy(items)] = features
        return replace(self, features=changed)

    def write(self, folder: Path, catalogue: Catalogue) -> None:
        """Write ``features.safetensors`` and ``predictions.csv`` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        # Last comes the file whose presence says that the folder is complete.
        path, partial = folder / FEATURES_FILE, folder / f".{FEATURES_FILE}.{os.getpid()}"
        path.unlink(missing_ok=True)
        with (folder / PREDICTIONS_FILE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["item_id", "category", "probability"])
            rows = zip(catalogue.item_ids, self.categories, self.probabilities, strict=True)
            # Nine digits bring a float32 back exactly.
            writer.writerows([item, self.category_names[category], f"{share:.9g}"] for item, category, share in rows)
        stamp = {
            "category_names": self.category_names,
            "scale": self.scale,
            "catalogue": self.catalogue,
            "network": self.network,
        }
        # As one entry: safetensors writes several in an order that changes from file to file.
        metadata = {STAMP: json.dumps(stamp, ensure_ascii=False)}
        try:
            safetensors.torch.save_file({"features": self.features.contiguous()}, partial, metadata)
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: str | Path, catalogue: Catalogue) -> "FeatureTable":
        """Read the features that were made of a catalogue.

        Raises:
            CatwalkError: If there are none, they are damaged, or they were made of another catalogue.
        """
        path = Path(folder) / FEATURES_FILE
        if not path.is_file():
            raise CatwalkError(
                f"there are no features in {folder}: {FEATURES_FILE} is missing; `catwalk predict` with a trained "
                "classifier writes it"
            )
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                stamp = json.loads((file.metadata() or {})[STAMP])
                features = file.get_tensor("features")
            names = tuple(stamp["category_names"])
            scale, made_of, made_by = float(stamp["scale"]), stamp["catalogue"], stamp["network"]
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CatwalkError(f"{path} cannot be read: {error}") from error
        if made_of != catalogue.fingerprint:
            raise CatwalkError(
                f"{path} was made of another catalogue than {catalogue.folder} (or its images have changed since): "
                "extract the features again with `catwalk predict`"
            )
        if len(features) != len(catalogue):
            raise CatwalkError(f"{path} holds {len(features)} rows of features for the {len(catalogue)} items")
        predictions_path = Path(folder) / PREDICTIONS_FILE
        predictions = read_table(predictions_path, ["item_id", "category", "probability"])
        if tuple(predictions.column("item_id").to_pylist()) != catalogue.item_ids:
            raise CatwalkError(f"{predictions_path} does not list the items of {catalogue.folder}")
        numbers = {name: number for number, name in enumerate(names)}
        try:
            categories = np.array([numbers[name] for name in predictions.column("category").to_pylist()])
            probabilities = np.array(predictions.column("probability").to_pylist(), dtype=np.float32)
        except (KeyError, ValueError) as error:
            raise CatwalkError(f"{predictions_path} is damaged, extract the features again: {error}") from error
        return cls(
            features=features,
            categories=categories,
            probabilities=probabilities,
            category_names=names,
            scale=scale,
            catalogue=made_of,
            network=made_by,
        )
