"""The stage that trains a CNN."""

import contextlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from catwalk.configuration.import_object import import_object
from catwalk.configuration.specification import Specification
from catwalk.files.hashes import file_hash
from catwalk.files.watched import watch
from catwalk.networks.classifier import Classifier, load_classifier
from catwalk.networks.imagenet import imagenet_categories
from catwalk.results.store import StageCache
from catwalk.study.grid import Training
from catwalk.study.progress import StudyProgress
from catwalk.study.shop import Shop
from catwalk.study.specifications import classifier_of, data_of
from catwalk.study.stages.stage import Stage, _without_paths
from catwalk.study.trainer import make_trainer

CLASSIFIER_FILE = "classifier.ckpt"


IMAGES = "datamodules.ProductImages"


class ClassifierStage(Stage):
    """A CNN trained on the labelled images, and its accuracy on the test images; ImageNet's classifiers as they are."""

    kind = "classifier"

    def __init__(self, cache: StageCache, shop: Shop, name: str, training: Training) -> None:
        super().__init__(cache)
        self.description = f"CNN {name}"
        self.name = name
        self.training = training
        self.shop = shop
        self.model = classifier_of(training.model, name)
        weights = watch(*_files_of(self.model))
        data = f"extractors.{name}.data"
        self.data = data_of(training.data, IMAGES, data, dataset=str(shop.catalogue.folder), seed=training.seed)
        model = self.model.instantiate()
        model.initial_weights.require(model.hparams)
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
        return load_classifier(self.folder / CLASSIFIER_FILE, self.backbone, self.backbone_args)

    @property
    def backbone(self) -> str:
        """Import path of the backbone that the study names."""
        return str(self.model.settings["init_args"]["backbone"])

    @property
    def backbone_args(self) -> dict[str, Any] | None:
        """Its arguments."""
        return self.model.settings["init_args"].get("backbone_args")

    @property
    def trainer_argument(self) -> str:
        """What the user calls the Trainer's arguments."""
        return f"extractors.{self.name}.trainer"

    @property
    def dataset(self) -> str:
        """Name of the dataset that it is trained on."""
        return self.shop.catalogue.name

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
