"""Adam for embeddings of which a batch uses a few rows: the others are left as they are."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from catwalk.errors import CatwalkError
from catwalk.limits import check_number


class LazyAdam(Optimizer):
    """Adam (Kingma & Ba 2015) that leaves a row whose gradient is zero alone, with its moments.

    Adam moves every row at every step, by what it remembers of earlier gradients; of the embeddings of all users and
    items a batch uses a few rows, and the rest of a step is spent on the others. Here a step costs what the rows of the
    batch cost. On sparse gradients it is ``torch.optim.SparseAdam`` (which adds ``eps`` before the second moment is
    corrected), and on dense ones without rows of zeros ``torch.optim.Adam``. A dense gradient makes the same of the
    parameters as the sparse one with its rows.

    Args:
        params: Parameters, or groups of them with their own settings.
        lr: Learning rate, at least 0.
        betas: Decay rates of the two moments, in [0, 1).
        eps: What is added to the denominator, above 0.

    Raises:
        CatwalkError: If a setting is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        check_number(lr, "lr", least=0)
        if not all(0 <= beta < 1 for beta in betas):
            raise CatwalkError(f"betas must be at least 0 and less than 1, got {tuple(betas)}")
        if not eps > 0:
            raise CatwalkError(f"eps must be above 0, got {eps}")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; returns the loss of ``closure``, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        first, second, (beta_1, beta_2) = state["exp_avg"], state["exp_avg_sq"], group["betas"]
        rows = None
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            rows, gradient = gradient.indices()[0], gradient.values()
            first, second = first.index_select(0, rows), second.index_select(0, rows)
        change = adam_change(first, second, gradient, group["betas"], group["eps"], 1 - beta_2 ** state["step"])
        change.mul_(-group["lr"] / (1 - beta_1 ** state["step"]))
        if rows is None:
            parameter.add_(change)
            return
        state["exp_avg"].index_copy_(0, rows, first)
        state["exp_avg_sq"].index_copy_(0, rows, second)
        parameter.index_add_(0, rows, change)


def adam_change(
    first: Tensor,
    second: Tensor,
    gradient: Tensor,
    betas: tuple[float, float],
    eps: float,
    correction: float | Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """Move Adam's moments by a gradient, in place, and return the direction in which the parameters go.

    Rows whose gradient is zero are left alone.

    Args:
        first: First moments.
        second: Second moments, of the same shape.
        gradient: The gradient, of that shape.
        betas: Decay rates of the moments.
        eps: What is added to the denominator.
        correction: ``1 - beta_2 ** step``, by which second moments are divided.
        out: Receives what is returned; may be the gradient.

    Returns:
        The change of the parameters but for the factor ``-lr / (1 - beta_1 ** step)``.
    """
    beta_1, beta_2 = betas
    is_used = _rows_with_gradient(gradient)
    # In the memory of the moments, or of their rows: on a CPU new memory costs more than the arithmetic.
    new_first, new_second = (first, second) if is_used is None else (first.clone(), second.clone())
    new_first.lerp_(gradient, 1 - beta_1)
    new_second.mul_(beta_2).addcmul_(gradient, gradient, value=1 - beta_2)
    corrected = torch.div(new_second, correction, out=out).sqrt_().add_(eps)
    change = torch.div(new_first, corrected, out=corrected)
    if is_used is None:
        return change
    first.copy_(torch.where(is_used, new_first, first))
    second.copy_(torch.where(is_used, new_second, second))
    return change.masked_fill_(~is_used, 0.0)


def _rows_with_gradient(gradient: Tensor) -> Tensor | None:
    """Return which rows are not all zeros, a boolean ``(R, 1, …)`` that broadcasts to the gradient; None for all.

    On a GPU always the booleans, chosen by `where` and not by indices: it need not say then how many there are.
    """
    on_cpu = gradient.device.type == "cpu"
    if gradient.ndim < 2:
        is_used = gradient != 0
    else:
        columns = gradient.flatten(1)
        # One entry that is not 0 will do, and hardly any row has a 0 in the first column.
        if on_cpu and columns.shape[1] and bool((columns[:, 0] != 0).all()):
            return None
        # No sum of absolute values is 0 unless all of them are, and `any` of booleans takes ten times as long on a CPU.
        is_used = (columns.abs().sum(dim=1) != 0).view(-1, *[1] * (gradient.ndim - 1))
    return None if on_cpu and bool(is_used.all()) else is_used
