"""Means over users or items that keep their precision."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class Float64Mean(Metric):
    """Base of the metrics that are a mean of one value per user or item, summed in float64.

    A subclass's ``update`` hands its values to :meth:`add`.

    Args:
        **kwargs: Passed to :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, values: Tensor) -> None:
        """Add values of any shape, each of which counts once."""
        self.total = self.total + values.sum(dtype=torch.float64)
        self.count = self.count + values.numel()

    def compute(self) -> Tensor:
        """Return the mean, a float64 scalar; NaN if there were no values."""
        return self.total / self.count

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = "") -> "Float64Mean":
        # A model that trains in bfloat16 is cast whole by `module.to(dtype)`, and torchmetrics lets the states of its
        # metrics be cast along. A sum would then stop growing after a few hundred terms.
        super()._apply(fn, [*exclude_state, "total"])
        self.total = self.total.to(self.device)
        return self


class ValueMean(Float64Mean):
    """The mean of values that are there already, one per user or item.

    Args:
        **kwargs: Passed to :class:`torchmetrics.Metric`.
    """

    def update(self, values: Tensor) -> None:
        """Add values of any shape, each of which counts once."""
        self.add(values)


class ShareMean(Metric):
    """The mean of shares, in [0, 1], one per user; the same bits whatever their order, batches and processes.

    They are summed as whole numbers of 2^-40, which is exact for up to 2^23 of them, and moves each by less than 1e-12.

    Args:
        **kwargs: Passed to :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add values of any shape, float64 in [0, 1] or NaN for a user who has none."""
        values = values[~values.isnan()]
        self.total = self.total + (values.double() * 2**40).round().long().sum()
        self.count = self.count + values.numel()

    def compute(self) -> Tensor:
        """Return the mean, a float64 scalar; NaN if there were no values."""
        return self.total.double() / 2**40 / self.count
