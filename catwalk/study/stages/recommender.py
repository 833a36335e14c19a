"""The stage that trains and tests a recommender."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from callbacks.category_hit_ratio import CategoryHitRatio
from callbacks.write_user_metrics import WriteUserMetrics
from catwalk.results.store import StageCache
from catwalk.study.grid import NO_ATTACK, Grid
from catwalk.study.progress import StudyProgress
from catwalk.study.shop import Shop
from catwalk.study.specifications import modules_of
from catwalk.study.stages.attack import RECOMMENDER_FILE, AttackStage, KnownRecommender
from catwalk.study.stages.features import FeaturesStage
from catwalk.study.trainer import make_trainer
from catwalk.study.trainings import RecommenderTraining, without_paths

USERS_FILE = "users.parquet"


class RecommenderStage(KnownRecommender):
    """A recommender trained on clean or poisoned features, and what it recommends to the test users."""

    kind = "recommender"

    def __init__(
        self,
        cache: StageCache,
        shop: Shop,
        grid: Grid,
        training: RecommenderTraining,
        seed: int,
        images: FeaturesStage | AttackStage,
        start: "RecommenderStage | None" = None,
    ) -> None:
        """Plan it.

        Args:
            cache: Where results live.
            shop: The dataset.
            grid: The study's.
            training: How it is trained.
            seed: Of weights and batches.
            images: The images by whose features it recommends: clean, or attacked, where it looks at any.
            start: The recommender with whose parameters it begins.
        """
        super().__init__(cache)
        self.name = training.name
        self.training = training
        self.grid = grid
        self.seed = seed
        self.source = images
        self.start = start
        self.inputs = (images,) if start is None else (images, start)
        features, against = (images.features, images.name) if isinstance(images, AttackStage) else (images, NO_ATTACK)
        self.description = f"{self.name} on {features.classifier.name}, {against}, seed {seed}"
        self.modules = modules_of(training.model, training.data, CategoryHitRatio, WriteUserMetrics)
        data = without_paths(training.data.settings)
        self.settings = {
            "model": training.model.settings,
            "data": {**data, "init_args": {**data["init_args"], "seed": seed}},
            "trainer": training.trainer or {},
            "seed": seed,
            "top_k": grid.top_k,
            "chr categories": grid.protocol.chr_categories,
            "source": grid.source,  # of which every user's hits are kept
            "features": images.key,
            "catalogue": shop.items.fingerprint,
            "interactions": shop.interactions.fingerprint,
        }
        self.files = (*shop.items.files, *shop.interactions.files)
        if start is not None:
            self.settings["warm start"] = start.key

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Train and test."""
        pl.seed_everything(self.seed, verbose=False)
        training = self.training
        model, data = training.model.instantiate(), training.data_on(self.source.folder, self.seed).instantiate()
        if self.start is not None:
            model.warm_start = self.start.checkpoint
        k = self.grid.top_k
        categories_by = self.grid.protocol.chr_categories
        category_hit_ratio = CategoryHitRatio([k], categories_by=categories_by)
        user_metrics = WriteUserMetrics(folder / USERS_FILE, [k], [self.grid.source], categories_by)
        trainer = make_trainer(
            training.trainer, training.trainer_argument, folder, progress, category_hit_ratio, user_metrics
        )
        if training.learns:
            trainer.fit(model, data)
            trainer.save_checkpoint(folder / RECOMMENDER_FILE)
        (values,) = trainer.test(model, data, verbose=False)
        return {
            "hr": values[f"test/hr@{k}"],
            "ndcg": values[f"test/ndcg@{k}"],
            "auc": values["test/auc"],
            "chr": {name: values[f"test/chr@{k}/{name}"] for name in category_hit_ratio.names},
            "ncdcg": {name: values[f"test/ncdcg@{k}/{name}"] for name in category_hit_ratio.names},
        }

    @property
    def outcome(self) -> str:
        """CHR of the source category and HR."""
        k, record = self.grid.top_k, self.record
        return f"CHR@{k} {record['chr'][self.grid.source]:.4f}, HR@{k} {record['hr']:.4f}"
