"""Finding the shifts of features that perturbations of a catalogue's images can reach."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catwalk.attacks.feature_shift import FeatureShift
from catwalk.limits import check_memory
from catwalk.networks.batching import size_buckets
from catwalk.networks.classifier import Classifier
from catwalk.networks.features import FeatureTable
from catwalk.networks.network import Network
from catwalk.networks.prediction import predict
from catwalk.poisoning.attack_files import AttackedItem
from catwalk.recommenders.reachable_shifts import ReachableShifts, ShiftSettings
from catwalk.shop.catalogue import Catalogue
from catwalk.shop.decoding import UInt8Array, decode, decode_item
from catwalk.shop.images import ReportProgress, to_float

Share = tuple[NDArray[np.int64], Tensor]
"""Some of the rows, int64 ``(n,)``, and their shifts, ``(n, J, D)``."""


def principal_directions(features: Tensor, number: int) -> Tensor:
    """Return the first principal components of features, unit vectors, float32 ``(m, D)`` with ``m ≤ number``.

    They are the directions in which the items of the catalogue differ most, and so those by which a recommender can
    tell them apart. Components without variance are left out; signs are such that the largest entry is positive.

    Args:
        features: ``(N, D)``.
        number: How many.
    """
    centred = features.double() - features.double().mean(dim=0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    kept = values.flip(0)[:number] > 1e-9 * values[-1]
    directions = vectors.T.flip(0)[:number][kept]
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return (directions * largest.sign()).float()


def find_shifts(
    classifier: Classifier,
    catalogue: Catalogue,
    table: FeatureTable,
    settings: ShiftSettings = ShiftSettings(),  # noqa: B008 - frozen
    *,
    rank: int = 0,
    world_size: int = 1,
    gather: Callable[[Share], Sequence[Share]] = lambda share: [share],
    progress: ReportProgress | None = None,
) -> ReachableShifts:
    """Find, for every item, shifts of its features that perturbations of its image within ε reach.

    Along each direction, to and fro, :class:`~catwalk.attacks.feature_shift.FeatureShift` moves the image; it becomes
    an 8-bit image, and its features, less those of the image itself, are the shift. Costs ``2 · directions ·
    iterations`` forward and backward passes for each item.

    Args:
        classifier: The network whose features recommenders look at.
        catalogue: The clean catalogue.
        table: Its features, whose principal components are the directions.
        settings: How to search.
        rank: This process, ``0..world_size - 1``, which finds a share.
        world_size: Number of processes.
        gather: Returns the shares of all processes.
        progress: Called with the number of items and directions that are done, and of all.

    Raises:
        TooLargeError: If there is no memory for so many shifts.
        CatwalkError: If an image cannot be decoded.
    """
    directions = principal_directions(table.features, settings.directions)
    _check_memory(len(catalogue), directions, settings)
    levels = [decode_item(catalogue, item, classifier.image_size) for item in range(len(catalogue))]
    share = _share(classifier.network, levels, directions, settings, rank, world_size, progress)
    shifts = torch.zeros(len(catalogue), 2 * len(directions), directions.shape[1])
    for rows, found in gather(share):
        shifts[torch.from_numpy(rows)] = found
    return ReachableShifts(shifts, directions, settings, table.catalogue, table.network)


def shifts_of_attacked(
    clean: ReachableShifts,
    classifier: Classifier,
    items: NDArray[np.int64],
    rows: Sequence[AttackedItem],
    folder: Path,
    progress: ReportProgress | None = None,
) -> ReachableShifts:
    """Return the shifts of a catalogue whose images an attack has changed: those that its shop would find.

    Args:
        clean: The shifts of the clean catalogue; those of items that are not attacked stay.
        classifier: The network.
        items: The attacked items, int64 ``(n,)``.
        rows: What the attack did to each, which names its image.
        folder: The attack's folder.
        progress: As of :func:`find_shifts`.
    """
    levels = [decode(folder / row.image) for row in rows]
    found = _share(classifier.network, levels, clean.directions, clean.settings, 0, 1, progress)
    shifts = clean.shifts.clone()
    shifts[torch.from_numpy(items[found[0]])] = found[1]
    return ReachableShifts(shifts, clean.directions, clean.settings, clean.catalogue, clean.network)


def _share(
    network: Network,
    levels: Sequence[UInt8Array],
    directions: Tensor,
    settings: ShiftSettings,
    rank: int,
    world_size: int,
    progress: ReportProgress | None,
) -> Share:
    """Return a process's share of the rows, images of one size together, and their shifts."""
    device, step = network.mean.device, 2.5 * settings.epsilon / settings.iterations
    attack = FeatureShift(settings.epsilon, step, settings.iterations)
    ball = attack.threat_model
    along = torch.cat([directions, -directions]).to(device)
    buckets = [
        bucket._replace(rows=bucket.rows[rank::world_size])
        for bucket in size_buckets(image.shape[1:] for image in levels)
    ]
    buckets = [bucket for bucket in buckets if len(bucket.rows)]
    total, done, parts = sum(len(bucket.rows) for bucket in buckets) * len(along), 0, []
    for bucket in buckets:
        eight_bit = torch.from_numpy(np.stack([levels[row] for row in bucket.rows])).to(device)
        clean = to_float(eight_bit)
        whole = [bucket._replace(rows=np.arange(len(bucket.rows)))]
        start, moved = predict(network, eight_bit, buckets=whole).features, []
        for direction in along:
            targets = direction.expand(len(clean), -1).clone()
            result = attack(network, clean, targets, alone=bucket.alone)
            perturbed = ball.quantise(result.images, clean)
            moved.append(predict(network, perturbed, buckets=whole).features - start)
            done += len(clean)
            if progress is not None:
                progress(done, total)
        parts.append(torch.stack(moved, dim=1))
    rows = np.concatenate([bucket.rows for bucket in buckets]) if buckets else np.zeros(0, np.int64)
    return rows, torch.cat(parts) if parts else torch.zeros(0, len(along), directions.shape[1])


def _check_memory(num_items: int, directions: Tensor, settings: ShiftSettings) -> None:
    number, size = directions.shape
    check_memory(
        4 * num_items * 2 * number * size,
        f"shifts of {num_items} items along {number} directions of {size} features",
        "give fewer shifts.directions",
    )
