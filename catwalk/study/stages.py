"""The stages of a study, each of which reads the files of the stage before it and writes its own."""

import abc
import hashlib
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Trainer

from callbacks.category_hit_ratio import CategoryHitRatio
from callbacks.write_features import WriteFeatures
from catwalk.attacks.attack import Attack
from catwalk.backbones import import_object, load_classifier
from catwalk.catalogue import Catalogue
from catwalk.errors import CatwalkError
from catwalk.features import FeatureTable
from catwalk.labelled_images import LabelledImages
from catwalk.poisoning import AttackSummary, goal_of, items_to_attack, poison, read_summary
from catwalk.study.cache import StageCache, stage_key
from catwalk.study.grid import NO_ATTACK, Grid, Specification, Training, attack_of, data_of, model_of
from catwalk.study.progress import ShowTraining, StudyProgress
from lightning_modules.recommender import Recommender

CLASSIFIER_FILE = "classifier.ckpt"
RECOMMENDER_FILE = "recommender.ckpt"
IMAGES = "datamodules.ProductImages"
TRIPLETS = "datamodules.InteractionTriplets"


@dataclass(frozen=True)
class Shop:
    """The dataset of a study, with the fingerprints that its stages depend on."""

    catalogue: Catalogue

    @cached_property
    def interactions(self) -> str:
        """SHA-256 of the files that say who bought what."""
        digest = hashlib.sha256()
        folder = self.catalogue.folder
        files = [path for pattern in ("interactions.*", "splits/*") for path in sorted(folder.glob(pattern))]
        for path in files:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()

    @cached_property
    def labelled_images(self) -> str:
        """Fingerprint of the labelled images; what is held out is up to the data module's own arguments."""
        return LabelledImages.read(self.catalogue).fingerprint


class Stage(abc.ABC):
    """One result of a study, made once and kept in the cache.

    Attributes:
        kind: Folder of the cache, and what kind of result it is.
        description: What the user is shown.
        settings: What the result depends on, as plain values; with the code of ``modules`` they make its key.
        modules: Names of the modules that make it.
    """

    kind: str
    description: str
    settings: dict[str, Any]
    modules: tuple[str, ...]

    def __init__(self, cache: StageCache) -> None:
        self.cache = cache

    @cached_property
    def key(self) -> str:
        """Where the result stands in the cache."""
        return stage_key(self.settings, self.modules)

    @property
    def folder(self) -> Path:
        """The folder with the result."""
        return self.cache.path(self.kind, self.key)

    @cached_property
    def record(self) -> dict[str, Any]:
        """The result's figures and its seconds."""
        return self.cache.read(self.kind, self.key)

    @property
    def is_done(self) -> bool:
        """Whether the result is there."""
        return self.cache.has(self.kind, self.key)

    def run(self, progress: StudyProgress) -> None:
        """Make the result, unless it is there."""
        if self.is_done:
            return

        def timed(folder: Path) -> Mapping[str, Any]:
            start = time.perf_counter()
            figures = self.make(folder, progress)
            return {**figures, "seconds": round(time.perf_counter() - start, 3), "settings": self.settings}

        with progress.stage(self.description), quiet_lightning():
            self.cache.write(self.kind, self.key, timed)
        progress.done(self.description, self.outcome, self.record["seconds"])

    @abc.abstractmethod
    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Fill the folder and return the figures."""

    @property
    @abc.abstractmethod
    def outcome(self) -> str:
        """The figures that a user wants to see when the stage is done."""


class ClassifierStage(Stage):
    """A CNN trained on the labelled images, and its accuracy on the test images."""

    kind = "classifier"

    def __init__(self, cache: StageCache, shop: Shop, name: str, training: Training) -> None:
        super().__init__(cache)
        self.description = f"Train the CNN {name}"
        self.training = training
        self.model = model_of(training)
        self.data = data_of(training, IMAGES, dataset=str(shop.catalogue.folder), seed=training.seed)
        backbone = import_object(self.model.settings["init_args"]["backbone"], "backbone")
        self.modules = (self.model.module, "datamodules.product_images", backbone.__module__)
        self.settings = {
            "model": self.model.settings,
            "data": _without_paths(self.data),
            "trainer": training.trainer or {},
            "seed": training.seed,
            "labelled images": shop.labelled_images,
        }

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Train and test."""
        pl.seed_everything(self.training.seed, verbose=False)
        model, data = self.model.instantiate(), self.data.instantiate()
        trainer = _trainer(self.training, progress, folder)
        trainer.fit(model, data)
        trainer.save_checkpoint(folder / CLASSIFIER_FILE)
        (figures,) = trainer.test(model, data, verbose=False) or ({},)
        return {"accuracy": figures.get("test/accuracy"), "loss": figures.get("test/loss")}

    @property
    def outcome(self) -> str:
        """Accuracy."""
        accuracy = self.record["accuracy"]
        return "no test images" if accuracy is None else f"accuracy {accuracy:.4f} on the test images"


class FeaturesStage(Stage):
    """The features of the clean catalogue, and what the CNN sees in every item."""

    kind = "features"

    def __init__(self, cache: StageCache, shop: Shop, name: str, classifier: ClassifierStage) -> None:
        super().__init__(cache)
        self.description = f"Extract the features of {len(shop.catalogue):,} items with {name}"
        self.shop = shop
        self.classifier = classifier
        self.modules = ("callbacks.write_features", classifier.model.module)
        self.settings = {"classifier": classifier.key, "catalogue": shop.catalogue.fingerprint}

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Run the CNN over the catalogue."""
        model = self.classifier.model.instantiate()
        trainer = _trainer(self.classifier.training, progress, folder, WriteFeatures(folder))
        checkpoint = self.classifier.folder / CLASSIFIER_FILE
        trainer.predict(
            model, self.classifier.data.instantiate(), return_predictions=False, ckpt_path=checkpoint, weights_only=True
        )
        table = FeatureTable.read(folder, self.shop.catalogue)
        return {"num_features": table.features.shape[1], "scale": table.scale, "network": table.network}

    @property
    def table(self) -> FeatureTable:
        """The features."""
        return FeatureTable.read(self.folder, self.shop.catalogue)

    @property
    def outcome(self) -> str:
        """Size."""
        return f"{self.record['num_features']} per item"


class AttackStage(Stage):
    """Adversarial images of the source category, as files, and the features of the poisoned catalogue."""

    kind = "attack"

    def __init__(
        self, cache: StageCache, name: str, grid: Grid, attack: Mapping[str, Any], features: FeaturesStage
    ) -> None:
        super().__init__(cache)
        self.grid = grid
        self.features = features
        self.specification = attack_of(attack)
        self.attack: Attack = self.specification.instantiate()
        self.description = f"{self.attack.name} on {grid.source} images against {name}"
        self.modules = ("catwalk.poisoning", self.specification.module)
        self.settings = {
            "attack": self.specification.settings,
            "features": features.key,
            "source": grid.source,
            "target": grid.target if self.attack.targeted else None,
            "chosen by": grid.protocol.source_items,
        }

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Attack, write, read back and measure."""
        poison(
            load_classifier(self.features.classifier.folder / CLASSIFIER_FILE),
            self.attack,
            self.features.shop.catalogue,
            self.features.table,
            folder,
            source=self.grid.source,
            target=self.settings["target"],
            chosen_by=self.grid.protocol.source_items,
            progress=progress.callback,
        )
        return {}

    def check(self) -> None:
        """Raise a CatwalkError if the categories do not fit the network."""
        table, catalogue = self.features.table, self.features.shop.catalogue
        goal_of(self.attack, table, self.grid.source, self.settings["target"])
        items_to_attack(table, catalogue, self.grid.source, self.grid.protocol.source_items)

    @property
    def summary(self) -> AttackSummary:
        """What the attack did to the images."""
        return read_summary(self.folder)

    @property
    def outcome(self) -> str:
        """Success rate."""
        return f"success rate {self.summary.sr:.1%} of {self.summary.n_attacked} images"


class RecommenderStage(Stage):
    """A recommender trained on clean or poisoned features, and what it recommends to the test users."""

    kind = "recommender"

    def __init__(
        self,
        cache: StageCache,
        shop: Shop,
        name: str,
        grid: Grid,
        training: Training,
        seed: int,
        features: FeaturesStage,
        attack: AttackStage | None,
    ) -> None:
        super().__init__(cache)
        source = attack if attack is not None else features
        against = attack.attack.name if attack is not None else NO_ATTACK
        self.description = f"Train {name} · {against} · seed {seed}"
        self.training = training
        self.grid = grid
        self.seed = seed
        self.model = model_of(training)
        self.source: FeaturesStage | AttackStage = source
        self.shop = shop
        self.modules = (self.model.module, "datamodules.interaction_triplets", "callbacks.category_hit_ratio")
        data = data_of(training, TRIPLETS, dataset=str(shop.catalogue.folder), seed=seed)
        self.settings = {
            "model": self.model.settings,
            "data": _without_paths(data),
            "trainer": training.trainer or {},
            "seed": seed,
            "top_k": grid.top_k,
            "chr categories": grid.protocol.chr_categories,
            "features": source.key,
            "catalogue": shop.catalogue.fingerprint,
            "interactions": shop.interactions,
        }

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Train and test."""
        pl.seed_everything(self.seed, verbose=False)
        model = self.model.instantiate()
        if not isinstance(model, Recommender):
            raise CatwalkError(f"recommenders: {type(model).__name__} is no recommender")
        k = self.grid.top_k
        if k not in model.top_k:
            raise CatwalkError(f"recommenders: top_k of {type(model).__name__} must contain the study's top_k, {k}")
        data = data_of(
            self.training,
            TRIPLETS,
            dataset=str(self.shop.catalogue.folder),
            features=str(self.source.folder),
            seed=self.seed,
        ).instantiate()
        category_hit_ratio = CategoryHitRatio([k], categories_by=self.grid.protocol.chr_categories)
        trainer = _trainer(self.training, progress, folder, category_hit_ratio)
        trainer.fit(model, data)
        trainer.save_checkpoint(folder / RECOMMENDER_FILE)
        (figures,) = trainer.test(model, data, verbose=False)
        chr_of = {name: figures[f"test/chr@{k}/{name}"] for name in category_hit_ratio.names}
        return {"hr": figures[f"test/hr@{k}"], "ndcg": figures[f"test/ndcg@{k}"], "auc": figures["test/auc"]} | {
            "chr": chr_of
        }

    @property
    def outcome(self) -> str:
        """CHR of the source category and HR."""
        k, record = self.grid.top_k, self.record
        return f"CHR@{k} of {self.grid.source} {record['chr'][self.grid.source]:.4f}, HR@{k} {record['hr']:.4f}"


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's notices and hints from breaking into a study's own display."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.fabric", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _trainer(training: Training, progress: StudyProgress, folder: Path, *callbacks: pl.Callback) -> Trainer:
    """Return a Trainer that shows its batches on the study's bar and writes nothing by itself."""
    settings: dict[str, Any] = {
        "accelerator": "auto",
        "devices": 1,
        "deterministic": True,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        **(training.trainer or {}),
    }
    try:
        return Trainer(callbacks=[ShowTraining(progress), *callbacks], **settings)
    except TypeError as error:
        raise CatwalkError(f"trainer: {error}") from error


def _without_paths(data: Specification) -> dict[str, Any]:
    """Return a data module's settings less where its files are: their contents enter a key by fingerprint."""
    arguments = {
        name: value
        for name, value in data.settings["init_args"].items()
        if name not in ("dataset", "features", "cache")
    }
    return {**data.settings, "init_args": arguments}
