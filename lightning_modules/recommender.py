"""What all recommenders share: ranking of the whole catalogue, and its figures."""

import abc
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict, cast, get_args

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torchmetrics import MetricCollection

from catwalk.errors import CatwalkError, DivergedError
from catwalk.limits import check_number
from catwalk.metrics import HitRate, NormalizedDCG
from catwalk.metrics.auc import auc
from catwalk.metrics.mean import ShareMean
from catwalk.recommenders.ranking import check_list_length, rank_users, score_users, top_k
from catwalk.recommenders.scorers import BUILT_FOR, built_for_of
from catwalk.shop.user_items import SeenItems
from lightning_modules.checkpoints import CLASS, CheckpointedModule, check_checkpoint, check_class
from lightning_modules.finite_loss import FiniteLoss, why_not_finite

TRAINED_ON = "trained_on"
"""Key of a checkpoint with a hash of the purchases that were trained on."""


class Lists(TypedDict):
    """What ``predict_step`` hands to callbacks.

    Attributes:
        users: int64 ``(B,)``.
        recommended: int64 ``(B, list_length)``, best first; -1 where a user has no candidate left.
    """

    users: Tensor
    recommended: Tensor


class Ranking(Lists):
    """What ``validation_step`` and ``test_step`` hand to callbacks.

    Attributes:
        targets: Each user's held-out items, int64 ``(B, T)``, with -1 behind the last one; T is the most that any user
            has, and the same in all blocks.
        auc: Share of the user's other candidates that score lower than a held-out item, float64 ``(B,)``; NaN without a
            held-out item.
    """

    targets: Tensor
    auc: Tensor


class Recommender(FiniteLoss, CheckpointedModule, abc.ABC):
    """Base of the recommenders: ranks the whole catalogue for every user and logs HR@K, nDCG@K and AUC.

    A subclass says how to build its parameters and how it scores. The numbers of users and items and the features come
    from the data module. Those that learn from triplets subclass :class:`~lightning_modules.PairwiseRecommender`.

    Args:
        top_k: List lengths K of HR@K and nDCG@K.
    """

    uses_features = False
    """Whether the recommender looks at images."""

    learns = False
    """Whether there is anything to train; what does not learn is tested without a checkpoint."""

    def __init__(self, top_k: Sequence[int] = (20,)) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "warm_start"])  # of the subclass, too
        self.top_k = checked_lengths(top_k)
        self.list_length = max(top_k)
        self.sizes: dict[str, int] = {}
        self.feature_scale = 1.0
        self.trained_on: str | None = None
        collection: dict[str, Any] = {}
        for k in top_k:
            collection |= {f"hr@{k}": HitRate(k), f"ndcg@{k}": NormalizedDCG(k)}
        # `compute_groups` would skip the update of one metric for that of another which only looks alike.
        figures = MetricCollection(collection, compute_groups=False)
        self.ranking_figures = nn.ModuleDict({"val": figures.clone("val/"), "test": figures.clone("test/")})
        self.auc = nn.ModuleDict({"val": ShareMean(), "test": ShareMean()})

    def check_at_least(self, least: float, *names: str) -> None:
        """Raise a CatwalkError if one of these hyper-parameters is given and less than it may be, NaN or infinite."""
        for name in names:
            value = self.hparams[name]
            if value is not None:
                check_number(value, name, least)

    def check_choice(self, choices: Any, name: str) -> None:
        """Raise a CatwalkError unless a hyper-parameter is one of a ``Literal``'s values."""
        if self.hparams[name] not in get_args(choices):
            raise CatwalkError(f"{name} must be one of {', '.join(get_args(choices))}, got {self.hparams[name]!r}")

    @abc.abstractmethod
    def build(self, num_users: int, num_items: int, num_features: int) -> None:
        """Create the parameters.

        Args:
            num_users: U.
            num_items: N.
            num_features: D; 0 for a recommender without images.
        """

    @abc.abstractmethod
    def prepare_scores(self, data: Any) -> None:
        """Compute once what the scores of all blocks of users need; ``data`` is an ``InteractionTriplets``."""

    @abc.abstractmethod
    def scores(self, users: Tensor) -> Tensor:
        """Return the scores of all items for some users, float32 ``(B, N)``, in memory that may be written to."""

    def require_list_length(self, length: int) -> None:
        """Make ranked lists at least this long, for a callback that looks further down than ``top_k``."""
        self.list_length = max(self.list_length, length)

    def setup(self, stage: str) -> None:
        """Take the features from the data module: those that a callback may just have poisoned."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        check_list_length(self.list_length, data.num_items)
        self.take_features(data)
        if stage == "fit":
            self.trained_on = data.split.trained_on

    def teardown(self, stage: str) -> None:
        """Make lists of :attr:`top_k` again: the callbacks of the next run say what they need."""
        self.list_length = max(self.top_k)

    def take_features(self, data: Any) -> None:
        """Look at the images by the features that the data module has now; a recommender without images does not care.

        Raises:
            CatwalkError: If it has none.
        """
        if not self.uses_features:
            return
        if data.feature_table is None:
            raise CatwalkError(
                f"{type(self).__name__} needs features: give data.features the folder that `catwalk predict` wrote"
            )
        # No part of a checkpoint, which holds what was learnt and is tested on clean and on poisoned features alike.
        self.features = data.feature_rows(self.device)
        self.feature_scale = data.feature_table.scale

    def configure_model(self) -> None:
        """Build the parameters in the sizes of the data module, once."""
        if self._trainer is None:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        sizes = self._sizes_of(data)
        if not self.is_built:
            self._build(sizes)
        if sizes != self.sizes:
            raise CatwalkError(f"the recommender was built for another dataset: {self.sizes}, not {sizes}")

    def _sizes_of(self, data: Any) -> dict[str, int]:
        num_features = self.features.num_features if self.uses_features else 0
        return {"num_users": data.num_users, "num_items": data.num_items, "num_features": num_features}

    def _build(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes
        self.build(**sizes)

    @property
    def is_built(self) -> bool:
        """Whether there are parameters."""
        return bool(self.sizes)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what was trained, and what it was built for."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CLASS] = type(self).__qualname__
        checkpoint[BUILT_FOR] = self.built_for
        checkpoint[TRAINED_ON] = self.trained_on

    @property
    def built_for(self) -> dict[str, Any]:
        """The sizes of the data, and by what features are divided, where there are any."""
        return {**self.sizes, "feature_scale": self.feature_scale if self.uses_features else None}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build in the checkpoint's sizes where there is no data module, and check that it fits."""
        built_for = built_for_of(checkpoint)
        if built_for is None:
            raise CatwalkError("the checkpoint is not one of a recommender")
        check_class(self, checkpoint)
        if not self.is_built:
            self._build({name: value for name, value in built_for.items() if name != "feature_scale"})
        if list(self.state_dict()) == list(checkpoint["state_dict"]):  # else it is another recommender's
            is_known = self.uses_features and hasattr(self, "features")  # else they come later
            check_same("the checkpoint", built_for, self.built_for if is_known else self.sizes)
        check_checkpoint(self, checkpoint)
        self.trained_on = self.trained_on or checkpoint.get(TRAINED_ON)

    def on_validation_epoch_start(self) -> None:
        """Compute once what all blocks of users need."""
        self._prepare_ranking(self.trainer.datamodule, "val")  # type: ignore[attr-defined]

    def on_test_epoch_start(self) -> None:
        """Compute once what all blocks of users need, if the checkpoint has not been trained on what it is asked for.

        Raises:
            CatwalkError: If it was trained on other purchases than are trained on here, with or without those that are
                held out for validation.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.trained_on is not None and not data.may_be_tested(self.trained_on):
            raise CatwalkError(
                "the checkpoint was trained on other purchases than these, and may know what is held out here: test it "
                "with the dataset, data.split and data.validation of its training"
            )
        self._prepare_ranking(data, "test")

    def on_predict_epoch_start(self) -> None:
        """Compute once what all blocks of users need."""
        self._prepare_ranking(self.trainer.datamodule, "test")  # type: ignore[attr-defined]

    def _prepare_ranking(self, data: Any, stage: str) -> None:
        self.prepare_scores(data)
        self._seen = data.seen_items(stage).to(self.device)
        self._held_out = data.held_out_items(stage).to(self.device)

    def validation_step(self, users: Tensor, batch_idx: int) -> Ranking:
        """Rank the catalogue for a block of users and look for the validation items of those who have some."""
        return self._evaluate(users, "val")

    def test_step(self, users: Tensor, batch_idx: int) -> Ranking:
        """Rank the catalogue for a block of users and look for the test items of those who have some."""
        return self._evaluate(users, "test")

    def on_validation_epoch_end(self) -> None:
        """Log the figures: once, for that takes as long as to rank for a block of users."""
        self._log_figures("val")

    def on_test_epoch_end(self) -> None:
        """Log the figures."""
        self._log_figures("test")

    def _log_figures(self, stage: str) -> None:
        self.log_dict(cast(MetricCollection, self.ranking_figures[stage]))
        self.log(f"{stage}/auc", cast(ShareMean, self.auc[stage]))

    def candidate_scores(self, users: Tensor, seen: SeenItems) -> Tensor:
        """Score the catalogue for a block of users, with what they have seen masked; see :func:`score_users`.

        Raises:
            DivergedError: If a score is NaN or infinite.
        """
        with self._naming_itself():
            return score_users(self.scores, users, seen)

    @contextlib.contextmanager
    def _naming_itself(self) -> Iterator[None]:
        """Let an error about scores say whose they are, and the likely cause."""
        try:
            yield
        except DivergedError as error:
            raise DivergedError(f"{type(self).__name__}: {error}; {why_not_finite(self)}") from error

    def predict_step(self, users: Tensor, batch_idx: int) -> Lists:
        """Rank the catalogue for a block of users."""
        scores = self.candidate_scores(users, self._seen)
        return {"users": users, "recommended": top_k(scores, self.list_length)[0]}

    def _evaluate(self, users: Tensor, stage: str) -> Ranking:
        scores = self.candidate_scores(users, self._seen)
        recommended, _ = top_k(scores, self.list_length)
        figures, mean_auc = cast(MetricCollection, self.ranking_figures[stage]), cast(ShareMean, self.auc[stage])
        # Everybody gets a list, and counts where lists are counted; these ask for items that were held out.
        targets = self._held_out.padded(users)
        asked = targets[:, 0] >= 0
        areas = torch.full(asked.shape, torch.nan, dtype=torch.float64, device=targets.device)
        # Indexing copies the scores, which most blocks need not.
        areas[asked] = auc(scores if bool(asked.all()) else scores[asked], targets[asked])
        figures.update(recommended[asked], targets[asked])
        mean_auc.update(areas)
        return {"users": users, "recommended": recommended, "targets": targets, "auc": areas}

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
            CatwalkError: If ``k`` is not in ``1..N``, a user number is unknown, there is no data module, there is
                something to learn that has not been learnt, or a score is NaN or infinite.

        Example:
            >>> import torch
            >>> from datamodules import InteractionTriplets
            >>> from lightning_modules import Popularity
            >>> data = InteractionTriplets("data/synthetic")
            >>> data.setup("test")
            >>> items, scores = Popularity().recommend(torch.tensor([0, 1]), 3, data)
            >>> items.shape
            torch.Size([2, 3])
        """
        if data is not None:
            self.take_features(data)
        elif self._trainer is not None:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
        else:
            raise CatwalkError("recommend: give data, an InteractionTriplets that has been set up")
        if not self.is_built:
            if self.learns:
                raise CatwalkError(f"recommend: this {type(self).__name__} has neither been trained nor loaded")
            self._build(self._sizes_of(data))
        if len(users) and not (int(users.min()) >= 0 and int(users.max()) < self.sizes["num_users"]):
            raise CatwalkError(f"users must be numbers in 0..{self.sizes['num_users'] - 1}")
        self._prepare_ranking(data, "test")
        with self._naming_itself():
            return rank_users(self.scores, users.to(self.device), k, self._seen)


def checked_lengths(top_k: Sequence[int]) -> tuple[int, ...]:
    """Return list lengths, or raise a :class:`CatwalkError` if there is none or one is less than 1."""
    if not isinstance(top_k, Sequence):
        raise CatwalkError(f"top_k must be a list of lengths, such as [{top_k}], got {top_k!r}")
    if not top_k or min(top_k) < 1:
        raise CatwalkError(f"top_k must name list lengths of at least 1, got {list(top_k)}")
    return tuple(top_k)


def check_same(source: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raise a CatwalkError that says what differs unless a recommender was built for the same data as another."""
    different = [
        f"{name} is {theirs.get(name)} there and {value} here"
        for name, value in ours.items()
        if theirs.get(name) != value
    ]
    if different:
        raise CatwalkError(f"{source} was trained on other data or features: {'; '.join(different)}")
