"""Training steps that a GPU replays as one graph, so that no step waits for Python."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from catwalk.recommenders.bpr_mf import BPRMFModel
from catwalk.recommenders.lazy_adam import LazyAdam
from catwalk.recommenders.stacked_step import StackedStep

WARM_UP = 3
"""Steps before the graph: libraries choose their kernels in them, and memory is allocated."""


def make_step(models: Sequence[BPRMFModel], optimizers: Sequence[LazyAdam]) -> "StackedStep | CapturedStep":
    """Return what takes the steps of models where they are: a :class:`StackedStep`, on a GPU as a graph."""
    step = StackedStep(models, optimizers)
    return CapturedStep(step) if step.device.type == "cuda" else step


class CapturedStep:
    """Takes the steps of a :class:`StackedStep` on a GPU: a few as it does, and then by replaying a CUDA graph.

    The numbers that change from step to step lie on the device: the batch, the number of the step, and learning rates.
    Batches of another size than that of the graph, and all where no graph can be had, are taken without one.

    Args:
        step: The step, on a GPU.
    """

    def __init__(self, step: StackedStep) -> None:
        self._step = step
        self._warm_ups: dict[torch.Size, int] = {}
        self._may_capture = True
        self._graph: torch.cuda.CUDAGraph | None = None
        self._settings: object = None
        self._inputs: list[Tensor] = []
        self._losses: Tensor
        self._number = torch.zeros((), dtype=torch.float64, device=step.device)
        self._rates = torch.zeros(len(step.rates), dtype=torch.float64, device=step.device)
        self._on_device: tuple[int, tuple[float, ...]] | None = None

    @property
    def is_bound(self) -> bool:
        """See :class:`StackedStep`."""
        return self._step.is_bound

    def suits(self, batch: int) -> bool:
        """See :class:`StackedStep`."""
        return self._step.suits(batch)

    def take(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Take a step; see :meth:`StackedStep.take`."""
        batch, settings = (users, positives, negatives), (users.shape, self._step.constants)
        if self._may_capture and settings != self._settings:
            warm_ups = self._warm_ups.setdefault(users.shape, 0)
            self._warm_ups[users.shape] += 1
            if warm_ups >= WARM_UP and self._graph is None:
                self._capture(batch, settings)
        if self._graph is None or settings != self._settings:
            self._on_device = None
            return self._step.take(*batch)
        number, rates = self._step.count(), tuple(self._step.rates)
        if self._on_device != (number - 1, rates):
            self._number.fill_(number - 1)
            self._rates.copy_(torch.tensor(rates, dtype=torch.float64))
        self._on_device = number, rates
        for own, given in zip(self._inputs, batch, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._losses.clone()

    def _capture(self, batch: tuple[Tensor, ...], settings: object) -> None:
        self._inputs = [column.clone() for column in batch]
        try:
            graph = torch.cuda.CUDAGraph()
            with _any_kernels(), torch.cuda.graph(graph):
                self._losses = self._move()
        except RuntimeError as error:
            self._may_capture = False
            reason = str(error).splitlines()[0]
            warnings.warn(f"training steps are taken one by one, without a CUDA graph: {reason}", stacklevel=2)
            return
        self._graph, self._settings = graph, settings

    def _move(self) -> Tensor:
        """Take a step by the numbers on the device alone: what the graph replays."""
        beta_1, beta_2, _ = self._step.constants
        self._number.add_(1)
        correction = (1 - torch.pow(beta_2, self._number)).float()
        scales = (-self._rates / (1 - torch.pow(beta_1, self._number))).float()
        users, positives, negatives = self._inputs
        return self._step.move(users, positives, negatives, correction, list(scales))


@contextmanager
def _any_kernels() -> Iterator[None]:
    """Let writes to rows that stand several times be any, for what they write is the same."""
    was, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warns)
