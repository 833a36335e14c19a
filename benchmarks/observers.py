"""What the callbacks that observe a recommender cost, as a share of an epoch with its validation.

    python benchmarks/observers.py DATASET FEATURES ATTACK

ATTACK is a folder that an attack was written to: `InjectPoisonedImages.output`, or one of a study's cache. The contract
and the results are in ``benchmarks/README.md``.
"""

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import CSVLogger
from timing import Clock, add_clock_arguments, describe_run, make_clock, markdown_table, take_turns

from callbacks import AttackedItems, CategoryHitRatio, RankingFigures
from datamodules import InteractionTriplets
from lightning_modules import VBPR


class EpochSeconds(Callback):
    """Keeps the seconds from the beginning of an epoch to that of the next, validation included."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.starts: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock."""
        self.starts.append(self.clock.now())

    def best(self) -> float:
        """Return the seconds of the quickest epoch but the first."""
        return min(after - before for before, after in zip(self.starts[1:], self.starts[2:], strict=False))


def epoch_seconds(
    data: InteractionTriplets, observers: Callable[[], list[Callback]], epochs: int, clock: Clock
) -> float:
    """Train a VBPR, validated after every epoch, and return the seconds of its quickest epoch."""
    seed_everything(0, verbose=False)
    seconds = EpochSeconds(clock)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=[seconds, *observers()],
            logger=CSVLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        ).fit(VBPR(), datamodule=data)
    return seconds.best()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="a dataset folder")
    parser.add_argument("features", type=Path, help="folder with the features of its items")
    parser.add_argument("attack", type=Path, help="folder of an attack on its items")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of a run, at least 3; default: 5")
    parser.add_argument("--rounds", type=int, default=7, help="runs per contestant; default: 7")
    add_clock_arguments(parser)
    arguments = parser.parse_args()
    clock = make_clock(parser, arguments, torch.device("cpu"))
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    data = InteractionTriplets(arguments.dataset, arguments.features, validation=True)
    sets: dict[str, Callable[[], list[Callback]]] = {
        "nothing": list,
        "CategoryHitRatio": lambda: [CategoryHitRatio()],
        "RankingFigures": lambda: [RankingFigures()],
        "AttackedItems": lambda: [AttackedItems(arguments.attack)],
        "all of them": lambda: [CategoryHitRatio(), RankingFigures(), AttackedItems(arguments.attack)],
        "all, with mean_rank": lambda: [
            CategoryHitRatio(),
            RankingFigures(),
            AttackedItems(arguments.attack, mean_rank=True),
        ],
    }
    runs = {name: partial(epoch_seconds, data, make, arguments.epochs, clock) for name, make in sets.items()}
    best = {name: min(seconds) for name, seconds in take_turns(runs, arguments.rounds, "runs").items()}
    print(describe_run(clock, ("torch", "pytorch-lightning")))
    print(
        f"{data.catalogue.name}: {len(data.split.users)} triplets, {data.num_users} users, {data.num_items} items; "
        f"best epoch of {arguments.rounds} runs of {arguments.epochs}\n"
    )
    print(
        markdown_table(
            ("observed by", "ms an epoch", "more"),
            [(name, f"{1000 * value:.0f}", f"{value / best['nothing'] - 1:+.1%}") for name, value in best.items()],
        )
    )


if __name__ == "__main__":
    main()
