"""Rows of a feature matrix as a recommender reads them, wherever the matrix lies."""

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Self

from catwalk.networks.features import FeatureStorage, _blocks


class FeatureRows(nn.Module):
    """Features as a recommender uses them: gathered row by row from wherever they lie, computed with in float32.

    They are no buffer: no part of a checkpoint, and nothing that processes send each other at every step.

    Args:
        features: ``(N, D)``, of any floating type, on the CPU.
        storage: With ``device`` they go where the module is moved to; otherwise they stay, and rows are brought to the
            device of what they are used with.
    """

    def __init__(self, features: Tensor, storage: FeatureStorage = "device") -> None:
        super().__init__()
        self.features = features
        self.storage = storage
        self._scratch = _Scratch()

    @property
    def num_items(self) -> int:
        """Number of items, N."""
        return self.features.shape[0]

    @property
    def num_features(self) -> int:
        """Number of features of an item, D."""
        return self.features.shape[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the features along with the module, by which ``to`` and its like work."""
        if self.storage == "device":  # to which device, but not to which type: that is the storage's own
            self.features = self.features.to(fn(self.features.new_empty(0)).device)
        return super()._apply(fn, recurse)

    def rows(self, items: Tensor) -> Tensor:
        """Return the features of items int64 ``(B,)``, float32 ``(B, D)`` on the device of ``items``."""
        return self.features[items.to(self.features.device)].to(items.device, torch.float32)

    def difference(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return the features of some items minus those of others.

        Where rows are converted or sent to a GPU, it happens in memory that was used before, which is faster by far
        than fresh memory of that size, and that nobody else uses while the result, a view of it, or a graph that needs
        it is alive.

        Args:
            positives: int64 ``(B,)``.
            negatives: int64 ``(B,)``, on the same device.

        Returns:
            float32 ``(B, D)``, on that device.
        """
        if self.features.device.type != "cpu":  # whose allocator gives used memory anyway
            return self.rows(positives) - self.rows(negatives)
        device = positives.device
        if device.type == "cpu" and self.features.dtype == torch.float32:
            # A sum of two rows with the weights 1 and -1: they are read and the result is written, and nothing else.
            signs = self.features.new_tensor([1.0, -1.0]).repeat(len(positives))
            places, bags = torch.stack([positives, negatives], 1).view(-1), torch.arange(0, len(signs), 2)
            with torch.inference_mode(False):  # autograd takes no inference tensor
                return torch.embedding_bag(self.features, places, bags, mode=0, per_sample_weights=signs)[0]
        # Waits for the device, and with it for the copy of the rows before, whose memory may be used now.
        positives, negatives = positives.cpu(), negatives.cpu()
        shape = (len(positives), self.num_features)
        pinned = device.type == "cuda"
        rows = self._scratch.take(shape, self.features.dtype, pinned)
        torch.index_select(self.features, 0, positives, out=rows)
        result = rows
        if rows.dtype != torch.float32:
            result = self._scratch.take(shape, torch.float32, pinned).copy_(rows)
        others = rows if rows is not result else self._scratch.take(shape, rows.dtype, pinned)
        torch.index_select(self.features, 0, negatives, out=others)
        return result.sub_(others).to(device, non_blocking=pinned)

    @torch.no_grad()
    def project(self, matrix: Tensor) -> Tensor:
        """Return ``F @ matrix`` of all items' features F, without a gradient; F is never in memory as a whole.

        Args:
            matrix: ``(D, K)``.

        Returns:
            ``(N, K)``, of the type and on the device of ``matrix``; the same bits for every storage.
        """
        products = matrix.new_empty(self.num_items, matrix.shape[1])
        start = 0
        for block in _blocks(self.features):
            torch.matmul(block.to(matrix.device, matrix.dtype), matrix, out=products[start : start + len(block)])
            start += len(block)
        return products


class _Scratch:
    """Memory for matrices on the CPU, used again once nobody holds the matrix that was handed out before."""

    MAX_BUFFERS = 4

    def __init__(self) -> None:
        self._buffers: list[tuple[Tensor, weakref.ref]] = []

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Copies begin with nothing."""
        return _Scratch, ()

    def take(self, shape: tuple[int, int], dtype: torch.dtype, pinned: bool) -> Tensor:
        """Return a matrix of any content that shares memory with no other."""
        size = shape[0] * shape[1] * dtype.itemsize
        free = [entry for entry in self._buffers if entry[1]() is None and len(entry[0]) >= size]
        # A tensor holds on to the array that it was made of for as long as anything shares its memory: the tensor
        # itself, a view, autograd.
        with torch.inference_mode(False):  # autograd takes no inference tensor, and the memory outlives this mode
            buffer = free[0][0] if free else torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
            array = buffer.numpy()[:size]
            matrix = torch.from_numpy(array).view(dtype).view(shape)
        kept = [entry for entry in self._buffers if entry[0] is not buffer]
        self._buffers = [(buffer, weakref.ref(array)), *kept][: self.MAX_BUFFERS]
        return matrix


class StackedFeatures:
    """The features of one catalogue as several recommenders see them: most rows alike, those of attacked items apart.

    Args:
        features: What each of R recommenders looks at, of the same shape; with several, all on one device and of one
            type.
    """

    def __init__(self, features: Sequence[FeatureRows]) -> None:
        shared = features[0].features
        self._rows, self._places = features[0], None
        if len(features) == 1:
            return
        tables, places = [shared], torch.arange(len(shared), device=shared.device).repeat(len(features), 1)
        count = len(shared)
        for own, place in zip(features[1:], places[1:], strict=True):
            different = (own.features != shared).any(dim=1).nonzero().squeeze(1)
            tables.append(own.features[different])
            place[different] = torch.arange(count, count + len(different), device=shared.device)
            count += len(different)
        self._rows, self._places = FeatureRows(torch.cat(tables), features[0].storage), places

    def difference(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return the features of some items minus those of others, as :meth:`FeatureRows.difference` does.

        Args:
            positives: int64 ``(R, B)``.
            negatives: int64 ``(R, B)``.

        Returns:
            float32 ``(R * B, D)``.
        """
        if self._places is not None:
            positives, negatives = self._places.gather(1, positives), self._places.gather(1, negatives)
        return self._rows.difference(positives.reshape(-1), negatives.reshape(-1))
