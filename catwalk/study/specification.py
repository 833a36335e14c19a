"""Classes with their arguments as a study's YAML states them, checked before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from pytorch_lightning import LightningDataModule

from catwalk.attacks.attack import Attack
from catwalk.backbones import import_object
from catwalk.errors import CatwalkError
from catwalk.one_line import one_line
from catwalk.parsers import instantiate
from catwalk.splits import SplitRule
from lightning_modules.cnn import ProductClassifier
from lightning_modules.recommender import Recommender


@dataclass(frozen=True)
class Specification:
    """A class with its arguments, complete with defaults, that has been checked but not called.

    Attributes:
        argument: What the user calls it, for messages.
        settings: ``class_path`` and ``init_args`` as plain values.
        parser: Makes the object.
        parsed: What the parser made of the settings.
    """

    argument: str
    settings: dict[str, Any]
    parser: ArgumentParser
    parsed: Namespace

    @classmethod
    def of(cls, settings: Mapping[str, Any], base: type, argument: str) -> "Specification":
        """Check ``class_path`` and ``init_args`` against a class and complete them.

        Raises:
            CatwalkError: If the class is no subclass of ``base`` or does not take the arguments.
        """
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(base, "it", required=True)
        try:
            parsed = parser.parse_object({"it": dict(settings)})
        except ArgumentError as error:
            raise CatwalkError(one_line(str(error), argument)) from error
        return cls(argument, parsed["it"].as_dict(), parser, parsed)

    @property
    def module(self) -> str:
        """Name of the module in which the class is defined, wherever it is imported from."""
        return import_object(self.settings["class_path"], self.argument).__module__

    def instantiate(self) -> Any:
        """Make the object.

        Raises:
            CatwalkError: If the class refuses a value.
        """
        try:
            return instantiate(self.parser, self.parsed)["it"]
        except ValueError as error:  # what jsonargparse makes of whatever the class raises
            raise CatwalkError(one_line(str(error), self.argument)) from error


def attack_of(settings: Mapping[str, Any], argument: str = "attacks") -> Specification:
    """Return an attack."""
    return Specification.of(settings, Attack, argument)


def split_of(settings: Mapping[str, Any], argument: str = "split") -> Specification:
    """Return a rule by which purchases are divided, and which accepts its arguments."""
    specification = Specification.of(settings, SplitRule, argument)
    specification.instantiate()
    return specification


def classifier_of(settings: Mapping[str, Any], name: str) -> Specification:
    """Return a network's LightningModule."""
    return Specification.of(settings, ProductClassifier, f"extractors.{name}.model")


def recommender_of(settings: Mapping[str, Any], name: str, top_k: int) -> Specification:
    """Return a recommender's LightningModule, which makes lists of the study's length unless it is told which.

    Raises:
        CatwalkError: If it is told, and the study's length is not among them.
    """
    argument = f"recommenders.{name}.model"
    specification = Specification.of(settings, Recommender, argument)
    if "top_k" not in specification.settings["init_args"]:
        return specification
    if "top_k" not in (settings.get("init_args") or {}):
        with_top_k = {**(settings.get("init_args") or {}), "top_k": [top_k]}
        return Specification.of({**settings, "init_args": with_top_k}, Recommender, argument)
    stated = list(specification.settings["init_args"]["top_k"])
    if top_k not in stated:
        raise CatwalkError(f"{argument}.top_k: must contain the study's top_k, {top_k}, or be left out; got {stated}")
    return specification


def data_of(settings: Mapping[str, Any] | None, class_path: str, argument: str, **arguments: Any) -> Specification:
    """Return a data module, with what the study adds to its arguments."""
    complete = {"class_path": class_path, "init_args": {**(settings or {}), **arguments}}
    return Specification.of(complete, LightningDataModule, argument)
