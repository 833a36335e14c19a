"""The parser of ``catwalk fit``, ``validate``, ``test`` and ``predict``: what each does, and which options it has."""

from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser

import catwalk.attacks
import datamodules
import lightning_modules
from catwalk.attacks import Attack
from catwalk.cli.poison import Poison
from catwalk.configuration.messages import options_of
from catwalk.configuration.parsers import ReadableHelp

HELP = {
    "fit": (
        "Train a CNN on product images, or a recommender on purchases, with a catalogue that an attack has poisoned or "
        "without.",
        "--config configs/recommender/vbpr.yaml --config configs/data/synthetic.yaml --config configs/attack/pgd8.yaml",
    ),
    "validate": (
        "Measure a trained CNN or recommender on what was held out for validation.",
        "--config configs/cnn/traditional.yaml --config configs/data/synthetic.yaml --ckpt_path CHECKPOINT",
    ),
    "test": (
        "Measure a trained CNN or recommender on what was held out for the test.",
        "--config configs/recommender/vbpr.yaml --config configs/data/synthetic.yaml --ckpt_path CHECKPOINT",
    ),
    "predict": (
        "Write the features of every item (with a CNN), or the recommendations of every user (with a recommender).",
        "--config configs/cnn/traditional.yaml --config configs/data/synthetic.yaml --config configs/cnn/features.yaml",
    ),
}
"""Descriptions of the commands, each with an example."""


class LightningParser(ReadableHelp, LightningArgumentParser):
    """The parser of ``catwalk fit``, ``validate``, ``test`` and ``predict``."""


def known_options() -> list[str]:
    """Return the names of the options of ``fit`` and its siblings, those of all our classes among them."""
    classes: list[tuple[str, type]] = [("trainer", Trainer)]
    classes += [("model", getattr(lightning_modules, name)) for name in lightning_modules.__all__]
    classes += [("data", getattr(datamodules, name)) for name in datamodules.__all__]
    kinds = [getattr(catwalk.attacks, name) for name in catwalk.attacks.__all__]
    classes += [("poison", Poison), *(("poison.attack", kind) for kind in kinds if issubclass(kind, Attack))]
    options = [option for section, kind in classes for option in options_of(kind, section)]
    others = [
        "config",
        "model",
        "data",
        "trainer",
        "poison",
        "ckpt_path",
        "seed_everything",
        "print_config",
        "checkpoint_dir",
    ]
    return list(dict.fromkeys([*others, *options]))
