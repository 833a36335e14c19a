"""The grid of a study: what is trained, attacked and trained again, checked before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from pytorch_lightning import LightningDataModule, LightningModule

from catwalk.attacks.attack import Attack
from catwalk.backbones import import_object
from catwalk.errors import CatwalkError
from catwalk.protocol import Protocol

NO_ATTACK = "No attack"


@dataclass
class Training:
    """How a network or a recommender is trained.

    Attributes:
        model: ``class_path`` and ``init_args`` of a LightningModule.
        data: Arguments of its data module, without the dataset and the seed.
        trainer: Arguments of Lightning's Trainer, such as ``max_epochs``.
        seed: Seed of weights and batches of a network; recommenders take the study's seeds instead.
    """

    model: dict[str, Any]
    data: dict[str, Any] | None = None
    trainer: dict[str, Any] | None = None
    seed: int = 0


@dataclass
class Grid:
    """All cells of a study: networks × (no attack and every attack) × recommenders × seeds.

    Attributes:
        dataset: The dataset folder.
        source: Category whose images are attacked.
        target: Category that the network shall see in them.
        extractors: Networks by name, such as ``T`` for traditional training.
        attacks: ``class_path`` and ``init_args`` of each attack.
        recommenders: Recommenders by name.
        seeds: Seeds with which every recommender is trained again.
        top_k: K of all figures.
        protocol: What is attacked and counted.
    """

    dataset: Path
    source: str
    target: str
    extractors: dict[str, Training]
    attacks: list[dict[str, Any]]
    recommenders: dict[str, Training]
    seeds: list[int]
    top_k: int
    protocol: Protocol

    def __post_init__(self) -> None:
        for argument in ("extractors", "recommenders", "seeds"):
            if not getattr(self, argument):
                raise CatwalkError(f"{argument}: a study needs at least one")
        if len(set(self.seeds)) < len(self.seeds):
            raise CatwalkError(f"seeds: each may occur once, got {self.seeds}")
        names = [attack.name for attack in self.make_attacks()]
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            raise CatwalkError(f"attacks: {sorted(repeated)[0]} occurs twice")

    def make_attacks(self) -> list[Attack]:
        """Return the attacks."""
        return [attack_of(attack).instantiate() for attack in self.attacks]


@dataclass(frozen=True)
class Specification:
    """A class with its arguments, complete with defaults, that has been checked but not called.

    Attributes:
        settings: ``class_path`` and ``init_args`` as plain values.
        parser: Makes the object.
        parsed: What the parser made of the settings.
    """

    settings: dict[str, Any]
    parser: ArgumentParser
    parsed: Namespace

    @classmethod
    def of(cls, settings: Mapping[str, Any], base: type, argument: str) -> "Specification":
        """Check ``class_path`` and ``init_args`` against a class and complete them.

        Raises:
            ArgumentError: If the class is no subclass of ``base`` or does not take the arguments.
        """
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(base, argument, required=True)
        parsed = parser.parse_object({argument: dict(settings)})
        return cls(parsed[argument].as_dict(), parser, parsed)

    @property
    def module(self) -> str:
        """Name of the module in which the class is defined, wherever it is imported from."""
        return import_object(self.settings["class_path"], "class_path").__module__

    def instantiate(self) -> Any:
        """Make the object."""
        (value,) = self.parser.instantiate_classes(self.parsed).as_dict().values()
        return value


def attack_of(settings: Mapping[str, Any]) -> Specification:
    """Return an attack."""
    return Specification.of(settings, Attack, "attacks")


def model_of(training: Training) -> Specification:
    """Return the LightningModule of a training."""
    return Specification.of(training.model, LightningModule, "model")


def data_of(training: Training, class_path: str, **arguments: Any) -> Specification:
    """Return the data module of a training, with what the study adds to its arguments."""
    settings = {"class_path": class_path, "init_args": {**(training.data or {}), **arguments}}
    return Specification.of(settings, LightningDataModule, "data")
