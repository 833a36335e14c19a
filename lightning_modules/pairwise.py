"""Recommenders that learn from triplets of a user, an item bought and an item not bought."""

import abc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, cast

import torch
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.strategies import ParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self

from catwalk.errors import CatwalkError
from catwalk.files.checkpoints import read_checkpoint
from catwalk.limits import check_number
from catwalk.recommenders.bpr_mf import BPRMFModel
from catwalk.recommenders.captured_step import CapturedStep, make_step
from catwalk.recommenders.checkpoints import built_for_of, name_as_today
from catwalk.recommenders.closed_form import has_closed_form
from catwalk.recommenders.feature_rows import FeatureRows
from catwalk.recommenders.lazy_adam import LazyAdam
from catwalk.recommenders.pairwise_model import PairwiseModel
from catwalk.recommenders.stacked_step import StackedStep, may_step
from catwalk.recommenders.stacked_tables import with_memory_of_its_own
from lightning_modules.checkpoints import check_checkpoint
from lightning_modules.data_protocols import RecommenderData
from lightning_modules.lockstep import Partner, PartnersStep
from lightning_modules.recommender import TRAINED_ON, Recommender, check_same
from lightning_modules.short_steps import shorten_steps

OPTIMIZER = "optimizer"
"""Key of a checkpoint with the name of the optimizer's class."""

LOGGED = 100
"""Batches between two losses that are logged where neither a logger nor Lightning's bar shows them."""

Triplets = tuple[Tensor, Tensor, Tensor]
"""Users, items bought and items not bought, int64 ``(B,)`` each."""


class IsDataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Settings = TypeVar("Settings", bound=IsDataclass)


class PairwiseRecommender(Recommender):
    """Base of the recommenders that learn by Bayesian personalised ranking (BPR, Rendle et al. 2009).

    A subclass says of which model: its parameters, its loss, and the vectors of users and items whose products are the
    scores are the model's, a plain module of PyTorch.

    Args:
        top_k: List lengths K of HR@K and nDCG@K.
        optimizer: Optimizer by class path; :class:`~catwalk.recommenders.lazy_adam.LazyAdam` with learning rate
            0.01 by default.
        learning_rates: Learning rates by group of parameters, where they differ from the optimizer's: ``P`` (users),
            ``Q`` (items) and, with images, ``E``.
        warm_start: Checkpoint of a recommender with the same parameters, with which ``fit`` begins; the optimizer
            begins afresh.
        captured: On a GPU, whether steps in closed form are captured as a CUDA graph and replayed; not yet run on a
            GPU.

    Attributes:
        partner: Whom it takes its steps with; see :class:`~lightning_modules.lockstep.Lockstep`.
    """

    learns = True

    groups: tuple[str, ...] = ()
    """Groups of the model's parameters that may have learning rates of their own."""

    model: PairwiseModel

    def __init__(
        self,
        top_k: Sequence[int] = (20,),
        optimizer: OptimizerCallable | None = None,
        learning_rates: dict[str, float] | None = None,
        warm_start: Path | None = None,
        captured: bool = False,
    ) -> None:
        super().__init__(top_k)
        for group, rate in (learning_rates or {}).items():
            if group not in self.groups:
                raise CatwalkError(f"learning_rates: there is no group {group!r}, only {', '.join(self.groups)}")
            check_number(rate, f"learning_rates: that of {group}", least=0)
        self.make_optimizer: Callable[[Iterable], Optimizer] = optimizer or _default_optimizer
        self.learning_rates = dict(learning_rates or {})
        self.warm_start = warm_start
        self.captured = captured
        self.partner: Partner | None = None

    def settings_of(self, kind: type[Settings]) -> Settings:
        """Return a model's settings, which are among the arguments of the same names.

        Raises:
            CatwalkError: If one is out of its range.
        """
        return kind(**{field.name: self.hparams[field.name] for field in fields(kind)})

    @abc.abstractmethod
    def make_model(self, num_users: int, num_items: int, num_features: int) -> PairwiseModel:
        """Return a new model in the sizes of the data; see :meth:`Recommender.build`."""

    def build(self, num_users: int, num_items: int, num_features: int) -> None:
        """Make the model."""
        self.model = self.make_model(num_users, num_items, num_features)

    def look_at(self, features: FeatureRows, scale: float) -> None:
        """Give the model its features."""
        self.model.look_at(features, scale)

    @property
    def built_for(self) -> dict[str, Any]:
        """The sizes of the data, and by what features are divided, where there are any."""
        return {**self.sizes, "feature_scale": self.model.feature_scale if self.uses_features else None}

    def sharing_parameters(self) -> Self:
        """Return a copy that has the same parameters, and can look at other features."""
        other = super().sharing_parameters()
        other.model = self.model.sharing_parameters()
        return other

    def configure_model(self) -> None:
        """Build the parameters, and begin with those of another checkpoint where there is a warm start."""
        was_built = self.is_built
        super().configure_model()
        is_fit = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if self.warm_start is not None and is_fit and not was_built:
            self._begin_with(self.warm_start)

    def _begin_with(self, path: Path) -> None:
        """Take the parameters of a checkpoint."""
        checkpoint = read_checkpoint(path)
        built_for = built_for_of(checkpoint)
        if built_for is None:
            raise CatwalkError(f"warm_start: {path} is not a checkpoint of a recommender")
        name_as_today(checkpoint)
        check_same(f"warm_start: {path}", built_for, self.built_for)
        if checkpoint.get(TRAINED_ON) != self.trained_on:
            raise CatwalkError(
                f"warm_start: {path} was trained on other purchases than these, and may know what is held out here; "
                "train it with the same dataset and data.validation"
            )
        try:
            check_checkpoint(self, checkpoint)
        except CatwalkError as error:
            raise CatwalkError(f"warm_start: {path}: {error}") from error
        self.load_state_dict(checkpoint["state_dict"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits and, where training goes on, that it does so by the same optimizer."""
        name_as_today(checkpoint)
        super().on_load_checkpoint(checkpoint)
        then = checkpoint.get(OPTIMIZER)
        if then is None or self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        now = type(self.make_optimizer([{"params": [nn.Parameter(torch.zeros(1))]}])).__name__
        if then != now:
            raise CatwalkError(
                f"ckpt_path: its training had the optimizer {then}, and this one has {now}; give the same"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the recommender was built for, and by which optimizer it was trained."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[OPTIMIZER] = next((type(optimizer).__name__ for optimizer in self.trainer.optimizers), None)
        if not has_closed_form(self.model):
            return
        weights = checkpoint["state_dict"]  # may be parts of a stack; see StackedTables
        weights.update({name: with_memory_of_its_own(weight) for name, weight in weights.items()})
        for states in checkpoint.get("optimizer_states", ()):
            states["state"] = {
                number: {
                    name: with_memory_of_its_own(value) if isinstance(value, Tensor) else value
                    for name, value in state.items()
                }
                for number, state in states["state"].items()
            }

    def training_step(self, batch: Triplets, batch_idx: int) -> Tensor:
        """Return the loss of a batch of triplets."""
        loss = self.model.loss(*batch)
        self.watch_loss(loss)
        # Logging takes as long as computing it.
        if self.trainer.is_last_batch or self.loss_is_read(self.trainer.fit_loop.total_batch_idx + 1):
            self.log("train/loss", loss, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def loss_is_read(self, number: int) -> bool:
        """Return whether somebody reads the loss of a batch, by its number over all epochs, from 1.

        Without a logger and Lightning's bar that of every few is left, and of an epoch's last batch, whichever it is.
        """
        trainer = self.trainer
        return bool(trainer.loggers) or trainer.progress_bar_callback is not None or number % LOGGED == 0

    def on_train_start(self) -> None:
        """Take short steps where nobody would notice."""
        if type(self).training_step is PairwiseRecommender.training_step:
            shorten_steps(self.trainer)

    def closed_form(self, optimizer: Optimizer) -> StackedStep | CapturedStep | PartnersStep | None:
        """Return what takes steps in the place of autograd and the optimizer; None where autograd must take them."""
        if type(self).training_step is not PairwiseRecommender.training_step or not may_step(self.model, optimizer):
            return None
        if self.device.type != "cpu" and self.partner is None and not self.captured:
            return None
        model, own = cast(BPRMFModel, self.model), cast(LazyAdam, optimizer)
        return make_step([model], [own]) if self.partner is None else PartnersStep(self.partner, model, own)

    def on_train_end(self) -> None:
        """Give the parameters memory of their own again."""
        for parameter in self.model.parameters() if has_closed_form(self.model) else ():
            parameter.data = with_memory_of_its_own(parameter.data)

    def prepare_scores(self, data: RecommenderData) -> None:
        """Compute the items' vectors."""
        # Detached, for a parameter would be registered as one of the module's.
        self._item_vectors = self.model.item_vectors().detach()

    def scores(self, users: Tensor) -> Tensor:
        """Return the products of the users' and all items' vectors, ``(B, N)``."""
        return self.model.scores(users, self._item_vectors)

    @property
    def scores_parts(self) -> bool:
        """Whether a subclass scores as this class does."""
        return type(self).scores is PairwiseRecommender.scores

    def scores_of(self, users: Tensor, items: slice) -> Tensor:
        """Return the products of the users' and some items' vectors, ``(B, W)``."""
        return (
            self.model.scores(users, self._item_vectors[items])
            if self.scores_parts
            else super().scores_of(users, items)
        )

    def configure_optimizers(self) -> Optimizer:
        """Return the optimizer, and give embeddings sparse gradients where it makes the same of them as of dense ones.

        A sparse step costs what the rows of a batch cost, a dense one what all users and items cost.

        Raises:
            CatwalkError: If the optimizer refuses a setting, or cannot train these parameters.
        """
        groups: list[dict[str, Any]] = [
            {"params": parameters, "lr": self.learning_rates[name]}
            if name in self.learning_rates
            else {"params": parameters}
            for name, parameters in self.model.parameter_groups().items()
        ]
        try:
            optimizer = self.make_optimizer(groups)
        except ValueError as error:
            raise CatwalkError(f"optimizer: {error}") from error
        embeddings = [module for module in self.modules() if isinstance(module, nn.Embedding)]
        is_sparse = self._may_be_sparse() and _same_by_sparse_gradients(optimizer)
        if isinstance(optimizer, torch.optim.SparseAdam):
            is_sparse = True
            if len(embeddings) < len(list(self.parameters())):
                raise CatwalkError(
                    f"optimizer: SparseAdam cannot train {type(self).__name__}, which has more than embeddings; use "
                    "Adagrad, SGD or Adam"
                )
        for module in embeddings:
            module.sparse = is_sparse
        return optimizer

    def _may_be_sparse(self) -> bool:
        """Whether the Trainer leaves gradients alone between the backward pass and the optimizer's step."""
        if self._trainer is None:
            return True
        # Of a single process, too, these strategies gather gradients, and take no sparse ones.
        return not (isinstance(self.trainer.strategy, ParallelStrategy) or self.trainer.gradient_clip_val)


def _same_by_sparse_gradients(optimizer: Optimizer) -> bool:
    """Whether an optimizer leaves rows without a gradient as they are, and takes sparse gradients."""
    moves_all_rows = any(
        group.get(name) for group in optimizer.param_groups for name in ("weight_decay", "momentum", "fused", "foreach")
    )
    return type(optimizer) in (LazyAdam, torch.optim.Adagrad, torch.optim.SGD) and not moves_all_rows


def _default_optimizer(parameters: Iterable) -> Optimizer:
    return LazyAdam(parameters, lr=0.01)
