"""Training steps without autograd, of one recommender or of several at once."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from catwalk.recommenders.bpr_mf import BPRMFModel
from catwalk.recommenders.closed_form import ClosedForm, has_closed_form
from catwalk.recommenders.feature_rows import StackedFeatures
from catwalk.recommenders.lazy_adam import LazyAdam, adam_change
from catwalk.recommenders.pairwise_model import PairwiseModel
from catwalk.recommenders.row_sums import CoalescedRowSums, RowSums, static_row_sums
from catwalk.recommenders.stacked_tables import ALIGNED, StackedTables
from catwalk.recommenders.vbpr import VBPRModel


def may_step(model: PairwiseModel, optimizer: Optimizer) -> bool:
    """Return whether :class:`StackedStep` trains a model as autograd and its optimizer would.

    The model's gradients are known in closed form; the optimizer is LazyAdam, has taken a step, and sees sparse
    gradients; and nobody looks at gradients or steps by a hook.
    """
    if not has_closed_form(model) or type(optimizer) is not LazyAdam:
        return False
    groups = [{id(each) for each in group} for group in model.parameter_groups().values()]
    optimized = [{id(each) for each in group["params"]} for group in optimizer.param_groups]
    parameters = list(model.parameters())
    steps = {optimizer.state.get(each, {}).get("step", 0) for each in parameters}
    return (
        optimized == groups
        and len({(*group["betas"], group["eps"]) for group in optimizer.param_groups}) == 1
        and len(steps) == 1
        and 0 not in steps
        and all(table.sparse for table in model.modules() if isinstance(table, torch.nn.Embedding))
        and all(each.requires_grad and not each._backward_hooks for each in parameters)
        and not any(getattr(each, "_post_accumulate_grad_hooks", None) for each in parameters)
        and not (optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)
    )


class StackedStep:
    """A step of R models of one class at once, as autograd and each one's own :class:`LazyAdam` take it.

    The models have the same sizes and settings but for λ and ε, each its own features and triplets; their optimizers
    have the same settings, and have taken the same number of steps. While the step is used, parameters and moments lie
    in its memory; see :class:`StackedTables`.

    On a CPU every model gets the bits that it would get alone, and from autograd. Elsewhere nothing waits for the
    device, and all shapes are the batch's: results repeat, and differ from autograd's by rounding.

    Args:
        models: The models.
        optimizers: Theirs, with each of which :func:`may_step` is true.
        is_static: Whether shapes depend on the batch's alone; by default on all devices but a CPU.
    """

    def __init__(
        self, models: Sequence[BPRMFModel], optimizers: Sequence[LazyAdam], is_static: bool | None = None
    ) -> None:
        self._models, self._optimizer = list(models), optimizers[0]
        self._tables = StackedTables(models, optimizers)
        self.device = self._tables.rows.device
        self._is_static = self.device.type != "cpu" if is_static is None else is_static
        self._features: StackedFeatures | None = None
        if isinstance(models[0], VBPRModel):
            self._features = StackedFeatures([model.images for model in models])
        self._seen = [_what_is_seen(model) for model in models]
        self._by_batch: dict[int, _OfBatch] = {}

    @property
    def is_bound(self) -> bool:
        """Whether models and optimizers still use the memory that is changed here, and look at the same features."""
        return self._tables.is_bound and all(
            all(now is then for now, then in zip(_what_is_seen(model), seen, strict=True))
            for model, seen in zip(self._models, self._seen, strict=True)
        )

    def suits(self, batch: int) -> bool:
        """Return whether steps of batches of B triplets may be taken; see :meth:`has_bits_of_autograd`."""
        return self.has_bits_of_autograd(self._models[0], batch)

    @staticmethod
    def has_bits_of_autograd(model: BPRMFModel, batch: int) -> bool:
        """Return whether a CPU computes the bits of autograd, for which all matrices must begin at 64 bytes."""
        table = model.users.weight
        return table.device.type != "cpu" or batch * table.shape[1] % ALIGNED == 0

    @property
    def constants(self) -> tuple[float, float, float]:
        """Decay rates of the moments, and what is added to the denominator."""
        group = self._optimizer.param_groups[0]
        return (*group["betas"], group["eps"])

    @property
    def rates(self) -> list[float]:
        """Learning rates of the groups of parameters, ``P``, ``Q`` and ``E``."""
        return [group["lr"] for group in self._optimizer.param_groups]

    def take(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Take a step.

        Args:
            users: Users of each model's batch, int64 ``(R, B)``.
            positives: Items bought, of that shape.
            negatives: Items not bought, of that shape.

        Returns:
            The losses before it, ``(R,)``.
        """
        number, (beta_1, beta_2, _) = self.count(), self.constants
        scales = [-rate / (1 - beta_1**number) for rate in self.rates]
        return self.move(users, positives, negatives, 1 - beta_2**number, scales)

    def count(self) -> int:
        """Let the optimizers count a step, and return its number."""
        return self._tables.count_step()

    @torch.no_grad()
    def move(
        self,
        users: Tensor,
        positives: Tensor,
        negatives: Tensor,
        correction: float | Tensor,
        scales: Sequence[float | Tensor],
    ) -> Tensor:
        """Change the models by a batch, without counting the step; see :meth:`take`.

        Args:
            users: See there.
            positives: See there.
            negatives: See there.
            correction: ``1 - beta_2 ** number`` of the step.
            scales: ``-lr / (1 - beta_1 ** number)`` for each group of parameters, ``P``, ``Q`` and ``E``.
        """
        tables, space = self._tables, self._of_batch(users.shape[1])
        columns = (users, positives, negatives) if self._features is None else (users, users, positives, negatives)
        keys = torch.stack(columns, out=space.keys).add_(tables.starts)
        rows = torch.index_select(tables.rows, 0, keys.view(-1), out=space.rows).view(len(columns), users.numel(), -1)
        features = None if self._features is None else self._features.difference(positives, negatives)
        projections = tables.projections[0] if tables.projections else None
        losses = space.form(rows, features, projections)
        self._update_rows(space.sums_by_row(), space, correction, scales)
        if tables.projections:
            self._update_projections(space, correction, scales[2])
        return losses

    def _update_rows(
        self, found: RowSums, space: "_OfBatch", correction: float | Tensor, scales: Sequence[float | Tensor]
    ) -> None:
        rows, sums, num_user_rows = found
        tables = self._tables.rows, self._tables.first, self._tables.second
        values, *moments = used = [
            torch.index_select(table, 0, rows, out=place[: len(rows)])
            for table, place in zip(tables, space.of_rows, strict=True)
        ]
        changes = self._changes(moments, sums, correction)
        changes[:num_user_rows].mul_(scales[0])
        changes[num_user_rows:].mul_(scales[1])
        values.add_(changes)
        for table, changed in zip(tables, used, strict=True):
            table.index_copy_(0, rows, changed)

    def _update_projections(self, space: "_OfBatch", correction: float | Tensor, scale: float | Tensor) -> None:
        projections, *moments = self._tables.projections
        changes = self._changes(moments, space.form.projection_gradients, correction)
        projections.add_(changes.mul_(scale))

    def _changes(self, moments: Sequence[Tensor], gradients: Tensor, correction: float | Tensor) -> Tensor:
        beta_1, beta_2, eps = self.constants
        return adam_change(moments[0], moments[1], gradients, (beta_1, beta_2), eps, correction, out=gradients)

    def _of_batch(self, batch: int) -> "_OfBatch":
        if batch not in self._by_batch:
            self._by_batch[batch] = _OfBatch(self._models, batch, self._tables, self._is_static)
        return self._by_batch[batch]


class _OfBatch:
    """What batches of one size need: memory that the next one uses again.

    Attributes:
        keys: Rows of the tables, int64 ``(T, R, B)``.
        rows: Those rows, ``(T * R * B, K)``.
        of_rows: As large, for rows with both of their moments.
        form: Losses and gradients.
    """

    def __init__(self, models: list[BPRMFModel], batch: int, tables: StackedTables, is_static: bool) -> None:
        device, count = tables.rows.device, len(models) * batch
        self.form = ClosedForm(models, batch, device)
        num_tables = self.form.num_tables
        self.keys = torch.empty(num_tables, len(models), batch, dtype=torch.int64, device=device)
        self.rows = tables.rows.new_empty(num_tables * count, tables.rows.shape[1])
        self.of_rows = self.rows, torch.empty_like(self.rows), torch.empty_like(self.rows)
        self._coalesced: CoalescedRowSums | None = None
        if not is_static:
            self._coalesced = CoalescedRowSums(num_tables, len(models), batch, len(tables.rows), tables.users_apart)

    def sums_by_row(self) -> RowSums:
        """Return the sums of the gradients by row."""
        if self._coalesced is None:
            return static_row_sums(self.keys, self.form.gradients)
        return self._coalesced(self.keys, self.form.gradients_and_room)


def _what_is_seen(model: BPRMFModel) -> tuple[object, ...]:
    """Return what a model looks at, to be compared by identity."""
    features = model.features
    return (None,) if features is None else (features, features.features, model.feature_scale)
