"""The attack that callbacks observe, its items, and its catalogue."""

from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from callbacks.inject_poisoned_images import InjectPoisonedImages
from callbacks.trainer_callbacks import callbacks_of
from catwalk.errors import CatwalkError
from catwalk.poisoning.records import read_attacked_items
from catwalk.shop.catalogue import Catalogue


def attack_folder(callback: Callback, trainer: Trainer, given: Path | None) -> Path:
    """Return the folder of the attack to observe.

    Args:
        callback: Who observes, whom messages name.
        trainer: Who runs it.
        given: The folder that it was given; None for that of the attack in this run.

    Raises:
        CatwalkError: If none was given and there is no attack in this run, or another one.
    """
    who = type(callback).__name__
    injected = attacks_of(trainer)
    if given is None:
        if not injected:
            raise CatwalkError(
                f"{who} observes the attack of its run, and there is none: add one, such as --config "
                f"configs/attack/pgd8.yaml, or give {who}.attack the folder of an earlier attack"
            )
        return injected[0]
    for folder in injected:
        if folder.resolve() != given.resolve():
            raise CatwalkError(
                f"{who}.attack is {given}, but the images of {folder} are injected in this run: leave it out to "
                "observe those"
            )
    return given


def attacks_of(trainer: Trainer) -> list[Path]:
    """Return the folders of the attacks in a run, of which there is one at most; every process must ask, or none."""
    return [other.folder_in(trainer) for other in callbacks_of(trainer) if isinstance(other, InjectPoisonedImages)]


class FollowedItems:
    """The items that a callback follows: those that an attack changes, or others.

    Args:
        callback: Who follows them, whom messages name.
        attack: Folder of an earlier attack; None for that of the run.
        items: Ids of the items; None for those of the attack.
        required: Whether there must be some: a run without an attack is an error, or nothing is followed in it.

    Raises:
        CatwalkError: If both are given, or no items, or one twice.
    """

    def __init__(
        self, callback: Callback, attack: Path | None, items: Sequence[str] | None, required: bool = True
    ) -> None:
        who = type(callback).__name__
        if attack is not None and items is not None:
            raise CatwalkError(f"{who}.items: are those of {who}.attack unless they are given; give one of the two")
        if items is not None and not (items and len(set(items)) == len(items)):
            raise CatwalkError(
                f"{who}.items: must name items, each once, got {len(items)}, of which {len(set(items))} differ; "
                "leave it out for those of an attack"
            )
        self.callback = callback
        self.attack = None if attack is None else Path(attack)
        self.items = None if items is None else list(items)
        self.required = required
        self.folder: Path | None = None
        self._numbers: Tensor | None = None

    def find(self, trainer: Trainer) -> None:
        """Find out which attack they are of, and forget those of an earlier run; every process must ask.

        Raises:
            CatwalkError: If there is no attack, or another one in this run.
        """
        self._numbers, self.folder = None, None
        if self.items is None and (self.required or self.attack is not None or attacks_of(trainer)):
            self.folder = attack_folder(self.callback, trainer, self.attack)

    def read(self, catalogue: Catalogue) -> Tensor | None:
        """Return their numbers, int64 ``(n,)``; None where nothing is followed.

        Raises:
            CatwalkError: If there is no such item, or the attack's files are missing, damaged or of another catalogue.
        """
        if self._numbers is None:
            if self.folder is not None:
                self._numbers = torch.from_numpy(read_attacked_items(self.folder, catalogue)[0])
            elif self.items is not None:
                numbers = {item: number for number, item in enumerate(catalogue.item_ids)}
                unknown = [item for item in self.items if item not in numbers]
                if unknown:
                    raise CatwalkError(
                        f"{type(self.callback).__name__}.items: {catalogue.name} has no item {unknown[0]!r}"
                    )
                self._numbers = torch.tensor([numbers[item] for item in self.items])
        return self._numbers


def catalogue_of(callback: Callback, trainer: Trainer) -> Catalogue:
    """Return the catalogue of a run's data module, or raise a :class:`CatwalkError` if it has none."""
    who = type(callback).__name__
    catalogue = getattr(getattr(trainer, "datamodule", None), "catalogue", None)
    if not isinstance(catalogue, Catalogue):
        raise CatwalkError(
            f"{who} observes attacks on a shop's images: it needs InteractionTriplets or ProductImages as data"
        )
    return catalogue
