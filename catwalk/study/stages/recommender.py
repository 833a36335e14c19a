"""The stage that trains a recommender."""

import json
from collections.abc import Sequence
from functools import cached_property, partial
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
from catwalk.study.trainer import make_trainer, quiet_lightning
from catwalk.study.trainings import RecommenderTraining, without_paths
from lightning_modules.amr import AMR
from lightning_modules.bpr_mf import BPRMF
from lightning_modules.lockstep import MAY_DIFFER, Lockstep, Partner
from lightning_modules.vbpr import VBPR


class RecommenderStage(KnownRecommender):
    """A recommender trained on clean or poisoned features."""

    kind = "recommender"
    partner: Partner | None = None
    """Whom it is trained with, while it is; see :func:`train_together`."""

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
        model.partner = self.partner
        if self.start is not None:
            model.warm_start = self.start.checkpoint
        if self.shifts is not None:
            model.shifts = self.shifts.folder
        trainer = make_trainer(training.trainer, training.trainer_argument, folder, progress)
        trainer.fit(model, data)
        trainer.save_checkpoint(folder / RECOMMENDER_FILE)
        return {"epochs": trainer.current_epoch}

    def now(self) -> float:
        """Return the time by which it is measured how long the training takes: of several, its own share."""
        return super().now() if self.partner is None else self.partner.now()

    @cached_property
    def together_with(self) -> str | None:
        """What recommenders have in common that may be trained together; None where it is trained alone.

        They differ in seed, images and λ, and begin with the same number of steps behind them.
        """
        training, arguments = self.training, dict(self.training.model.settings["init_args"])
        optimizer = arguments.get("optimizer")
        is_lazy = optimizer is None or str(optimizer.get("class_path")).endswith("lazy_adam.LazyAdam")
        if training.model.kind not in (BPRMF, VBPR, AMR) or not is_lazy:
            return None
        for name in MAY_DIFFER:
            arguments.pop(name, None)
        alike = {"class": training.model.settings["class_path"], "model": arguments, "trainer": training.trainer or {}}
        data = without_paths(training.data.settings)["init_args"]
        alike |= {"data": {**data, "seed": None}, "catalogue": self.settings["catalogue"]}
        return json.dumps({**alike, "interactions": self.settings["interactions"]}, sort_keys=True, default=str)

    @property
    def outcome(self) -> str:
        """How long it was trained."""
        return f"{self.record['epochs']} epochs"


def train_together(stages: Sequence[RecommenderStage], progress: Sequence[StudyProgress]) -> list[float]:
    """Train recommenders side by side in this process, so that they take their steps at once.

    Each ends in its own place of the store, with the bytes that it has when it is trained alone.

    Args:
        stages: The recommenders, with the same :attr:`RecommenderStage.together_with`.
        progress: Whom each tells how far it is.

    Returns:
        The seconds that each took; see :meth:`Stage.run`.

    Raises:
        CatwalkError: That of the first one that fails, when the others have ended.
    """

    def train(stage: RecommenderStage, shown: StudyProgress, partner: Partner) -> float:
        stage.partner = partner
        try:
            return stage.run(shown)
        finally:
            stage.partner = None

    # In the order of their places, so that two runs that share a store wait for each other's locks in the same order.
    order = sorted(range(len(stages)), key=lambda number: stages[number].place)
    with quiet_lightning():
        seconds = Lockstep([partial(train, stages[number], progress[number]) for number in order]).run()
    taken = dict(zip(order, seconds, strict=True))
    return [taken[number] for number in range(len(stages))]
