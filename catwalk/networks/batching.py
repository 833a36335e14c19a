"""Running a function over many rows in batches whose sizes do not show in the result."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROW_MULTIPLE = 16
"""Kernels pick their blocking by the number of rows, and another blocking rounds differently. From this multiple on,
convolutions and matrix products give each row the same bits wherever it stands in a batch (measured on x86 CPUs)."""


class Bucket(NamedTuple):
    """Images of one size, which share forward passes.

    Attributes:
        rows: Where they stand among all images, int64 ``(n,)``, ascending.
        alone: Whether they run one at a time and unpadded, see :func:`size_buckets`.
    """

    rows: NDArray[np.int64]
    alone: bool


def size_buckets(sizes: Iterable[Sequence[int]]) -> list[Bucket]:
    """Sort images by size and tell how each is run, so that neither batch size nor order shows in a result.

    Give the sizes of *all* images that belong together, such as a whole catalogue's, and never those of a batch or of
    one process: what is run alone depends on how many have the same size.

    Args:
        sizes: ``(height, width)`` of every image.

    Returns:
        One bucket per size, in the order in which the sizes first occur. Where sizes differ, those with fewer than
        :data:`ROW_MULTIPLE` images are run alone, for padding one image to a batch would cost as much as the batch.
    """
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row, size in enumerate(sizes):
        rows_of.setdefault(tuple(size), []).append(row)
    return [
        Bucket(np.array(rows, np.int64), alone=len(rows_of) > 1 and len(rows) < ROW_MULTIPLE)
        for rows in rows_of.values()
    ]


def padded_batches(num_rows: int, batch_size: int, alone: bool = False) -> Iterator[tuple[Tensor, int]]:
    """Yield the row indices of each batch, padded to a multiple of :data:`ROW_MULTIPLE` by repeating the last row.

    Args:
        num_rows: Number of rows to cover, in order.
        batch_size: Largest number of rows per batch; rounded up to a multiple of :data:`ROW_MULTIPLE`.
        alone: Whether every row is a batch of its own instead, without padding.

    Yields:
        ``(rows, count)``: int64 indices, of which the first ``count`` are new and the rest padding.
    """
    multiple, batch_size = (1, 1) if alone else (ROW_MULTIPLE, max(batch_size, 1))
    batch_size = -(-batch_size // multiple) * multiple
    for start in range(0, num_rows, batch_size):
        count = min(batch_size, num_rows - start)
        padded = -(-count // multiple) * multiple
        yield torch.arange(start, start + padded).clamp_(max=num_rows - 1), count


def padded_rows(chosen: Tensor) -> tuple[Tensor, int]:
    """Return the rows of a batch that go on when others leave it, padded as the batch was.

    Args:
        chosen: bool ``(N,)``, the rows that go on, one at least. Whether N is a multiple of :data:`ROW_MULTIPLE` tells
            whether the batch was padded (:func:`padded_batches`).

    Returns:
        ``(rows, count)``: int64 indices, of which the first ``count`` are those rows and the rest repeat the last.
    """
    rows = chosen.nonzero()[:, 0]
    count = len(rows)
    if len(chosen) % ROW_MULTIPLE == 0:
        rows = torch.cat([rows, rows[-1:].expand(-count % ROW_MULTIPLE)])
    return rows, count


def map_batches(function: Callable[..., Tensor], *rows: Tensor, batch_size: int, alone: bool = False) -> Tensor:
    """Apply ``function`` to batches of rows and join what it returns.

    Args:
        function: Takes one tensor per entry of ``rows`` with the same number of rows each, returns one tensor of as
            many rows.
        *rows: Tensors that share their first dimension.
        batch_size: Rows per call, rounded up to a multiple of :data:`ROW_MULTIPLE`.
        alone: See :func:`padded_batches`.

    Returns:
        The function's results, one row per input row; the same bits for every ``batch_size``.

    Raises:
        ValueError: If there are no rows.
    """
    num_rows = len(rows[0])
    if num_rows == 0:
        raise ValueError("map_batches needs at least one row")
    parts = [
        function(*(tensor[index.to(tensor.device)] for tensor in rows))[:count]
        for index, count in padded_batches(num_rows, batch_size, alone)
    ]
    return torch.cat(parts)
