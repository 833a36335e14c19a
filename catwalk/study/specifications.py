"""Specifications of a study's networks, recommenders, attacks, splits and data, checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pytorch_lightning import LightningDataModule

from callbacks.adversarial_accuracy import AdversarialAccuracy
from catwalk.attacks.attack import Attack
from catwalk.attacks.random_noise import RandomNoise
from catwalk.attacks.transfer import Transfer
from catwalk.configuration.specification import Specification
from catwalk.errors import CatwalkError
from catwalk.poisoning.protocol import Protocol
from catwalk.shop.splits import SplitRule
from lightning_modules.cnn import ProductClassifier
from lightning_modules.recommender import Recommender

IMAGES = "datamodules.ProductImages"
TRIPLETS = "datamodules.InteractionTriplets"


def modules_of(*used: Any) -> tuple[str, ...]:
    """Return the names of the modules that make a result: those of the objects that are used for it.

    Args:
        *used: Classes, functions, and specifications, whose arguments count as well.
    """
    names = [
        name for each in used for name in (each.modules if isinstance(each, Specification) else (each.__module__,))
    ]
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class NamedAttack:
    """An attack of a study, checked once for all networks and recommenders.

    Attributes:
        name: What tables call it.
        specification: Its class with its arguments.
        example: One such attack, to ask what it is and needs; each stage makes its own.
        transfer_of: The attack that is crafted on another network, of a transfer.
    """

    name: str
    specification: Specification
    example: Attack
    transfer_of: "NamedAttack | None" = None

    def under(self, protocol: Protocol) -> "NamedAttack":
        """Return the attack with what a protocol has in the place of its class's defaults."""
        arguments = protocol.attack_arguments(type(self.example))
        if not arguments:
            return self
        specification = self.specification.with_defaults(**arguments)
        return NamedAttack(self.name, specification, specification.instantiate())

    @property
    def is_transferable(self) -> bool:
        """Whether it can be crafted on another network than the one under attack."""
        return self.example.knowledge == "network" and not is_noise(self) and not isinstance(self.example, Transfer)

    def transferred(self, name: str) -> "NamedAttack":
        """Return the attack crafted on another network.

        Args:
            name: What tables call it.
        """
        specification, example = self._transfer
        return NamedAttack(name, specification, example, self)

    @cached_property
    def _transfer(self) -> tuple[Specification, Attack]:
        settings = {"class_path": "catwalk.attacks.Transfer", "init_args": {"attack": self.specification.settings}}
        specification = attack_of(settings)
        return specification, specification.instantiate()


def is_noise(attack: NamedAttack) -> bool:
    """Return whether an attack is a control that knows nothing of any network."""
    return isinstance(attack.example, RandomNoise)


def attack_of(settings: Mapping[str, Any], argument: str = "attacks") -> Specification:
    """Return an attack."""
    return Specification.of(settings, Attack, argument)


def accuracy_attack_of(settings: Mapping[str, Any]) -> NamedAttack:
    """Return the attack under which the networks' accuracy is measured.

    Raises:
        CatwalkError: If it leads to a category, or must know more than the network.
    """
    specification = attack_of(settings, "accuracy_attack")
    example: Attack = specification.instantiate()
    try:
        AdversarialAccuracy(example)
    except CatwalkError as error:
        raise CatwalkError(str(error).replace("AdversarialAccuracy.attack", "accuracy_attack")) from error
    return NamedAttack(example.name, specification, example)


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
        return specification.with_arguments(top_k=[top_k])
    stated = list(specification.settings["init_args"]["top_k"])
    if top_k not in stated:
        raise CatwalkError(f"{argument}.top_k: must contain the study's top_k, {top_k}, or be left out; got {stated}")
    return specification


def data_of(settings: Mapping[str, Any] | None, class_path: str, argument: str, **arguments: Any) -> Specification:
    """Return a data module, with what the study adds to its arguments."""
    complete = {"class_path": class_path, "init_args": {**(settings or {}), **arguments}}
    return Specification.of(complete, LightningDataModule, argument)
