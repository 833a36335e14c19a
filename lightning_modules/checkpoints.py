"""Checkpoints of our modules: loading one without running what it names, and checking that it fits."""

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule
from typing_extensions import Self

from catwalk.backbones import read_checkpoint
from catwalk.errors import CatwalkError

CLASS = "class"
"""Key of a checkpoint with the name of the class that was trained. It is compared, and never imported."""


def check_class(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Raise a CatwalkError if a checkpoint is of another class than the module, whatever its weights are.

    VBPR and AMR, for one, have the same weights, and figures of one would pass for the other's.

    Args:
        module: The module that is about to load it.
        checkpoint: What ``on_load_checkpoint`` receives; one without the class's name is believed.
    """
    theirs, ours = checkpoint.get(CLASS), type(module).__qualname__
    if theirs is not None and theirs != ours:
        raise CatwalkError(
            f"the checkpoint is of {str(theirs)[:80]}, and the model is {ours}: give the configuration that it was "
            "trained with"
        )


class CheckpointedModule(LightningModule):
    """A LightningModule whose checkpoints are tensors and plain values, none of which decides what is imported."""

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, *, weights_only: bool | None = None, **settings: Any
    ) -> Self:
        """Load a module with the settings of its checkpoint, as Lightning does, but for what would run code.

        Args:
            checkpoint_path: The checkpoint, a file of this machine.
            weights_only: False lets PyTorch run the code that is pickled in the file: for files that you trust alone.
            **settings: Arguments of the class that take the place of the checkpoint's, and ``map_location`` and
                ``strict`` as Lightning's own method has them.

        Raises:
            CatwalkError: If the file is missing or damaged, or names code that Catwalk does not know and ``settings``
                do not name.
        """
        if settings.get("hparams_file") is not None:
            raise CatwalkError("hparams_file: leave it out, a checkpoint of ours holds its settings itself")
        if weights_only is not False:
            saved = read_checkpoint(checkpoint_path).get("hyper_parameters")
            if isinstance(saved, dict):
                if "_instantiator" in saved:
                    raise CatwalkError(
                        f"{checkpoint_path} names the function by which it is to be loaded, {saved['_instantiator']}: "
                        "no checkpoint of ours does, so it is refused"
                    )
                cls.check_settings(checkpoint_path, saved, settings)
        return super().load_from_checkpoint(checkpoint_path, weights_only=weights_only is not False, **settings)

    @classmethod
    def check_settings(cls, path: str | Path, saved: dict[str, Any], given: dict[str, Any]) -> None:
        """Raise a CatwalkError if a checkpoint's settings name code that is neither known nor given.

        Args:
            path: The checkpoint.
            saved: Its settings.
            given: Those that the caller gives in their place.
        """


def check_checkpoint(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Raise a CatwalkError that says what differs unless a checkpoint's weights fit a module.

    The module's own settings count, never the checkpoint's: what a user states in a configuration is what runs.

    Args:
        module: A module that has been built.
        checkpoint: What ``on_load_checkpoint`` receives.
    """
    theirs = {name: tuple(weight.shape) for name, weight in checkpoint["state_dict"].items()}
    ours = {name: tuple(weight.shape) for name, weight in module.state_dict().items()}
    if theirs == ours:
        return
    name = type(module).__name__
    missing, surplus = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    if missing or surplus:
        parts = [f"it lacks {_listed(missing)}"] * bool(missing) + [f"it holds {_listed(surplus)}"] * bool(surplus)
        raise CatwalkError(f"the checkpoint is of another network than this {name}: {' and '.join(parts)}")
    different = [key for key in ours if ours[key] != theirs[key]]
    saved = checkpoint.get("hyper_parameters", {})
    settings = [
        f"{key} is {saved[key]} there and {value} here"
        for key, value in module.hparams.items()
        if key in saved and isinstance(value, int | float | str) and saved[key] != value
    ]
    shapes = f"{different[0]} has shape {theirs[different[0]]} there and {ours[different[0]]} here"
    raise CatwalkError(f"the checkpoint does not fit this {name}: {'; '.join([*settings, shapes])}")


def _listed(names: list[str]) -> str:
    """Return the first names and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
