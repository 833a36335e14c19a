"""The attack that callbacks observe, and its catalogue."""

from pathlib import Path

from pytorch_lightning import Callback, Trainer

from callbacks.inject_poisoned_images import InjectPoisonedImages
from callbacks.of_a_run import callbacks_of
from catwalk.errors import CatwalkError
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
    injected = [other.folder_in(trainer) for other in callbacks_of(trainer) if isinstance(other, InjectPoisonedImages)]
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


def catalogue_of(callback: Callback, trainer: Trainer) -> Catalogue:
    """Return the catalogue of a run's data module, or raise a :class:`CatwalkError` if it has none."""
    who = type(callback).__name__
    catalogue = getattr(getattr(trainer, "datamodule", None), "catalogue", None)
    if not isinstance(catalogue, Catalogue):
        raise CatwalkError(
            f"{who} observes attacks on a shop's images: it needs InteractionTriplets or ProductImages as data"
        )
    return catalogue
