"""Embeddings of several recommenders, and their moments, in one memory each."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from catwalk.recommenders.bpr_mf import BPRMFModel
from catwalk.recommenders.lazy_adam import LazyAdam

ALIGNED = 16
"""Tables begin at multiples of so many rows, and so at multiples of 64 bytes, as memory of their own does."""

MOMENTS = ("exp_avg", "exp_avg_sq")


class StackedTables:
    """The rows of all embeddings of R models in one matrix, and their moments in two more.

    The parameters of the models, and the states of their optimizers, become views of them, and stay so.

    Args:
        models: Models of one class and size.
        optimizers: Each one's own, which has taken a step.

    Attributes:
        rows: ``(n, K)``: of all models ``P``, then ``ρ`` where there is one, then ``Q``.
        first: First moments of the rows, ``(n, K)``.
        second: Second moments of the rows, ``(n, K)``.
        starts: Where the tables of each model begin among the rows, int64 ``(T, R, 1)``; ``Q`` twice, for the items
            bought and for those not bought.
        users_apart: Rows from a user in ``P`` to the same one in ``ρ``.
        projections: ``E`` of all models and its moments, three times ``(R, D, K)``; nothing without images.
    """

    def __init__(self, models: Sequence[BPRMFModel], optimizers: Sequence[LazyAdam]) -> None:
        is_visual = hasattr(models[0], "visual_users")
        names = ["users", "visual_users", "items"] if is_visual else ["users", "items"]
        parameters = [[getattr(model, name).weight for model in models] for name in names]
        starts: list[list[int]] = []
        end = 0
        for tables in parameters:
            length = -(-len(tables[0]) // ALIGNED) * ALIGNED
            starts.append([end + number * length for number in range(len(models))])
            end += len(models) * length
        self.users_apart = starts[1][0] - starts[0][0]
        like = parameters[0][0].detach()
        self.starts = torch.tensor([*starts, starts[-1]], device=like.device)[:, :, None]
        stacks = [like.new_zeros(end, like.shape[1]) for _ in range(3)]
        self.rows, self.first, self.second = stacks
        self._optimizers = [(optimizer, optimizer.state) for optimizer in optimizers]
        self._bound: list[tuple[Tensor, dict[str, Any], list[Tensor]]] = []
        for tables, begins in zip(parameters, starts, strict=True):
            for parameter, optimizer, begin in zip(tables, optimizers, begins, strict=True):
                self._bind(parameter, optimizer, [stack[begin : begin + len(parameter)] for stack in stacks])
        self.projections: list[Tensor] = []
        if is_visual:
            own: list[Any] = [model.projection for model in models]
            self.projections = [like.new_zeros(len(own), *own[0].shape) for _ in range(3)]
            for parameter, optimizer, *places in zip(own, optimizers, *self.projections, strict=True):
                self._bind(parameter, optimizer, places)

    def _bind(self, parameter: Tensor, optimizer: LazyAdam, places: list[Tensor]) -> None:
        """Move a parameter and its moments into the stacks."""
        state: dict[str, Any] = optimizer.state[parameter]
        for place, value in zip(places, [parameter.detach(), *(state[name] for name in MOMENTS)], strict=True):
            place.copy_(value)
        parameter.data = places[0]
        state.update(zip(MOMENTS, places[1:], strict=True))
        self._bound.append((parameter, state, places))

    @property
    def is_bound(self) -> bool:
        """Whether the models and optimizers still use this memory: nobody has given them other tensors."""
        return all(optimizer.state is state for optimizer, state in self._optimizers) and all(
            parameter.data_ptr() == place.data_ptr() and state["exp_avg"] is first and state["exp_avg_sq"] is second
            for parameter, state, (place, first, second) in self._bound
        )

    def count_step(self) -> int:
        """Let all optimizers count a step, and return its number."""
        number = int(self._bound[0][1]["step"]) + 1
        for _, state, _ in self._bound:
            state["step"] = number
        return number


def with_memory_of_its_own(tensor: Tensor) -> Tensor:
    """Return a tensor that shares its memory with no other: itself, or a copy where it is a part of a stack."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize else tensor.clone()
