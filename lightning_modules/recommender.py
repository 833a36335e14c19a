"""What all recommenders share: pairwise training, ranking of the whole catalogue, and its figures."""

import abc
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict, cast

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from catwalk.errors import CatwalkError
from catwalk.metrics import AUC, HitRate, NormalizedDCG
from catwalk.ranking import check_list_length, rank_users, score_users, top_k
from lightning_modules.checkpoints import check_checkpoint

Triplets = tuple[Tensor, Tensor, Tensor]
"""Users, items bought and items not bought, int64 ``(B,)`` each."""


class Ranking(TypedDict):
    """What ``validation_step`` and ``test_step`` hand to callbacks.

    Attributes:
        users: int64 ``(B,)``.
        recommended: int64 ``(B, list_length)``, best first; -1 where a user has no candidate left.
    """

    users: Tensor
    recommended: Tensor


class Recommender(LightningModule, abc.ABC):
    """Base of the recommenders that learn from triplets by Bayesian personalised ranking (BPR).

    A subclass says how to build its parameters, how to score, and which rows of its parameters a batch used. The
    numbers of users and items and the features come from the data module.

    Args:
        top_k: List lengths K of HR@K and nDCG@K.
        optimizer: Optimizer by class path; Adam with learning rate 0.005 by default.
    """

    uses_features = False
    """Whether the recommender looks at images."""

    def __init__(self, top_k: Sequence[int], optimizer: OptimizerCallable | None) -> None:
        super().__init__()
        if not top_k or min(top_k) < 1:
            raise CatwalkError(f"top_k must name list lengths of at least 1, got {list(top_k)}")
        self.top_k = tuple(top_k)
        self.make_optimizer: Callable[[Iterable], Optimizer] = optimizer or _default_optimizer
        self.list_length = max(top_k)
        self._is_built = False
        collection: dict[str, Any] = {}
        for k in top_k:
            collection |= {f"hr@{k}": HitRate(k), f"ndcg@{k}": NormalizedDCG(k)}
        # `compute_groups` would skip the update of one metric for that of another which only looks alike.
        figures = MetricCollection(collection, compute_groups=False)
        self.ranking_figures = nn.ModuleDict({"val": figures.clone("val/"), "test": figures.clone("test/")})
        self.auc = nn.ModuleDict({"val": AUC(), "test": AUC()})

    @abc.abstractmethod
    def build(self, num_users: int, num_items: int, num_features: int) -> None:
        """Create the parameters.

        Args:
            num_users: U.
            num_items: N.
            num_features: D; 0 for a recommender without images.
        """

    @abc.abstractmethod
    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return the training loss of a batch of triplets, int64 ``(B,)`` each, as a scalar."""

    @abc.abstractmethod
    def user_vectors(self, users: Tensor) -> Tensor:
        """Return what a user's score is linear in, ``(B, K')``."""

    @abc.abstractmethod
    def item_vectors(self) -> Tensor:
        """Return the items' counterpart of :meth:`user_vectors`, ``(N, K')``: their product is the score matrix."""

    def require_list_length(self, length: int) -> None:
        """Make ranked lists at least this long, for a callback that looks further down than ``top_k``."""
        self.list_length = max(self.list_length, length)

    def setup(self, stage: str) -> None:
        """Take the features from the data module: those that a callback may just have poisoned."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        check_list_length(self.list_length, data.num_items)
        self._take_features(data)

    def _take_features(self, data: Any) -> None:
        if not self.uses_features:
            return
        if data.feature_table is None:
            raise CatwalkError(
                f"{type(self).__name__} needs features: give data.features the folder that `catwalk predict` wrote"
            )
        features = data.feature_table.features / data.feature_table.scale
        self.hparams["feature_scale"] = data.feature_table.scale
        # Not persistent: a checkpoint holds what was learnt, and is tested on clean and on poisoned features alike.
        self.register_buffer("features", features.to(self.device), persistent=False)

    def configure_model(self) -> None:
        """Build the parameters in the sizes of the data module, once."""
        if self._trainer is None:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        num_features = data.feature_table.features.shape[1] if self.uses_features else 0
        sizes = {"num_users": data.num_users, "num_items": data.num_items, "num_features": num_features}
        if not self._is_built:
            self._build(sizes)
        built = {name: self.hparams[name] for name in sizes}
        if sizes != built:
            raise CatwalkError(f"the recommender was built for another dataset: {built}, not {sizes}")

    def _build(self, sizes: dict[str, int]) -> None:
        self.hparams.update(sizes)
        self.build(**sizes)
        self._is_built = True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build in the checkpoint's sizes where there is no data module, and check that it fits."""
        saved = checkpoint.get("hyper_parameters", {})
        sizes = ("num_users", "num_items", "num_features")
        if any(name not in saved for name in sizes):
            raise CatwalkError("the checkpoint is not one of a recommender")
        if not self._is_built:
            self._build({name: saved[name] for name in sizes})
        check_checkpoint(self, checkpoint)

    def training_step(self, batch: Triplets, batch_idx: int) -> Tensor:
        """Return the loss of a batch of triplets."""
        loss = self.loss(*batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Compute once what all blocks of users need."""
        self._prepare_ranking(self.trainer.datamodule, "val")  # type: ignore[attr-defined]

    def on_test_epoch_start(self) -> None:
        """Compute once what all blocks of users need."""
        self._prepare_ranking(self.trainer.datamodule, "test")  # type: ignore[attr-defined]

    def on_predict_epoch_start(self) -> None:
        """Compute once what all blocks of users need."""
        self._prepare_ranking(self.trainer.datamodule, "test")  # type: ignore[attr-defined]

    def _prepare_ranking(self, data: Any, stage: str) -> None:
        self._item_vectors = self.item_vectors()
        self._seen = data.seen_items(stage).to(self.device)
        self._targets = data.held_out_items(stage).to(self.device)

    def validation_step(self, users: Tensor, batch_idx: int) -> Ranking:
        """Rank the catalogue for a block of users and look for the validation items of those who have one."""
        return self._evaluate(users, "val")

    def test_step(self, users: Tensor, batch_idx: int) -> Ranking:
        """Rank the catalogue for a block of users and look for the test items of those who have one."""
        return self._evaluate(users, "test")

    def predict_step(self, users: Tensor, batch_idx: int) -> Ranking:
        """Rank the catalogue for a block of users."""
        scores = score_users(self._scores, users, self._seen)
        return {"users": users, "recommended": top_k(scores, self.list_length)[0]}

    def _scores(self, users: Tensor) -> Tensor:
        return self.user_vectors(users) @ self._item_vectors.T

    def _evaluate(self, users: Tensor, stage: str) -> Ranking:
        scores = score_users(self._scores, users, self._seen)
        recommended, _ = top_k(scores, self.list_length)
        figures, auc = cast(MetricCollection, self.ranking_figures[stage]), cast(AUC, self.auc[stage])
        # Everybody gets a list, and counts where lists are counted; these ask for an item that was held out.
        targets = self._targets[users]
        asked = targets >= 0
        figures.update(recommended[asked], targets[asked])
        auc.update(scores[asked], targets[asked])
        self.log_dict(figures, batch_size=len(users))
        self.log(f"{stage}/auc", auc, batch_size=len(users))
        return {"users": users, "recommended": recommended}

    @torch.inference_mode()
    def recommend(self, users: Tensor, k: int, data: LightningDataModule | None = None) -> tuple[Tensor, Tensor]:
        """Recommend the ``k`` best items that each user has not bought in training.

        Args:
            users: int64 ``(B,)`` in ``0..U-1``.
            k: Length of the lists, ``1..N``.
            data: An ``InteractionTriplets`` that has been set up, whose features are used and whose purchases are left
                out; the data module that the recommender was last run with by default.

        Returns:
            ``(items, scores)``, int64 and float32 ``(B, k)``, best first, ties by the smaller item number; item -1
            with score minus infinity where a user has fewer than ``k`` candidates.

        Raises:
            CatwalkError: If ``k`` is not in ``1..N``, a user number is unknown, or there is no data module.
        """
        if len(users) and not (int(users.min()) >= 0 and int(users.max()) < self.hparams["num_users"]):
            raise CatwalkError(f"users must be numbers in 0..{self.hparams['num_users'] - 1}")
        if data is not None:
            self._take_features(data)
        elif self._trainer is not None:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
        else:
            raise CatwalkError("recommend: give data, an InteractionTriplets that has been set up")
        self._prepare_ranking(data, "test")
        return rank_users(self._scores, users.to(self.device), k, self._seen)

    def configure_optimizers(self) -> Optimizer:
        """Return the optimizer."""
        return self.make_optimizer(self.parameters())


def embedding(num_rows: int, num_factors: int) -> nn.Embedding:
    """Return an embedding drawn from a normal distribution of standard deviation 0.01, cut off at two of them."""
    table = nn.Embedding(num_rows, num_factors)
    nn.init.trunc_normal_(table.weight, std=0.01, a=-0.02, b=0.02)
    return table


def _default_optimizer(parameters: Iterable) -> Optimizer:
    return torch.optim.Adam(parameters, lr=0.005)
