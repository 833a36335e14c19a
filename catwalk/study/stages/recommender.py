"""The stage that trains and tests a recommender."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from callbacks.category_hit_ratio import CategoryHitRatio
from callbacks.write_user_figures import WriteUserFigures
from catwalk.configuration.specification import Specification
from catwalk.errors import CatwalkError
from catwalk.results.store import StageCache
from catwalk.study.grid import NO_ATTACK, Grid
from catwalk.study.progress import StudyProgress
from catwalk.study.shop import Shop
from catwalk.study.specifications import data_of, recommender_of
from catwalk.study.stages.attack import RECOMMENDER_FILE, AttackStage, KnownRecommender
from catwalk.study.stages.features import FeaturesStage
from catwalk.study.stages.stage import _without_paths
from catwalk.study.trainer import make_trainer
from lightning_modules.pairwise import PairwiseRecommender
from lightning_modules.recommender import Recommender

USERS_FILE = "users.parquet"
TRIPLETS = "datamodules.InteractionTriplets"


class RecommenderStage(KnownRecommender):
    """A recommender trained on clean or poisoned features, and what it recommends to the test users."""

    kind = "recommender"

    def __init__(
        self,
        cache: StageCache,
        shop: Shop,
        name: str,
        grid: Grid,
        seed: int,
        features: FeaturesStage,
        attack: AttackStage | None,
    ) -> None:
        super().__init__(cache)
        self.name = name
        training = grid.recommenders[name]
        self.training = training
        self.grid = grid
        self.seed = seed
        self.shop = shop
        self.model = recommender_of(training.model, name, grid.top_k)
        example: Recommender = self.model.instantiate()
        self.learns = example.learns
        # Without a look at images the attacks make no difference, and the cells share one training.
        self.looks_at_images = example.uses_features
        is_poisoned = attack is not None and self.looks_at_images
        self.source: FeaturesStage | AttackStage = attack if attack is not None and is_poisoned else features
        self.start: RecommenderStage | None = None
        if getattr(example, "warm_start", None) is not None and training.warm_start is None:
            raise CatwalkError(
                f"recommenders.{name}.model.warm_start: leave it out, and name a recommender of the study as "
                f"recommenders.{name}.warm_start"
            )
        if training.warm_start is not None:
            self._check_warm_start(example, training.warm_start)
            self.start = RecommenderStage(cache, shop, training.warm_start, grid, seed, features, attack)
        self.inputs = (self.source,) if self.start is None else (self.source, self.start)
        against = attack.name if attack is not None and is_poisoned else NO_ATTACK
        self.description = f"{name} on {features.classifier.name}, {against}, seed {seed}"
        make_trainer(training.trainer, self.trainer_argument)
        self.modules = (
            self.model.module,
            "datamodules.interaction_triplets",
            "callbacks.category_hit_ratio",
            "callbacks.write_user_figures",
        )
        if "split" in (training.data or {}):
            raise CatwalkError(f"recommenders.{name}.data.split: leave it out, it is an argument of the study")
        if shop.split is not None:
            self.modules += (shop.split.module,)
        data = self._data(features.folder)  # with others than an attack's, which are not known before it has run
        data.instantiate()
        self.settings = {
            "model": self.model.settings,
            "data": _without_paths(data),
            "trainer": training.trainer or {},
            "seed": seed,
            "top_k": grid.top_k,
            "chr categories": grid.protocol.chr_categories,
            "source": grid.source,  # of which every user's hits are kept
            "features": self.source.key,
            "catalogue": shop.items.fingerprint,
            "interactions": shop.interactions.fingerprint,
        }
        self.files = (*shop.items.files, *shop.interactions.files)
        if self.start is not None:
            self.settings["warm start"] = self.start.key

    def _data(self, features: Path) -> Specification:
        """Return the purchases to train and to test on, with the features of a folder."""
        given: dict[str, Any] = {
            "dataset": str(self.shop.catalogue.folder),
            "features": str(features),
            "seed": self.seed,
        }
        if self.shop.split is not None:
            given["split"] = self.shop.split.settings
        return data_of(self.training.data, TRIPLETS, f"recommenders.{self.name}.data", **given)

    def _check_warm_start(self, example: Recommender, start: str) -> None:
        """Raise a CatwalkError unless the recommender, and the one that it begins with, have parameters."""
        argument = f"recommenders.{self.name}.warm_start"
        if not isinstance(example, PairwiseRecommender):
            raise CatwalkError(f"{argument}: {type(example).__name__} has nothing to begin with")
        if example.warm_start is not None:
            raise CatwalkError(f"{argument}: is {start!r}, so leave model.warm_start out")
        first = recommender_of(self.grid.recommenders[start].model, start, self.grid.top_k).instantiate()
        if not first.learns:
            raise CatwalkError(f"{argument}: {start} has no parameters to begin with")
        shapes = []
        for model in (first, example):
            model.build(num_users=1, num_items=1, num_features=1)
            shapes.append({name: tuple(weight.shape) for name, weight in model.state_dict().items()})
        different = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
        if different:
            raise CatwalkError(f"{argument}: {start} has other parameters: they differ in {', '.join(different)}")

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Train and test."""
        pl.seed_everything(self.seed, verbose=False)
        model, data = self.model.instantiate(), self._data(self.source.folder).instantiate()
        if self.start is not None:
            model.warm_start = self.start.checkpoint
        k = self.grid.top_k
        categories_by = self.grid.protocol.chr_categories
        category_hit_ratio = CategoryHitRatio([k], categories_by=categories_by)
        user_figures = WriteUserFigures(folder / USERS_FILE, [k], [self.grid.source], categories_by)
        trainer = make_trainer(
            self.training.trainer, self.trainer_argument, folder, progress, category_hit_ratio, user_figures
        )
        if self.learns:
            trainer.fit(model, data)
            trainer.save_checkpoint(folder / RECOMMENDER_FILE)
        (figures,) = trainer.test(model, data, verbose=False)
        return {
            "hr": figures[f"test/hr@{k}"],
            "ndcg": figures[f"test/ndcg@{k}"],
            "auc": figures["test/auc"],
            "chr": {name: figures[f"test/chr@{k}/{name}"] for name in category_hit_ratio.names},
            "ncdcg": {name: figures[f"test/ncdcg@{k}/{name}"] for name in category_hit_ratio.names},
        }

    @property
    def trainer_argument(self) -> str:
        """What the user calls the Trainer's arguments."""
        return f"recommenders.{self.name}.trainer"

    @property
    def outcome(self) -> str:
        """CHR of the source category and HR."""
        k, record = self.grid.top_k, self.record
        return f"CHR@{k} {record['chr'][self.grid.source]:.4f}, HR@{k} {record['hr']:.4f}"
