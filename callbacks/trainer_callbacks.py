"""Callbacks of a Trainer, for those among them that look for others."""

from pytorch_lightning import Callback, Trainer


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the list of a Trainer's callbacks, its own."""
    return trainer.callbacks  # type: ignore[attr-defined]
