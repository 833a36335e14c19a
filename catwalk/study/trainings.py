"""How a study trains its networks and recommenders: settings that are checked once for all seeds and attacks."""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from catwalk.configuration.import_object import import_object
from catwalk.configuration.specification import Specification
from catwalk.errors import CatwalkError
from catwalk.files.hashes import file_hash
from catwalk.files.watched import WatchedFiles, watch
from catwalk.networks.imagenet import imagenet_categories
from catwalk.poisoning.protocol import CORRECTED, Protocol
from catwalk.recommenders.reachable_shifts import ShiftSettings
from catwalk.shop.splits import published_split
from catwalk.study.grid import Grid, Settings, Training
from catwalk.study.shop import Shop
from catwalk.study.specifications import IMAGES, TRIPLETS, classifier_of, data_of, recommender_of
from catwalk.study.trainer import make_trainer
from lightning_modules.image_robust_vbpr import ImageRobustVBPR
from lightning_modules.pairwise import PairwiseRecommender
from lightning_modules.recommender import Recommender

CONTENTS = ("dataset", "features", "cache")
"""Arguments of data modules that say where files are: their contents enter a key by fingerprint."""

BELONGING = {
    "optimizer": ("learning_rates",),
    "regularizer": ("regularization", "item_regularization", "projection_regularization"),
}
"""Arguments of recommenders that mean little without another: who states the one, states these."""


@dataclass(frozen=True)
class ClassifierTraining:
    """How a network of a study is trained.

    Attributes:
        name: What the study calls it.
        seed: Of weights and batches.
        trainer: Arguments of Lightning's Trainer.
        model: Its LightningModule.
        data: Its data module.
        backbone: The class or function that makes the network.
        is_trained_here: Whether it learns the dataset's categories; ImageNet's classifiers are taken as they are.
        category_names: The categories that it tells apart.
        device: Where it is trained and attacked, and its adversarial images are measured: the Trainer says it.
        weights: The files that its settings name to read weights from, watched since before their contents were hashed.
        settings: What the trained network depends on besides the labelled images, as plain values.
    """

    name: str
    seed: int
    trainer: Settings | None
    model: Specification
    data: Specification
    backbone: Any
    is_trained_here: bool
    category_names: tuple[str, ...]
    device: torch.device
    weights: WatchedFiles
    settings: dict[str, Any]

    @classmethod
    def of(cls, shop: Shop, name: str, training: Training) -> "ClassifierTraining":
        """Check what a study states of a network.

        Raises:
            CatwalkError: If its model, data module or Trainer refuse their arguments, or its weights are missing.
        """
        specification = classifier_of(training.model, name)
        weights = watch(*_files_of(specification))
        data = data_of(
            training.data, IMAGES, f"extractors.{name}.data", dataset=str(shop.catalogue.folder), seed=training.seed
        )
        model = specification.instantiate()
        model.initial_weights.require(model.hparams)
        is_trained_here = model.hparams["categories"] == "dataset"
        data.instantiate()
        trainer = make_trainer(training.trainer, f"extractors.{name}.trainer")
        backbone = import_object(specification.settings["init_args"]["backbone"], f"extractors.{name}.model.backbone")
        settings = {
            "model": _with_files_by_content(specification),
            "data": without_paths(data.settings),
            "trainer": training.trainer or {},
            "seed": training.seed,
        }
        library = backbone.__module__.partition(".")[0]
        with contextlib.suppress(PackageNotFoundError):  # whose networks, and weights called DEFAULT, change in time
            settings["library"] = f"{library} {version(library)}"
        return cls(
            name,
            training.seed,
            training.trainer,
            specification,
            data,
            backbone,
            is_trained_here,
            shop.catalogue.category_names if is_trained_here else imagenet_categories(),
            trainer.strategy.root_device,
            weights,
            settings,
        )

    @property
    def trainer_argument(self) -> str:
        """What the user calls the Trainer's arguments."""
        return f"extractors.{self.name}.trainer"


@dataclass(frozen=True)
class RecommenderTraining:
    """How a recommender of a study is trained, whatever the seed and the images.

    Attributes:
        name: What the study calls it.
        trainer: Arguments of Lightning's Trainer.
        model: Its LightningModule.
        data: Its data module, without features and with some seed.
        learns: Whether there is anything to train.
        looks_at_images: Whether images make a difference to it.
        start: The training of the recommender with whose parameters it begins: that one's own, or, where the protocol
            wants it so, half of it.
        shifts: How the shifts are found that it is trained against; None where it is trained against none.
    """

    name: str
    trainer: Settings | None
    model: Specification
    data: Specification
    learns: bool
    looks_at_images: bool
    start: "RecommenderTraining | None" = None
    shifts: ShiftSettings | None = None

    @classmethod
    def of(
        cls,
        grid: Grid,
        shop: Shop,
        name: str,
        others: "Mapping[str, RecommenderTraining]",
        protocol: Protocol = CORRECTED,
    ) -> "RecommenderTraining":
        """Check what a study states of a recommender, and complete it by a protocol.

        Args:
            grid: The study's.
            shop: Its dataset.
            name: Which one.
            others: Those that stand before it, under the same protocol.
            protocol: What holds where the study states nothing.

        Raises:
            CatwalkError: If its model, data module or Trainer refuse their arguments, or it cannot begin with another.
        """
        training = grid.recommenders[name]
        model = recommender_of(training.model, name, grid.top_k)
        model = model.with_defaults(**protocol_arguments(protocol, model))
        example: Recommender = model.instantiate()
        if getattr(example, "warm_start", None) is not None and training.warm_start is None:
            raise CatwalkError(
                f"recommenders.{name}.model.warm_start: leave it out, and name a recommender of the study as "
                f"recommenders.{name}.warm_start"
            )
        shifts = _shifts_of(training, name, example)
        start = None
        if training.warm_start is not None:
            start = others[training.warm_start]
            _check_warm_start(f"recommenders.{name}.warm_start", example, start)
        if protocol.begins_half_way(model.kind):
            if start is None:
                raise CatwalkError(
                    f"recommenders.{name}.warm_start is missing: the protocol's amr_start is vbpr_half_way, so name "
                    f"the study's VBPR ({', '.join(others) or 'no recommender'} stands before it), or let amr_start be "
                    "configured"
                )
            start = start.half_way
        trainer = training.trainer
        if example.learns and protocol.trainer_arguments(model.kind):
            trainer = {**protocol.trainer_arguments(model.kind), **(training.trainer or {})}
        make_trainer(trainer, f"recommenders.{name}.trainer")
        if "split" in (training.data or {}):
            raise CatwalkError(f"recommenders.{name}.data.split: leave it out, it is an argument of the study")
        given: dict[str, Any] = {"dataset": str(shop.catalogue.folder), "seed": grid.seeds[0]}
        if shop.split is not None:
            given["split"] = shop.split.settings
        elif protocol.split_rule is not None and not published_split(shop.catalogue):
            given["split"] = protocol.split_rule
        stated = {**protocol.data_arguments(), **(training.data or {})}
        data = data_of(stated, TRIPLETS, f"recommenders.{name}.data", **given)
        data.instantiate()
        return cls(name, trainer, model, data, example.learns, example.uses_features, start, shifts)

    @property
    def trainer_argument(self) -> str:
        """What the user calls the Trainer's arguments."""
        return f"recommenders.{self.name}.trainer"

    @property
    def settings(self) -> dict[str, Any]:
        """How it is trained, as plain values, which tell two trainings apart."""
        return {
            "model": self.model.settings,
            "data": self.data.settings,
            "trainer": self.trainer or {},
            "start": None if self.start is None else self.start.settings,
            "shifts": None if self.shifts is None else asdict(self.shifts),
        }

    @property
    def half_way(self) -> "RecommenderTraining":
        """The same training for half as many epochs, rounded down, and for one at least.

        Raises:
            CatwalkError: If it is not stated how many epochs there are.
        """
        epochs = (self.trainer or {}).get("max_epochs")
        if not isinstance(epochs, int) or epochs < 1:
            raise CatwalkError(
                f"{self.trainer_argument}.max_epochs: another recommender begins half-way through this one's training, "
                f"so state how many epochs there are, got {epochs!r}"
            )
        trainer = {**(self.trainer or {}), "max_epochs": max(1, epochs // 2)}
        return replace(self, name=f"{self.name} half-way", trainer=trainer)

    def data_on(self, features: Path, seed: int) -> Specification:
        """Return the data module of one training.

        Args:
            features: Folder with the features of clean or poisoned images.
            seed: Of the batches.
        """
        return self.data.with_arguments(features=features, seed=seed)


def _shifts_of(training: Training, name: str, example: Recommender) -> ShiftSettings | None:
    """Return how the shifts are found that a recommender is trained against, if it is."""
    if not isinstance(example, ImageRobustVBPR):
        if training.shifts is not None:
            raise CatwalkError(
                f"recommenders.{name}.shifts: is for ImageRobustVBPR; {type(example).__name__} is not trained against "
                "shifts, so leave it out"
            )
        return None
    if example.shifts is not None:
        raise CatwalkError(f"recommenders.{name}.model.shifts: leave it out, the study finds its own")
    try:
        return ShiftSettings(**(training.shifts or {}))
    except CatwalkError as error:
        raise CatwalkError(f"recommenders.{name}.{error}") from error
    except TypeError as error:
        allowed = ", ".join(field.name for field in fields(ShiftSettings))
        raise CatwalkError(
            f"recommenders.{name}.shifts: must be numbers called {allowed}, got {training.shifts!r}"
        ) from error


def protocol_arguments(protocol: Protocol, model: Specification) -> dict[str, Any]:
    """Return the arguments that a recommender has by a protocol, where the study states no others.

    A study that states an optimizer has its own learning rates as well, and one that states a regulariser its own
    weights.

    Args:
        protocol: The protocol.
        model: The recommender's LightningModule, as the study states it.
    """
    arguments = protocol.recommender_arguments(model.kind)
    for decisive, others in BELONGING.items():
        if decisive in model.stated:
            arguments = {name: value for name, value in arguments.items() if name not in others}
    return {name: value for name, value in arguments.items() if name not in model.stated}


def _check_warm_start(argument: str, example: Recommender, start: RecommenderTraining) -> None:
    """Raise a CatwalkError unless a recommender, and the one that it begins with, have the same parameters."""
    if not isinstance(example, PairwiseRecommender):
        raise CatwalkError(f"{argument}: {type(example).__name__} has nothing to begin with")
    if example.warm_start is not None:
        raise CatwalkError(f"{argument}: is {start.name!r}, so leave model.warm_start out")
    if not start.learns:
        raise CatwalkError(f"{argument}: {start.name} has no parameters to begin with")
    shapes = []
    for model in (start.model.instantiate(), example):
        model.build(num_users=1, num_items=1, num_features=1)
        shapes.append({name: tuple(weight.shape) for name, weight in model.state_dict().items()})
    different = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
    if different:
        raise CatwalkError(f"{argument}: {start.name} has other parameters: they differ in {', '.join(different)}")


def without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a data module's settings less where its files are: their contents enter a key by fingerprint."""
    arguments = {name: value for name, value in settings["init_args"].items() if name not in CONTENTS}
    return {**settings, "init_args": arguments}


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
