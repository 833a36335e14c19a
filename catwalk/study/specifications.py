"""What a study's YAML names: networks, recommenders, attacks, splits and data, as checked specifications."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import LightningDataModule

from catwalk.attacks.attack import Attack
from catwalk.configuration.specification import Specification
from catwalk.errors import CatwalkError
from catwalk.shop.splits import SplitRule
from lightning_modules.cnn import ProductClassifier
from lightning_modules.recommender import Recommender


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
