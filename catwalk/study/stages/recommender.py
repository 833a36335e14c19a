"""The stage that trains a recommender."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from catwalk.results.store import StageCache
from catwalk.study.grid import NO_ATTACK
from catwalk.study.progress import StudyProgress
from catwalk.study.shop import Shop
from catwalk.study.specifications import modules_of
from catwalk.study.stages.attack import RECOMMENDER_FILE, KnownRecommender
from catwalk.study.stages.images import CatalogueFeatures
from catwalk.study.stages.shifts import ShiftsStage
from catwalk.study.trainer import make_trainer
from catwalk.study.trainings import RecommenderTraining, without_paths


class RecommenderStage(KnownRecommender):
    """A recommender trained on clean or poisoned features."""

    kind = "recommender"

    def __init__(
        self,
        cache: StageCache,
        shop: Shop,
        training: RecommenderTraining,
        seed: int,
        images: CatalogueFeatures,
        start: "RecommenderStage | None" = None,
        variant: str = "",
        shifts: ShiftsStage | None = None,
    ) -> None:
        """Plan it.

        Args:
            cache: Where results live.
            shop: The dataset.
            training: How it is trained.
            seed: Of weights and batches.
            images: The images by whose features it recommends: clean, attacked or mixed, where it looks at any.
            start: The recommender with whose parameters it begins.
            variant: What tells it from the same recommender under another protocol, for the screen.
            shifts: What it is trained against, where it is.
        """
        super().__init__(cache)
        self.name = training.name
        self.training = training
        self.shop = shop
        self.seed = seed
        self.source = images
        self.start = start
        self.shifts = shifts
        self.inputs = tuple(stage for stage in (images, start, shifts) if stage is not None)
        self.description = f"{self.name} on {images.seen_by}, {images.attack_name or NO_ATTACK}, seed {seed}{variant}"
        self.modules = modules_of(training.model, training.data)
        data = without_paths(training.data.settings)
        self.settings = {
            "model": training.model.settings,
            "data": {**data, "init_args": {**data["init_args"], "seed": seed}},
            "trainer": training.trainer or {},
            "seed": seed,
            "features": images.key,
            "catalogue": shop.items.fingerprint,
            "interactions": shop.interactions.fingerprint,
        }
        self.files = (*shop.items.files, *shop.interactions.files)
        if start is not None:
            self.settings["warm start"] = start.key
        if shifts is not None:
            self.settings["shifts"] = shifts.key

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Train, if there is anything to learn."""
        if not self.training.learns:
            return {"epochs": 0}
        pl.seed_everything(self.seed, verbose=False)
        training = self.training
        model, data = training.model.instantiate(), training.data_on(self.source.folder, self.seed).instantiate()
        if self.start is not None:
            model.warm_start = self.start.checkpoint
        if self.shifts is not None:
            model.shifts = self.shifts.folder
        trainer = make_trainer(training.trainer, training.trainer_argument, folder, progress)
        trainer.fit(model, data)
        trainer.save_checkpoint(folder / RECOMMENDER_FILE)
        return {"epochs": trainer.current_epoch}

    @property
    def outcome(self) -> str:
        """How long it was trained."""
        return f"{self.record['epochs']} epochs"
