"""Name, group and labels of a single run on W&B, as of a study's cell."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningDataModule, LightningModule
from pytorch_lightning.loggers import WandbLogger

from callbacks.inject_poisoned_images import InjectPoisonedImages
from catwalk.attacks import Attack, RandomNoise, Transfer
from catwalk.errors import CatwalkError
from catwalk.poisoning.protocol import Protocol
from catwalk.shop.catalogue import read_dataset_info
from lightning_modules.cnn import ProductClassifier
from lightning_modules.recommender import Recommender

NO_ATTACK = "No attack"


def run_labels(
    model: LightningModule,
    data: LightningDataModule,
    callbacks: Sequence[Callback],
    seed: int | None,
    command: str = "fit",
) -> dict[str, Any]:
    """Return what a run is, under the names that a study's cells have, to filter and group by.

    Args:
        model: What is trained or tested.
        data: Its data, not set up yet.
        callbacks: The run's.
        seed: The run's.
        command: What the run does, such as ``fit``.

    Returns:
        ``dataset`` (name), ``protocol``, ``differences`` (its fields that are not as in ``corrected``), ``scenario``
        (``poisoning`` where a recommender is trained on attacked images), ``control`` (``noise``), ``extractor`` (class
        of the network, or the folder with the features that the recommender looks at), ``attack``, ``epsilon``,
        ``recommender`` (class), ``seed``, ``source``, ``target``, ``known_recommender`` and ``crafted_on`` (files that
        the attack names); None for what the run does not have, and for ``defence`` and ``pipeline`` of studies.
    """
    attack = next((callback for callback in callbacks if isinstance(callback, InjectPoisonedImages)), None)
    is_transfer = attack is not None and isinstance(attack.attack, Transfer)
    is_recommender = isinstance(model, Recommender)
    features = getattr(data, "features", None) if is_recommender else None
    network = type(model).__name__ if isinstance(model, ProductClassifier) else features
    return {
        "dataset": _dataset_name(data),
        "protocol": attack.protocol.name if attack is not None else None,
        "differences": Protocol(**vars(attack.protocol)).short_differences if attack is not None else None,
        "scenario": "poisoning" if attack is not None and command == "fit" else None,
        "control": "noise" if attack is not None and isinstance(attack.attack, RandomNoise) else None,
        "extractor": None if network is None else str(network),
        "attack": attack.attack.name if attack is not None else NO_ATTACK if is_recommender else None,
        "epsilon": attack.attack.threat_model.epsilon if attack is not None else None,
        "recommender": type(model).__name__ if is_recommender else None,
        "seed": seed,
        "source": attack.source if attack is not None else None,
        "target": attack.target if attack is not None else None,
        "known_recommender": None if attack is None else _files_of(attack.attack, "recommender"),
        "defence": None,
        "pipeline": None,
        "crafted_on": _files_of(attack.attack, "surrogates") if attack is not None and is_transfer else None,
    }


def _files_of(attack: Attack, argument: str) -> str | None:
    """Return the files that an argument of an attack names, if it has the argument."""
    files = getattr(attack, argument, None) or []
    return ", ".join(map(str, files if isinstance(files, list | tuple) else [files])) or None


def _dataset_name(data: LightningDataModule) -> str | None:
    folder = getattr(data, "dataset", None)
    if folder is None:
        return None
    folder = Path(folder)
    try:
        return str(read_dataset_info(folder).get("name", folder.resolve().name))
    except CatwalkError:  # which is told when the data are set up
        return folder.name


def call_run(logger: WandbLogger, command: str, labels: dict[str, Any]) -> None:
    """Give a run that has not begun a name, a group and a job type, unless its user has.

    Args:
        logger: The run's.
        command: The job type.
        labels: Those of :func:`run_labels`. The group is the dataset's name; the name says what stands in which cell of
            a study's grid: ``PGD (ε = 8) · VBPR · seed 0``.
    """
    parts = [labels["attack"], labels["recommender"]] if labels["recommender"] else [labels["extractor"]]
    seed = "" if labels["seed"] is None else f"seed {labels['seed']}"
    settings = {
        "name": (" · ".join(filter(None, [*parts, seed])), "WANDB_NAME"),
        "group": (labels["dataset"], "WANDB_RUN_GROUP"),
        "job_type": (command, "WANDB_JOB_TYPE"),
    }
    for name, (value, variable) in settings.items():
        if not logger._wandb_init.get(name) and not os.environ.get(variable):
            logger._wandb_init[name] = value or None
