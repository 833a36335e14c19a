"""The stage that measures what else a study was asked for, of a recommender that has been trained."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from catwalk.errors import CatwalkError
from catwalk.poisoning.poison import items_to_attack
from catwalk.results.store import StageCache
from catwalk.study.metrics import OWN, Metrics
from catwalk.study.progress import StudyProgress
from catwalk.study.specifications import modules_of
from catwalk.study.stages.features import FeaturesStage
from catwalk.study.stages.recommender import RecommenderStage
from catwalk.study.stages.stage import Stage
from catwalk.study.trainer import make_trainer

SHOWN = 3
"""Metrics that are told when the stage is done."""


class MetricsStage(Stage):
    """Further metrics of a trained recommender: its checkpoint is tested once more, and nothing is trained."""

    kind = "metrics"

    def __init__(
        self, cache: StageCache, recommender: RecommenderStage, clean: FeaturesStage, metrics: Metrics
    ) -> None:
        """Plan it.

        Args:
            cache: Where results live.
            recommender: The recommender.
            clean: The features of the clean catalogue by its network, which say what is attacked.
            metrics: What to measure.
        """
        super().__init__(cache)
        self.recommender = recommender
        self.clean = clean
        self.metrics = metrics
        self.inputs = (recommender, recommender.source)
        self.description = f"Metrics of {recommender.description}"
        self.files = recommender.files
        training, protocol = recommender.training, recommender.grid.protocol
        if metrics.lengths(OWN) and "top_k" not in training.model.settings["init_args"]:
            raise CatwalkError(
                f"metrics: {' and '.join(OWN)} of other lists than the study's need an argument top_k, which "
                f"recommenders.{training.name}.model does not have; leave them out"
            )
        # Whoever measures the attacked items needs their numbers alone.
        callbacks = metrics.callbacks(torch.zeros(0, dtype=torch.int64))
        self.modules = modules_of(training.model, training.data, *map(type, callbacks))
        self.settings = {
            "recommender": recommender.key,
            "metrics": sorted(metric.name for metric in metrics.chosen),
            "source": metrics.source,
            "chr categories": metrics.categories_by,
        }
        if metrics.of_attacked_items:
            self.inputs += (clean,)
            self.settings |= {"clean features": clean.key, "source items": protocol.source_items}

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Test the recommender."""
        stage, training = self.recommender, self.recommender.training
        pl.seed_everything(stage.seed, verbose=False)
        specification, lengths = training.model, self.metrics.lengths(OWN)
        if lengths:
            specification = specification.with_arguments(top_k=lengths)
        model = specification.instantiate()
        data = training.data_on(stage.source.folder, stage.seed).instantiate()
        items = None
        if self.metrics.of_attacked_items:
            protocol, catalogue = stage.grid.protocol, self.clean.shop.catalogue
            chosen = items_to_attack(self.clean.table, catalogue, self.metrics.source, protocol.source_items)
            items = torch.from_numpy(chosen)
        callbacks = self.metrics.callbacks(items)
        trainer = make_trainer(training.trainer, training.trainer_argument, folder, progress, *callbacks)
        checkpoint = stage.checkpoint if training.learns else None
        (logged,) = trainer.test(model, data, ckpt_path=checkpoint, weights_only=True, verbose=False)
        return {"metrics": self.metrics.values(logged)}

    @property
    def values(self) -> dict[str, float | None]:
        """The metrics by name; None for one that is not a number."""
        return {metric.name: self.record["metrics"][metric.name] for metric in self.metrics.chosen}

    @property
    def outcome(self) -> str:
        """The first of the metrics."""
        shown = [f"{name} {value:.4f}" for name, value in self.values.items() if value is not None]
        return ", ".join(shown[:SHOWN] + ["…"] * (len(shown) > SHOWN)) or "nothing that is a number"
