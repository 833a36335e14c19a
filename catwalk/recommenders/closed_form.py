"""Losses and gradients of BPR-MF, VBPR and AMR in closed form, of one model or of several at once."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from catwalk.recommenders.adversarial import TINY
from catwalk.recommenders.amr import AMRModel
from catwalk.recommenders.bpr_mf import BPRMFModel
from catwalk.recommenders.pairwise_model import PairwiseModel
from catwalk.recommenders.vbpr import VBPRModel

MODELS = (BPRMFModel, VBPRModel, AMRModel)
"""The models whose gradients are known; a subclass may have another loss."""


def has_closed_form(model: PairwiseModel) -> bool:
    """Return whether :class:`ClosedForm` knows the gradients of a model.

    It knows those of BPR-MF, VBPR and AMR in float32 with the squared regulariser, without biases, with user factors of
    one length for either part of the score, and with a perturbation of each triplet's own.
    """
    if type(model) not in MODELS:
        return False
    assert isinstance(model, BPRMFModel)
    settings: Any = model.settings
    is_known = not settings.item_bias and settings.regularizer == "squared"
    if isinstance(model, VBPRModel):
        has_own_users = not settings.shared_user_factors and settings.factors == settings.visual_factors
        is_known &= has_own_users and not settings.visual_bias
    if isinstance(model, AMRModel):
        is_known &= settings.perturbation == "per_triplet" or not settings.adversarial_weight
    return is_known and all(each.dtype == torch.float32 for each in model.parameters())


class ClosedForm:
    """The losses of R models of one class on batches of B triplets, and their gradients by all that the batches use.

    Matrices of rows have a part for each of T tables: ``p_u``, ``ρ_u`` (of VBPR and AMR alone), ``q_i`` and ``q_j``. On
    a CPU gradients are added up in the order in which autograd does it, and have its bits. All results lie in memory
    that the next batch uses again.

    Args:
        models: The models, of the same class, whose gradients are known. They may differ in λ, ε and what features are
            divided by.
        batch: B.
        device: Where they are.
    """

    def __init__(self, models: Sequence[BPRMFModel], batch: int, device: torch.device) -> None:
        settings: list[Any] = [model.settings for model in models]
        first = settings[0]
        self.is_visual = isinstance(models[0], VBPRModel)
        self.num_models, self.batch = len(models), batch
        self._is_mean = first.reduction == "mean"
        self.num_tables = 4 if self.is_visual else 3

        def per_model(values: list[float], divided: bool = False) -> Tensor:
            """Return float32 ``(R, 1, 1)``, divided by the number of triplets as the losses are."""
            column = torch.tensor(values, dtype=torch.float32)[:, None, None]
            return (column / batch if divided and self._is_mean else column).to(device)

        ones = per_model([1.0] * len(models), divided=True)
        of_users = ones * per_model([each.regularization for each in settings])
        of_items = ones * per_model([each.regularization_of_items for each in settings])
        by_table = [of_users] * (self.num_tables - 2) + [of_items] * 2
        self._of_rows = torch.stack(by_table)  # (T, R, 1, 1)
        self._weights = ones.expand(-1, batch, 1).reshape(-1)
        factors, count = first.factors, len(models) * batch
        empty: dict[str, Any] = {"device": device, "dtype": torch.float32}
        self.gradients_and_room = torch.empty(self.num_tables + 1, count, factors, **empty)
        self.gradients = self.gradients_and_room[:-1]
        self._work, self._item_differences = (torch.empty(count, factors, **empty) for _ in range(2))
        self._scores, self._slopes, self._sums = (torch.empty(count, **empty) for _ in range(3))
        self._is_adversarial = any(getattr(each, "adversarial_weight", 0.0) for each in settings)
        if not self.is_visual:
            return
        visual = cast(Sequence[VBPRModel], models)
        self._scales = per_model([model.feature_scale for model in visual])
        self._of_projections = per_model([each.projection_regularization for each in settings])
        self._images = torch.empty(count, factors, **empty)
        width = visual[0].projection.shape[0]
        sizes = len(models), width, factors
        self.projection_gradients, self._more = (torch.empty(sizes, **empty) for _ in range(2))
        if self._is_adversarial:
            weights = [each.adversarial_weight for each in settings]
            self._adversarial_weights = per_model(weights).view(-1)
            self._weights_of_worst = per_model(weights, divided=True).expand(-1, batch, 1).reshape(-1)
            self._epsilons = per_model([each.epsilon for each in settings]).expand(-1, batch, 1).reshape(-1)
            self._moves, self._of_rho = (torch.empty(count, factors, **empty) for _ in range(2))
            sizes = len(models), factors, factors
            self._gram, self._gram_gradient = (torch.empty(sizes, **empty) for _ in range(2))

    @torch.no_grad()
    def __call__(self, rows: Tensor, features: Tensor | None, projections: Tensor | None) -> Tensor:
        """Compute :attr:`gradients` ``(T, R * B, K)``, and with images ``projection_gradients`` ``(R, D, K)``.

        Args:
            rows: ``(T, R * B, K)``.
            features: ``f_i - f_j`` of all triplets, ``(R * B, D)``; None without images.
            projections: ``E`` of all models, ``(R, D, K)``; None without images.

        Returns:
            The losses, ``(R,)``.
        """
        p, q_i, q_j = rows[0], rows[-2], rows[-1]
        torch.sub(q_i, q_j, out=self._item_differences)
        torch.sum(torch.mul(p, self._item_differences, out=self._work), 1, out=self._scores)
        if features is not None and projections is not None:
            self._product(self._by_model(features), projections, out=self._by_model(self._images))
            self._by_model(self._images).div_(self._scales)
            self._scores.add_(torch.sum(torch.mul(rows[1], self._images, out=self._work), 1, out=self._sums))
        losses = self._losses(self._scores) + self._penalties(rows, projections)
        self._slopes_of(self._scores, self._weights, out=self._slopes)
        of_adversary = False
        if self._is_adversarial and projections is not None:
            of_adversary = True
            losses = losses + self._add_adversary(rows[1], projections)
        gradients = self.gradients
        torch.mul(self._by_table(rows), 2 * self._of_rows, out=self._by_table(gradients))
        slopes = self._slopes[:, None]
        gradients[0].add_(torch.mul(slopes, self._item_differences, out=self._work))
        of_items = torch.mul(slopes, p, out=self._work)
        gradients[-2].add_(of_items)
        gradients[-1].sub_(of_items)
        if features is not None and projections is not None:
            self._add_images(rows[1], features, projections, slopes, of_adversary)
        return losses

    def _add_images(
        self, rho: Tensor, features: Tensor, projections: Tensor, slopes: Tensor, of_adversary: bool
    ) -> None:
        """Add the gradients of ``ρ_u``, and compute those of ``E``."""
        if of_adversary:
            self.gradients[1].add_(self._of_rho)
        self.gradients[1].add_(torch.mul(slopes, self._images, out=self._images))
        of_images = torch.mul(slopes, rho, out=self._work)
        self._by_model(of_images).div_(self._scales)
        of_projections = torch.mul(projections, 2 * self._of_projections, out=self._more)
        if of_adversary:
            self.projection_gradients.add_(of_projections)
            self._product(self._by_model(features).transpose(1, 2), self._by_model(of_images), out=self._more)
            self.projection_gradients.add_(self._more)
            return
        self._product(
            self._by_model(features).transpose(1, 2), self._by_model(of_images), out=self.projection_gradients
        )
        self.projection_gradients.add_(of_projections)

    def _add_adversary(self, rho: Tensor, projections: Tensor) -> Tensor:
        """Add the slopes of the adversarial losses, begin the gradients of ``ρ_u`` and ``E``, and return the losses.

        See :func:`~catwalk.recommenders.adversarial.visual_drop`.
        """
        gram, moves = self._gram, self._moves
        self._product(projections.transpose(1, 2), projections, out=gram)
        self._product(self._by_model(rho), gram, out=self._by_model(moves))
        squares = torch.mul(moves, rho, out=self._work).sum(1)
        twice_lengths = squares.clamp(min=TINY).sqrt_().mul_(2)
        worst = self._scores - self._epsilons * twice_lengths
        slopes = self._slopes_of(worst, self._weights_of_worst, out=self._sums)
        self._slopes.add_(slopes)
        of_squares = slopes.neg().mul_(self._epsilons).mul_(2).div_(twice_lengths)
        of_squares = torch.where(squares >= TINY, of_squares, 0.0)[:, None]
        torch.mul(of_squares, moves, out=self._of_rho)
        of_moves = torch.mul(of_squares, rho, out=self._work)
        self._product(self._by_model(of_moves), gram.transpose(1, 2), out=self._by_model(moves))
        self._of_rho.add_(moves)
        self._product(self._by_model(rho).transpose(1, 2), self._by_model(of_moves), out=self._gram_gradient)
        self._product(projections, self._gram_gradient, out=self.projection_gradients)
        self._product(projections, self._gram_gradient.transpose(1, 2), out=self._more)
        self.projection_gradients.add_(self._more)
        return self._adversarial_weights * self._losses(worst)

    def _slopes_of(self, differences: Tensor, weights: Tensor, out: Tensor) -> Tensor:
        """Return the derivatives of weighted losses by ``s_ui - s_uj``."""
        torch.ops.aten.softplus_backward.grad_input(weights, -differences, 1, 20, grad_input=out)
        return out.neg_()

    def _losses(self, differences: Tensor) -> Tensor:
        losses = F.softplus(-differences).view(self.num_models, -1)
        return losses.mean(1) if self._is_mean else losses.sum(1)

    def _penalties(self, rows: Tensor, projections: Tensor | None) -> Tensor:
        """Return the λ-terms, ``(R,)``."""
        squares = _squares(rows.view(self.num_tables * self.num_models, -1)).view(self.num_tables, -1)
        penalties = (squares * self._of_rows[:, :, 0, 0]).sum(0)
        if projections is None:
            return penalties
        return penalties + _squares(projections.flatten(1)) * self._of_projections[:, 0, 0]

    def _product(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Multiply the matrices of each model, ``(R, n, m)`` by ``(R, m, k)``: on a CPU as those of one are."""
        if left.device.type != "cpu":
            torch.bmm(left, right, out=out)
            return
        for model in range(self.num_models):
            torch.mm(left[model], right[model], out=out[model])

    def _by_model(self, rows: Tensor) -> Tensor:
        return rows.view(self.num_models, self.batch, -1)

    def _by_table(self, rows: Tensor) -> Tensor:
        return rows.view(self.num_tables, self.num_models, self.batch, -1)


def _squares(rows: Tensor) -> Tensor:
    """Return the squared lengths of rows, ``(n,)``."""
    return torch.linalg.vector_norm(rows, dim=1).square()
