"""Checkpoints: written whole, read without running what they name, and checked against the module that loads them."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from catwalk.errors import CatwalkError
from catwalk.files.atomic import write_bytes
from catwalk.files.checkpoints import verify_checksums

OF_A_TRAINING = {"state_dict": dict, "pytorch-lightning_version": str, "epoch": int, "global_step": int}
"""Entries of every checkpoint of a Trainer."""

TO_GO_ON = {"optimizer_states": list, "lr_schedulers": list, "loops": dict}
"""Further entries of a checkpoint from which a training can go on."""

HANDED_BACK = ".temp.ckpt"
"""File in which a process that Lightning spawned hands its weights back, and nothing else."""

OTHERWISE = "give another one as ckpt_path, or train anew without ckpt_path"


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written aside in their own folder, flushed and renamed.

    Lightning itself writes them in the system's folder for temporary files, which may be on another disk, from where
    they are copied over the earlier one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint: it is there whole, or what was there before is."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(path, buffer)

    def load_checkpoint(self, path: Any, *arguments: Any, **settings: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            CatwalkError: If the file is missing, cannot be read, or is no checkpoint of a training.
        """
        if "://" in str(path) or Path(path).name == HANDED_BACK:
            return super().load_checkpoint(path, *arguments, **settings)
        if not Path(path).exists():
            raise CatwalkError(f"checkpoint {path} does not exist")
        try:
            verify_checksums(path)
            checkpoint = super().load_checkpoint(path, *arguments, **settings)
        except Exception as error:  # torch raises many kinds for a damaged file
            reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
            raise CatwalkError(f"checkpoint {path} cannot be read: {reason}; {OTHERWISE}") from error
        if not isinstance(checkpoint, dict):
            raise CatwalkError(f"{path} is no checkpoint of a training: it holds no dictionary; {OTHERWISE}")
        lacking = [name for name, kind in OF_A_TRAINING.items() if not isinstance(checkpoint.get(name), kind)]
        if lacking:
            raise CatwalkError(f"{path} is no checkpoint of a training: it lacks {', '.join(lacking)}; {OTHERWISE}")
        return checkpoint


def write_whole_checkpoints(trainer: Trainer) -> None:
    """Let a Trainer use :class:`WholeCheckpoints`, unless it was given something else to read and write with."""
    strategy = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeCheckpoints()


OLD_SETTINGS = ("hparams", "module_arguments", "hparams_type")
"""Entries in which checkpoints of old versions of Lightning hold settings; it adds them to those of today."""

RUN_BY_LIGHTNING = ("_instantiator", "_class_path")
"""Settings by which Lightning would import what the checkpoint names."""


def settings_of(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Return the settings in a checkpoint as Lightning would take them, or refuse one that no module of ours wrote."""
    saved = checkpoint.get("hyper_parameters")
    found = [name for name in OLD_SETTINGS if name in checkpoint]
    if found or checkpoint.get("hparams_name") not in (None, "kwargs"):
        raise CatwalkError(f"{path} is no checkpoint of ours: it holds {found[0] if found else 'another hparams_name'}")
    if not isinstance(saved, dict) or not all(isinstance(name, str) for name in saved):
        raise CatwalkError(f"{path} is no checkpoint of ours: its settings are no names with values")
    for name in RUN_BY_LIGHTNING:
        if name in saved:
            raise CatwalkError(
                f"{path} names what it is to be loaded by, {name}: {saved[name]}; no checkpoint of ours does, so it is "
                "refused"
            )
    return saved


CLASS = "class"
"""Key of a checkpoint with the name of the class that was trained. It is compared, and never imported."""


def check_class(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Raise a CatwalkError if a checkpoint is of another class than the module, whatever its weights are.

    VBPR and AMR, for one, have the same weights, and metrics of one would pass for the other's.

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


def check_checkpoint(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Raise a CatwalkError that says what differs unless a checkpoint's weights fit a module.

    The module's own settings count, never the checkpoint's: what a user states in a configuration is what runs.

    Args:
        module: A module that has been built.
        checkpoint: What ``on_load_checkpoint`` receives.
    """
    if module._trainer is not None and module.trainer.state.fn == TrainerFn.FITTING:
        lacking = [name for name, kind in TO_GO_ON.items() if not isinstance(checkpoint.get(name), kind)]
        if lacking:
            raise CatwalkError(
                f"ckpt_path: no training can go on from this checkpoint, which lacks {', '.join(lacking)} (as with "
                f"save_weights_only); {OTHERWISE}"
            )
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
