"""Running a function over many rows in batches whose sizes do not show in the result."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

ROW_MULTIPLE = 16
"""Kernels pick their blocking by the number of rows, and another blocking rounds differently. From this multiple on,
convolutions and matrix products give each row the same bits wherever it stands in a batch (measured on x86 CPUs)."""


def padded_batches(num_rows: int, batch_size: int) -> Iterator[tuple[Tensor, int]]:
    """Yield the row indices of each batch, padded to a multiple of :data:`ROW_MULTIPLE` by repeating the last row.

    Args:
        num_rows: Number of rows to cover, in order.
        batch_size: Largest number of rows per batch; rounded up to a multiple of :data:`ROW_MULTIPLE`.

    Yields:
        ``(rows, count)``: int64 indices, of which the first ``count`` are new and the rest padding.
    """
    batch_size = -(-max(batch_size, 1) // ROW_MULTIPLE) * ROW_MULTIPLE
    for start in range(0, num_rows, batch_size):
        count = min(batch_size, num_rows - start)
        padded = -(-count // ROW_MULTIPLE) * ROW_MULTIPLE
        yield torch.arange(start, start + padded).clamp_(max=num_rows - 1), count


def map_batches(function: Callable[..., Tensor], *rows: Tensor, batch_size: int) -> Tensor:
    """Apply ``function`` to batches of rows and join what it returns.

    Args:
        function: Takes one tensor per entry of ``rows`` with the same number of rows each, returns one tensor of as
            many rows.
        *rows: Tensors that share their first dimension.
        batch_size: Rows per call, rounded up to a multiple of :data:`ROW_MULTIPLE`.

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
        for index, count in padded_batches(num_rows, batch_size)
    ]
    return torch.cat(parts)
