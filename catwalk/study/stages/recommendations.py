"""The stage that looks at what a trained recommender shows the test users."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytorch_lightning as pl

from callbacks.category_hit_ratio import CategoryHitRatio
from callbacks.write_attacked_items import WriteAttackedItems
from callbacks.write_user_metrics import WriteUserMetrics
from catwalk.results.store import StageCache
from catwalk.study.decomposition import Decomposition, decompose
from catwalk.study.grid import NO_ATTACK, Grid
from catwalk.study.metrics import OF_EVERYBODY, OWN, Metrics
from catwalk.study.progress import StudyProgress
from catwalk.study.specifications import modules_of
from catwalk.study.stages.images import CatalogueFeatures
from catwalk.study.stages.recommender import RecommenderStage
from catwalk.study.stages.source_items import SourceItems
from catwalk.study.stages.stage import Stage
from catwalk.study.trainer import make_trainer

USERS_FILE = "users.parquet"
"""A row for each test user."""

ITEMS_FILE = "attacked_items.parquet"
"""A row for each attacked item: how far it gets in the lists of all."""

SHOWN = 2
"""Further metrics that are told when the stage is done."""


class RecommendationsStage(Stage):
    """What a trained recommender shows the test users of a catalogue: the metrics of all, and of every single user.

    The images may be those of its training, as where the catalogue was poisoned before, or others, as in evasion.
    """

    kind = "recommendations"

    def __init__(
        self,
        cache: StageCache,
        grid: Grid,
        recommender: RecommenderStage,
        images: CatalogueFeatures,
        items: SourceItems,
        metrics: Metrics,
    ) -> None:
        """Plan it.

        Args:
            cache: Where results live.
            grid: The study's.
            recommender: The recommender, trained.
            images: The images by whose features it recommends, and the categories of the items.
            items: What is attacked, with any attack or before them all.
            metrics: What else to measure.
        """
        super().__init__(cache)
        self.grid = grid
        self.recommender = recommender
        self.images = images
        self.items = items
        self.metrics = metrics
        self.inputs = tuple(dict.fromkeys((recommender, images, *items.inputs)))
        training = recommender.training
        attack = images.attack_name or NO_ATTACK
        how = "" if images.attack_name == recommender.source.attack_name else ", trained on clean images"
        variant = f", {items.protocol.name}" if len(grid.protocols) > 1 else ""
        on = f"{images.seen_by}, {attack}{how}, seed {recommender.seed}{variant}"
        self.description = f"Lists of {recommender.name} on {on}"
        callbacks = (CategoryHitRatio, WriteUserMetrics, WriteAttackedItems, *metrics.callback_classes)
        self.modules = modules_of(training.model, training.data, *callbacks)
        self.files = recommender.files
        self.settings = {
            "recommender": recommender.key,
            "features": images.key,
            "top_k": grid.top_k,
            "chr categories": items.protocol.categories_by,
            "ncdcg ideal": items.protocol.ncdcg_ideal,
            "target": grid.target,
            "metrics": sorted(metric.name for metric in metrics.chosen),
            **items.settings,
        }

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Test the recommender."""
        stage, training, k, source = self.recommender, self.recommender.training, self.grid.top_k, self.grid.source
        pl.seed_everything(stage.seed, verbose=False)
        specification, lengths = training.model, self.metrics.lengths(OWN)
        if lengths:
            specification = specification.with_arguments(top_k=sorted({*lengths, *self._own_lengths}))
        model, data = specification.instantiate(), training.data_on(self.images.folder, stage.seed).instantiate()
        items = self.items.read()
        protocol, item_ids = self.items.protocol, [stage.shop.catalogue.item_ids[item] for item in items]
        category_hit_ratio = CategoryHitRatio(
            self.metrics.category_lengths(k),
            categories_by=protocol.categories_by,
            ncdcg_ideal=protocol.ncdcg_ideal,
        )
        target = self.grid.target if self.grid.target in self._category_names else None
        of_users = (folder / USERS_FILE, [k], [source], protocol.categories_by, source, target)
        trainer = make_trainer(
            training.trainer,
            training.trainer_argument,
            folder,
            progress,
            category_hit_ratio,
            WriteUserMetrics(*of_users, items=item_ids),
            WriteAttackedItems(folder / ITEMS_FILE, top_k=[k], items=item_ids),
            *self.metrics.callbacks(item_ids),
        )
        checkpoint = stage.checkpoint if training.learns else None
        (values,) = trainer.test(model, data, ckpt_path=checkpoint, weights_only=True, verbose=False)
        return {
            "n_attacked": len(items),
            "hr": values[f"test/hr@{k}"],
            "ndcg": values[f"test/ndcg@{k}"],
            "auc": values["test/auc"],
            "chr": {name: values[f"test/chr@{k}/{name}"] for name in category_hit_ratio.names},
            "ncdcg": {name: values[f"test/ncdcg@{k}/{name}"] for name in category_hit_ratio.names},
            "metrics": self.metrics.values(values),
        }

    def beside(self, clean: "RecommendationsStage") -> Decomposition:
        """Return what the difference from the same recommender without attack consists of.

        Args:
            clean: What it shows there.
        """
        return decompose(
            pq.read_table(clean.folder / USERS_FILE),
            pq.read_table(self.folder / USERS_FILE),
            pq.read_table(clean.folder / ITEMS_FILE),
            pq.read_table(self.folder / ITEMS_FILE),
            clean.record["chr"],
            self.record["chr"],
            source=self.grid.source,
            top_k=self.grid.top_k,
        )

    @property
    def _own_lengths(self) -> list[int]:
        return list(self.recommender.training.model.settings["init_args"].get("top_k", []))

    @property
    def _category_names(self) -> tuple[str, ...]:
        """The names of the categories that are counted."""
        if self.items.protocol.categories_by == "dataset":
            return self.recommender.shop.catalogue.category_names
        return self.items.clean.classifier.training.category_names

    @property
    def further(self) -> dict[str, float | None]:
        """The further metrics by name; None for one that is not a number."""
        return {metric.name: self.record["metrics"][metric.name] for metric in self.metrics.chosen}

    @property
    def outcome(self) -> str:
        """CHR of the source category, HR, and the first of the metrics that not every study has."""
        k, record = self.grid.top_k, self.record
        shown = [f"CHR@{k} {record['chr'][self.grid.source]:.4f}", f"HR@{k} {record['hr']:.4f}"]
        every_study = {f"{name}@{k}" for name in OF_EVERYBODY}
        asked = [(name, value) for name, value in self.further.items() if name not in every_study and value is not None]
        shown += [f"{name} {value:.4f}" for name, value in asked[:SHOWN]]
        return ", ".join(shown)
