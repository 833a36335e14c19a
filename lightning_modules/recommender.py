"""Base of all recommenders: ranking of the whole catalogue, and its metrics."""

import abc
import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict, cast

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from typing_extensions import Self

from catwalk.errors import CatwalkError, DivergedError
from catwalk.metrics import HitRate, NormalizedDCG
from catwalk.metrics.mean import ShareMean
from catwalk.metrics.measured_users import measure_users
from catwalk.networks.features import FeatureTable
from catwalk.recommenders.candidate_scores import CandidateScores, rank_users
from catwalk.recommenders.checkpoints import BUILT_FOR, built_for_of
from catwalk.recommenders.feature_rows import FeatureRows
from catwalk.recommenders.ranking import check_list_length, item_blocks
from catwalk.shop.user_items import SeenItems
from lightning_modules.checkpoints import check_checkpoint, check_class
from lightning_modules.data_protocols import RecommenderData, recommender_data_of
from lightning_modules.measured_module import MeasuredModule, Stage, why_not_finite

TRAINED_ON = "trained_on"
"""Key of a checkpoint with a hash of the purchases that were trained on."""

_NOTHING = torch.zeros(0, dtype=torch.int64)


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
        ranked_items: Items whose ranks callbacks asked for, int64 ``(n,)``, ascending.
        ranks: Rank of each of them among the user's candidates, int64 ``(B, n)``; 1 is the best, and 0 stands where an
            item is no candidate. :func:`ranks_of` picks some.
    """

    targets: Tensor
    auc: Tensor
    ranked_items: Tensor
    ranks: Tensor


class Recommender(MeasuredModule):
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
        self.save_hyperparameters(ignore=["optimizer", "warm_start", "captured"])  # of the subclass, too
        self.top_k = checked_lengths(top_k)
        self.list_length = max(top_k)
        self.ranked_items = _NOTHING
        self.sizes: dict[str, int] = {}
        self.trained_on: str | None = None
        collection: dict[str, Any] = {}
        for k in top_k:
            collection |= {f"hr@{k}": HitRate(k), f"ndcg@{k}": NormalizedDCG(k)}
        # `compute_groups` would skip the update of one metric for that of another which only looks alike.
        values = MetricCollection(collection, compute_groups=False)
        self.ranking_metrics = nn.ModuleDict({"val": values.clone("val/"), "test": values.clone("test/")})
        self.auc = nn.ModuleDict({"val": ShareMean(), "test": ShareMean()})

    @abc.abstractmethod
    def build(self, num_users: int, num_items: int, num_features: int) -> None:
        """Create the parameters.

        Args:
            num_users: U.
            num_items: N.
            num_features: D; 0 for a recommender without images.
        """

    @abc.abstractmethod
    def prepare_scores(self, data: RecommenderData) -> None:
        """Compute once what the scores of all blocks of users need."""

    @abc.abstractmethod
    def scores(self, users: Tensor) -> Tensor:
        """Return the scores of all items for some users, float32 ``(B, N)``, in memory that may be written to."""

    @property
    def scores_parts(self) -> bool:
        """Whether :meth:`scores_of` computes the scores of some items without those of the others.

        Of a large catalogue those of all items are then never asked for at once.
        """
        return False

    def scores_of(self, users: Tensor, items: slice) -> Tensor:
        """Return the scores of items side by side, W of them, for some users, float32 ``(B, W)``, in such memory."""
        scores = self.scores(users)
        return scores if items.stop - items.start == self.sizes["num_items"] else scores[:, items]

    def require_list_length(self, length: int) -> None:
        """Make ranked lists at least this long, for a callback that looks further down than ``top_k``."""
        self.list_length = max(self.list_length, length)

    def require_ranks(self, items: Tensor) -> None:
        """Rank some items for every user in the validation or test that begins, besides those asked for by others.

        They are ranked by the scores of which the lists are made, which takes about as long as to find the lists.

        Args:
            items: int64 ``(n,)``, numbers of the items.
        """
        self.ranked_items = torch.cat([self.ranked_items, items.cpu()]).unique()

    def setup(self, stage: str) -> None:
        """Check that the data module has what is needed, and remember what is trained on.

        Raises:
            CatwalkError: If the lists would be longer than the catalogue, or there are no features to look at.
        """
        data = recommender_data_of(self.trainer)
        check_list_length(self.list_length, data.num_items)
        if self.uses_features:
            self._features_of(data)
        if stage == "fit":
            self.trained_on = data.split.trained_on

    def teardown(self, stage: str) -> None:
        """Make lists of :attr:`top_k` again: the callbacks of the next run say what they need."""
        self.list_length = max(self.top_k)
        self.ranked_items = _NOTHING

    def configure_model(self) -> None:
        """Build the parameters in the sizes of the data module, once, and take its features.

        They are those that a callback may just have poisoned.
        """
        if self._trainer is None:
            return
        data = recommender_data_of(self.trainer)
        sizes = self._sizes_of(data)
        if not self.is_built:
            self._build(sizes)
        if sizes != self.sizes:
            raise CatwalkError(f"the recommender was built for another dataset: {self.sizes}, not {sizes}")
        self.take_features(data)

    def take_features(self, data: RecommenderData) -> None:
        """Look at the images by the features that the data module has now; a recommender without images does not care.

        Raises:
            CatwalkError: If it has none.
        """
        if self.uses_features:
            table = self._features_of(data)
            self.look_at(data.feature_rows(self.device), table.scale)

    def look_at(self, features: FeatureRows, scale: float) -> None:
        """Take the features of all items, in the place of those before; asked of those alone that use features.

        Args:
            features: The features. They are no part of a checkpoint, which holds what was learnt and is tested on
                clean and on poisoned features alike.
            scale: The largest absolute value of the clean ones.
        """
        raise NotImplementedError(f"{type(self).__name__} uses features, and does not say how")

    def sharing_parameters(self) -> Self:
        """Return a copy that has the same parameters, and can look at other features."""
        other = copy.copy(self)
        other._trainer = self._trainer  # which copies do without
        other._modules = dict(self._modules)
        return other

    def _features_of(self, data: RecommenderData) -> FeatureTable:
        if data.feature_table is None:
            raise CatwalkError(
                f"{type(self).__name__} needs features: give data.features the folder that `catwalk predict` wrote"
            )
        return data.feature_table

    def _sizes_of(self, data: RecommenderData) -> dict[str, int]:
        num_features = self._features_of(data).features.shape[1] if self.uses_features else 0
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
        checkpoint[BUILT_FOR] = self.built_for
        checkpoint[TRAINED_ON] = self.trained_on

    @property
    def built_for(self) -> dict[str, Any]:
        """The sizes of the data, and by what features are divided, where there are any."""
        return {**self.sizes, "feature_scale": None}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build in the checkpoint's sizes where there is no data module, and check that it fits."""
        built_for = built_for_of(checkpoint)
        if built_for is None:
            raise CatwalkError("the checkpoint is not one of a recommender")
        check_class(self, checkpoint)
        if not self.is_built:
            self._build({name: value for name, value in built_for.items() if name != "feature_scale"})
        if list(self.state_dict()) == list(checkpoint["state_dict"]):  # else it is another recommender's
            is_known = self.uses_features and self._trainer is not None  # else they come later
            check_same("the checkpoint", built_for, self.built_for if is_known else self.sizes)
        check_checkpoint(self, checkpoint)
        self.trained_on = self.trained_on or checkpoint.get(TRAINED_ON)

    def begin_measuring(self, stage: Stage) -> None:
        """Compute once what all blocks of users need, if the checkpoint has not been trained on what it is asked for.

        Raises:
            CatwalkError: If a test is asked for and it was trained on other purchases than are trained on here, with or
                without those that are held out for validation.
        """
        data = recommender_data_of(self.trainer)
        if stage == "test" and self.trained_on is not None and not data.may_be_tested(self.trained_on):
            raise CatwalkError(
                "the checkpoint was trained on other purchases than these, and may know what is held out here: test it "
                "with the dataset, data.split and data.validation of its training"
            )
        self._prepare_ranking(data, stage)

    def on_predict_epoch_start(self) -> None:
        """Compute once what all blocks of users need."""
        self._prepare_ranking(recommender_data_of(self.trainer), "test")

    def _prepare_ranking(self, data: RecommenderData, stage: Stage) -> None:
        self.prepare_scores(data)
        self._seen = data.seen_items(stage).to(self.device)
        self._held_out = data.held_out_items(stage).to(self.device)

    def measure(self, batch: Tensor, stage: Stage) -> Ranking:
        """Rank the catalogue for a block of users, and look for the held-out items of those who have some."""
        users = batch
        values, mean_auc = cast(MetricCollection, self.ranking_metrics[stage]), cast(ShareMean, self.auc[stage])
        # Everybody gets a list, and counts where lists are counted; these ask for items that were held out.
        targets = self._held_out.padded(users)
        asked = targets[:, 0] >= 0
        ranked_items = self.ranked_items.to(users.device)
        recommended, areas, ranks = measure_users(
            self.candidates, users, self._seen, self.list_length, targets, ranked_items
        )
        values.update(recommended[asked], targets[asked])
        mean_auc.update(areas)
        return {
            "users": users,
            "recommended": recommended,
            "targets": targets,
            "auc": areas,
            "ranked_items": ranked_items,
            "ranks": ranks,
        }

    def end_measuring(self, stage: Stage) -> None:
        """Log the metrics: once, for that takes as long as to rank for a block of users."""
        self.log_dict(cast(MetricCollection, self.ranking_metrics[stage]))
        self.log(f"{stage}/auc", cast(ShareMean, self.auc[stage]))
        self.ranked_items = _NOTHING

    def candidates(self, users: Tensor, seen: SeenItems) -> CandidateScores:
        """Return the scores of the catalogue for a block of users, with what they have seen masked."""
        return CandidateScores(self.scores_of, users, seen, self._item_blocks, self._naming_itself)

    @property
    def _item_blocks(self) -> list[slice]:
        """The items that are scored at a time."""
        num_items = self.sizes["num_items"]
        return item_blocks(num_items) if self.scores_parts else [slice(0, num_items)]

    @contextlib.contextmanager
    def _naming_itself(self) -> Iterator[None]:
        """Let an error about scores say whose they are, and the likely cause."""
        try:
            yield
        except DivergedError as error:
            raise DivergedError(f"{type(self).__name__}: {error}; {why_not_finite(self)}") from error

    def predict_step(self, users: Tensor, batch_idx: int) -> Lists:
        """Rank the catalogue for a block of users."""
        return {"users": users, "recommended": self._lists(users, self.list_length)[0]}

    @torch.inference_mode()
    def recommend(self, users: Tensor, k: int, data: RecommenderData | None = None) -> tuple[Tensor, Tensor]:
        """Recommend the ``k`` best items that each user has not bought in training.

        Args:
            users: int64 ``(B,)`` in ``0..U-1``.
            k: Length of the lists, ``1..N``.
            data: A data module that has been set up, whose features are used and whose purchases are left out; the one
                that the recommender was last run with by default.

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
        is_given = data is not None
        if data is None:
            if self._trainer is None:
                raise CatwalkError("recommend: give data, an InteractionTriplets that has been set up")
            data = recommender_data_of(self.trainer)
        if not self.is_built:
            if self.learns:
                raise CatwalkError(f"recommend: this {type(self).__name__} has neither been trained nor loaded")
            self._build(self._sizes_of(data))
        if is_given:
            self.take_features(data)
        if len(users) and not (int(users.min()) >= 0 and int(users.max()) < self.sizes["num_users"]):
            raise CatwalkError(f"users must be numbers in 0..{self.sizes['num_users'] - 1}")
        self._prepare_ranking(data, "test")
        return self._lists(users.to(self.device), k)

    def _lists(self, users: Tensor, k: int) -> tuple[Tensor, Tensor]:
        with self._naming_itself():
            return rank_users(self.scores_of, users, k, self._seen, blocks=self._item_blocks)


def ranks_of(ranking: Ranking, items: Tensor) -> Tensor:
    """Return the ranks of some of the items that were ranked, int64 ``(B, n)``; see :class:`Ranking`.

    Args:
        ranking: What a recommender made of a block of users.
        items: int64 ``(n,)``, the items, for which :meth:`Recommender.require_ranks` was asked.
    """
    return ranking["ranks"][:, torch.searchsorted(ranking["ranked_items"], items.to(ranking["ranks"].device))]


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
