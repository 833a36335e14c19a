"""Checking a checkpoint against the module that is about to load it."""

from typing import Any

from pytorch_lightning import LightningModule

from catwalk.errors import CatwalkError


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
