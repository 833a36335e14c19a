"""The stages of a study, each of which reads the files of the stage before it and writes its own."""

import abc
import contextlib
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from callbacks.adversarial_accuracy import AdversarialAccuracy
from callbacks.category_hit_ratio import CategoryHitRatio
from callbacks.write_features import WriteFeatures
from callbacks.write_user_figures import WriteUserFigures
from catwalk.attacks.attack import Attack
from catwalk.backbones import Classifier, import_object, load_classifier
from catwalk.catalogue import Catalogue
from catwalk.errors import CatwalkError, DivergedError, TooLargeError
from catwalk.features import FeatureTable
from catwalk.file_hashes import file_hash
from catwalk.imagenet import imagenet_categories
from catwalk.labelled_images import LabelledImages
from catwalk.poisoning import AttackSummary, NothingToAttackError, poison, read_summary
from catwalk.splits import Split, read_split
from catwalk.stage_keys import stage_key
from catwalk.study.cache import StageCache
from catwalk.study.grid import NO_ATTACK, Grid, Training
from catwalk.study.progress import StudyProgress
from catwalk.study.specification import Specification, attack_of, classifier_of, data_of, recommender_of
from catwalk.study.trainer import make_trainer, quiet_lightning
from catwalk.watched_files import WatchedFiles, watch, watch_folder
from lightning_modules.pairwise import PairwiseRecommender
from lightning_modules.recommender import Recommender

CLASSIFIER_FILE = "classifier.ckpt"
RECOMMENDER_FILE = "recommender.ckpt"
USERS_FILE = "users.parquet"
IMAGES = "datamodules.ProductImages"
TRIPLETS = "datamodules.InteractionTriplets"


@dataclass(frozen=True)
class Shop:
    """The dataset of a study, with the fingerprints that its stages depend on, and the files behind these.

    Attributes:
        catalogue: What is sold.
        lists: The files that say what is sold, watched since before they were read.
        split: How the purchases are divided; as :func:`~catwalk.splits.read_split` does without a rule by default.
    """

    catalogue: Catalogue
    lists: WatchedFiles
    split: Specification | None = None

    @classmethod
    def read(cls, folder: str | Path, split: Specification | None = None) -> "Shop":
        """Read the catalogue of a dataset folder; errors are those of :meth:`~catwalk.catalogue.Catalogue.read`."""
        lists = watch_folder(Path(folder), "items.*", "dataset.json")
        return cls(Catalogue.read(folder), lists, split)

    def read_split(self) -> Split:
        """Return the purchases, divided."""
        return read_split(self.catalogue, rule=None if self.split is None else self.split.instantiate())

    @cached_property
    def split_facts(self) -> tuple[str, ...]:
        """What there is to tell of how the purchases are divided; reading them shows that they are sound."""
        return tuple(self.read_split().facts())

    @cached_property
    def items(self) -> "Contents":
        """The catalogue and its images."""
        folder = self.catalogue.folder
        images = WatchedFiles(lambda: [folder / image for image in self.catalogue.images])
        return Contents(replace(self.catalogue).fingerprint, (self.lists, images))

    @cached_property
    def interactions(self) -> "Contents":
        """The files that say who bought what; they are read once, to see that they are sound."""
        folder, patterns = self.catalogue.folder, ("interactions.*", "splits/*")
        files = watch_folder(folder, *patterns)
        _ = self.split_facts
        digest = hashlib.sha256()
        for path in [path for pattern in patterns for path in sorted(folder.glob(pattern))]:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
        return Contents(digest.hexdigest(), (files,))

    @cached_property
    def labelled_images(self) -> "Contents":
        """The labelled images; what is held out of them is up to the data module's own arguments."""
        folder = self.catalogue.folder
        table = watch_folder(folder, "labelled_images.*")
        labelled = LabelledImages.read(self.catalogue)
        images = WatchedFiles(lambda: [folder / image for image in labelled.images])
        return Contents(labelled.fingerprint, (self.lists, table, images))


class Contents(NamedTuple):
    """What some files held when their states were taken.

    Attributes:
        fingerprint: Of the contents, which enters the keys of what is made of them.
        files: The files, watched since before they were read.
    """

    fingerprint: str
    files: tuple[WatchedFiles, ...]


class Stage(abc.ABC):
    """One result of a study, made once and kept in the cache.

    Attributes:
        kind: Folder of the cache, and what kind of result it is.
        description: What the user is shown.
        settings: What the result depends on, as plain values; with the code of ``modules`` they make its key.
        modules: Names of the modules that make it.
        inputs: The stages whose results it reads.
        files: Other files that it reads, watched since before their contents entered its settings.
    """

    kind: str
    description: str
    settings: dict[str, Any]
    modules: tuple[str, ...]
    inputs: "tuple[Stage, ...]" = ()
    files: tuple[WatchedFiles, ...] = ()

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
        """Whether the result is there, whole and as it was written."""
        return self.cache.take(self.kind, self.key, self.description) is not None

    def run(self, progress: StudyProgress) -> None:
        """Make the result, unless it is there or another run makes it first.

        Raises:
            CatwalkError: If a file that it reads was written meanwhile; nothing is kept then.
        """

        def timed(folder: Path) -> Mapping[str, Any]:
            start = time.perf_counter()
            self._require_unchanged()
            try:
                figures = self.make(folder, progress)
            except (MisconfigurationException, DivergedError, TooLargeError) as error:  # of settings that do not work
                raise CatwalkError(f"{self.description}: {error}") from error
            self._require_unchanged()
            return {**figures, "seconds": round(time.perf_counter() - start, 3), "settings": self.settings}

        with progress.stage(self.description), quiet_lightning():
            self.cache.write(self.kind, self.key, timed, self.description)
        progress.done(self.description, self.outcome, self.record["seconds"])

    def _require_unchanged(self) -> None:
        """Raise a CatwalkError unless all that the result is made of is as it was when it entered the key."""
        for files in self.files:
            files.require_unchanged(self.description)
        for stage in self.inputs:
            stage.require_sound()

    def require_sound(self) -> None:
        """Raise a CatwalkError if the result, or one that it was made of, was written since it was checked."""
        result = self.cache.take(self.kind, self.key, self.description)
        if result is None:
            raise CatwalkError(f"{self.description}: the result in {self.folder} has gone; run the same command again")
        result.files.require_unchanged(self.description)
        for stage in self.inputs:
            stage.require_sound()

    @abc.abstractmethod
    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Fill the folder and return the figures."""

    @property
    @abc.abstractmethod
    def outcome(self) -> str:
        """The figures that a user wants to see when the stage is done."""


class ClassifierStage(Stage):
    """A CNN trained on the labelled images, and its accuracy on the test images; ImageNet's classifiers as they are."""

    kind = "classifier"

    def __init__(self, cache: StageCache, shop: Shop, name: str, training: Training) -> None:
        super().__init__(cache)
        self.description = f"CNN {name}"
        self.name = name
        self.training = training
        self.model = classifier_of(training.model, name)
        weights = watch(*_files_of(self.model))
        data = f"extractors.{name}.data"
        self.data = data_of(training.data, IMAGES, data, dataset=str(shop.catalogue.folder), seed=training.seed)
        model = self.model.instantiate()
        model.require_initial_weights()
        self.is_trained_here = model.hparams["categories"] == "dataset"
        self.category_names = shop.catalogue.category_names if self.is_trained_here else imagenet_categories()
        self.data.instantiate()
        make_trainer(training.trainer, self.trainer_argument)
        backbone = import_object(self.model.settings["init_args"]["backbone"], f"extractors.{name}.model.backbone")
        self.modules = (self.model.module, "datamodules.product_images", backbone.__module__)
        self.settings = {
            "model": _with_files_by_content(self.model),
            "data": _without_paths(self.data),
            "trainer": training.trainer or {},
            "seed": training.seed,
        }
        self.files = (shop.lists, weights)
        if self.is_trained_here:
            self.settings["labelled images"] = shop.labelled_images.fingerprint
            self.files = (*shop.labelled_images.files, weights)
        library = backbone.__module__.partition(".")[0]
        with contextlib.suppress(PackageNotFoundError):  # whose networks, and weights called DEFAULT, change in time
            self.settings["library"] = f"{library} {version(library)}"

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Train and test."""
        pl.seed_everything(self.training.seed, verbose=False)
        model, data = self.model.instantiate(), self.data.instantiate()
        trainer = make_trainer(self.training.trainer, self.trainer_argument, folder, progress)
        if not self.is_trained_here:
            data.prepare_data()
            model.build_for(data)
            trainer.strategy.connect(model)
            trainer.save_checkpoint(folder / CLASSIFIER_FILE)
            return {"accuracy": None, "loss": None}
        trainer.fit(model, data)
        trainer.save_checkpoint(folder / CLASSIFIER_FILE)
        (figures,) = trainer.test(model, data, verbose=False) or ({},)
        return {"accuracy": figures.get("test/accuracy"), "loss": figures.get("test/loss")}

    def load(self) -> Classifier:
        """Return the trained network, of the backbone that the study names."""
        arguments = self.model.settings["init_args"]
        return load_classifier(self.folder / CLASSIFIER_FILE, arguments["backbone"], arguments.get("backbone_args"))

    @property
    def trainer_argument(self) -> str:
        """What the user calls the Trainer's arguments."""
        return f"extractors.{self.name}.trainer"

    @property
    def device(self) -> torch.device:
        """Where the CNN is trained, attacked, and its adversarial images are measured: the Trainer says it."""
        return make_trainer(self.training.trainer, self.trainer_argument).strategy.root_device

    @property
    def outcome(self) -> str:
        """Accuracy."""
        if not self.is_trained_here:
            return "not trained here"
        accuracy = self.record["accuracy"]
        return "no test images" if accuracy is None else f"accuracy {accuracy:.4f} on test images"


class AccuracyStage(Stage):
    """What is left of a CNN's accuracy on the test images when each of them is attacked."""

    kind = "accuracy"

    def __init__(self, cache: StageCache, shop: Shop, attack: Mapping[str, Any], classifier: ClassifierStage) -> None:
        super().__init__(cache)
        self.classifier = classifier
        self.inputs = (classifier,)
        self.attack = attack_of(attack, "accuracy_attack")
        example: Attack = self.attack.instantiate()
        try:
            AdversarialAccuracy(example)
        except CatwalkError as error:
            raise CatwalkError(str(error).replace("AdversarialAccuracy.attack", "accuracy_attack")) from error
        self.attack_name = example.name
        self.description = f"Accuracy of CNN {classifier.name} under {self.attack_name}"
        self.modules = ("callbacks.adversarial_accuracy", self.attack.module)
        self.settings = {
            "classifier": classifier.key,
            "attack": self.attack.settings,
            "labelled images": shop.labelled_images.fingerprint,
        }
        self.files = shop.labelled_images.files

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Attack every test image."""
        classifier = self.classifier
        model = classifier.model.instantiate()
        model.awaits_checkpoint = True
        measure = AdversarialAccuracy(self.attack.instantiate())
        trainer = make_trainer(classifier.training.trainer, classifier.trainer_argument, folder, progress, measure)
        data, checkpoint = classifier.data.instantiate(), classifier.folder / CLASSIFIER_FILE
        figures = trainer.test(model, data, ckpt_path=checkpoint, weights_only=True, verbose=False)
        return {"accuracy": (figures or [{}])[0].get(f"test/{measure.figure}")}

    @property
    def outcome(self) -> str:
        """Accuracy."""
        accuracy = self.record["accuracy"]
        return "no test images" if accuracy is None else f"{accuracy:.4f} on test images"


class FeaturesStage(Stage):
    """The features of the clean catalogue, and what the CNN sees in every item."""

    kind = "features"

    def __init__(self, cache: StageCache, shop: Shop, classifier: ClassifierStage) -> None:
        super().__init__(cache)
        self.description = f"Features of {len(shop.catalogue):,} items by {classifier.name}"
        self.shop = shop
        self.classifier = classifier
        self.inputs = (classifier,)
        self.modules = ("callbacks.write_features", classifier.model.module)
        self.settings = {"classifier": classifier.key, "catalogue": shop.items.fingerprint}
        self.files = shop.items.files

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Run the CNN over the catalogue."""
        model = self.classifier.model.instantiate()
        model.awaits_checkpoint = True
        classifier = self.classifier
        trainer = make_trainer(
            classifier.training.trainer, classifier.trainer_argument, folder, progress, WriteFeatures(folder)
        )
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
        self,
        cache: StageCache,
        grid: Grid,
        name: str,
        attack: Mapping[str, Any],
        features: FeaturesStage,
        known: "RecommenderStage | None" = None,
    ) -> None:
        """Plan it.

        Args:
            cache: Where results live.
            grid: The study's.
            name: What tables call the attack.
            attack: Its ``class_path`` and ``init_args``.
            features: Those of the network under attack.
            known: The recommender that the attacker knows, trained on the clean catalogue, where it must know one.
        """
        super().__init__(cache)
        self.name = name
        self.grid = grid
        self.features = features
        self.known = known
        self.inputs = (features,) if known is None else (features, known)
        self._stated = attack
        self.specification = attack_of(attack)
        self.attack: Attack = self.specification.instantiate()
        self.attack.check_eight_bit()
        self.target = grid.target if self.attack.targeted else None
        if known is not None:
            goal = f"{grid.source} in {known.name}, seed {known.seed}"
        else:
            goal = f"{grid.source} → {grid.target}" if self.attack.targeted else f"away from {grid.source}"
        self.description = f"{name}, {goal}, CNN {features.classifier.name}"
        self.modules = ("catwalk.poisoning", self.specification.module)
        self.settings = {
            "attack": self.specification.settings,
            "features": features.key,
            "source": grid.source,
            "target": self.target,
            "protocol": {**vars(grid.protocol), "name": None, "chr_categories": None},
        }
        if known is not None:
            self.settings["known recommender"] = known.key
        if getattr(self.attack, "recommender", None) is not None:
            raise CatwalkError(
                f"attacks: {name} knows the study's own recommenders, trained on the clean catalogue, so leave "
                "recommender out"
            )
        self.files = features.files
        self._must_know_purchases = self.attack.knowledge == "network and purchases"
        if self._must_know_purchases:
            self.settings["interactions"] = features.shop.interactions.fingerprint
            self.files += features.shop.interactions.files
            if features.shop.split is not None:
                self.settings["split"] = features.shop.split.settings
                self.modules += (features.shop.split.module,)

    @property
    def must_know_recommender(self) -> bool:
        """Whether there is one such attack for each recommender and seed."""
        return self.attack.knowledge == "network and recommender"

    def knowing(self, recommender: "RecommenderStage") -> "AttackStage":
        """Return the attack by somebody who knows a recommender that was trained on the clean catalogue."""
        return AttackStage(self.cache, self.grid, self.name, self._stated, self.features, recommender)

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Attack, write, read back and measure."""
        attack = self.specification.instantiate()
        catalogue = self.features.shop.catalogue
        purchases = None
        if self.known is not None:
            attack.recommender = self.known.folder / RECOMMENDER_FILE
        if self._must_know_purchases:
            purchases = np.bincount(self.features.shop.read_split().items, minlength=len(catalogue))
        classifier = self.features.classifier.load()
        classifier.network.to(self.features.classifier.device)
        try:
            poison(
                classifier,
                attack,
                catalogue,
                self.features.table,
                folder,
                source=self.grid.source,
                target=self.target,
                protocol=self.grid.protocol,
                purchases=purchases,
                progress=progress.callback,
            )
        except NothingToAttackError as error:
            raise CatwalkError(
                f"CNN {self.features.classifier.name}, {self.features.classifier.outcome}: {error}"
            ) from error
        return {}

    @property
    def summary(self) -> AttackSummary:
        """What the attack did to the images."""
        return read_summary(self.folder)

    @property
    def outcome(self) -> str:
        """Success rate."""
        return f"success rate {self.summary.sr:.1%} of {self.summary.n_attacked}"


class RecommenderStage(Stage):
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
        given: dict[str, Any] = {
            "dataset": str(shop.catalogue.folder),
            "features": str(self.source.folder),
            "seed": seed,
        }
        if "split" in (training.data or {}):
            raise CatwalkError(f"recommenders.{name}.data.split: leave it out, it is an argument of the study")
        if shop.split is not None:
            given["split"] = shop.split.settings
            self.modules += (shop.split.module,)
        self.data = data_of(training.data, TRIPLETS, f"recommenders.{name}.data", **given)
        self.data.instantiate()
        self.settings = {
            "model": self.model.settings,
            "data": _without_paths(self.data),
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
        model, data = self.model.instantiate(), self.data.instantiate()
        if self.start is not None:
            model.warm_start = self.start.folder / RECOMMENDER_FILE
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


def _with_files_by_content(model: Specification) -> dict[str, Any]:
    """Return a network's settings with the hash of the files that it reads its weights from, wherever those are."""
    settings = model.settings["init_args"]
    arguments = {**settings, "weights": file_hash(settings.get("weights"))}
    backbone_args = settings.get("backbone_args") or {}
    if backbone_args.get("checkpoint_path"):  # timm's
        arguments["backbone_args"] = {**backbone_args, "checkpoint_path": file_hash(backbone_args["checkpoint_path"])}
    return {**model.settings, "init_args": arguments}


def _files_of(model: Specification) -> list[Path]:
    """Return the files that a network's settings name to read its weights from."""
    arguments = model.settings["init_args"]
    named = [arguments.get("weights"), (arguments.get("backbone_args") or {}).get("checkpoint_path")]
    return [Path(path) for path in named if path]


def _without_paths(data: Specification) -> dict[str, Any]:
    """Return a data module's settings less where its files are: their contents enter a key by fingerprint."""
    arguments = {
        name: value
        for name, value in data.settings["init_args"].items()
        if name not in ("dataset", "features", "cache")
    }
    return {**data.settings, "init_args": arguments}
