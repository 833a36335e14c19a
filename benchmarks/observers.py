"""What the callbacks that observe a recommender cost, as a share of an epoch with its validation.

    python benchmarks/observers.py DATASET FEATURES ATTACK

ATTACK is a folder that an attack was written to: `InjectPoisonedImages.output`, or one of a study's cache. The contract
and the results are in ``benchmarks/README.md``.
"""

import argparse
import logging
import tempfile
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import CSVLogger
from record import Record, add_record_argument
from timing import Clock, add_clock_arguments, describe_run, make_clock

from callbacks import AttackedItems, CategoryBars, CategoryHitRatio, RankingMetrics
from datamodules import InteractionTriplets
from lightning_modules import VBPR


class EveryOtherEpoch(Callback):
    """Lets observers look at every other epoch, and keeps the seconds of those and of the others.

    An epoch lasts from its beginning to that of the next, validation included. Both kinds are of one run, in turns, so
    that whatever else the machine does meets them alike.
    """

    def __init__(self, observers: Sequence[Callback], clock: Clock) -> None:
        self.observers = list(observers)
        self.clock = clock
        self.starts: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock, and call the observers in or send them away."""
        self.starts.append(self.clock.now())
        others = [callback for callback in trainer.callbacks if callback not in self.observers]  # type: ignore[attr-defined]
        trainer.callbacks = others + (self.observers if trainer.current_epoch % 2 else [])  # type: ignore[attr-defined]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call them in, so that they are taken down."""
        trainer.callbacks += [  # type: ignore[attr-defined]
            callback
            for callback in self.observers
            if callback not in trainer.callbacks  # type: ignore[attr-defined]
        ]

    def seconds(self) -> tuple[float, float]:
        """Return the median seconds of an epoch without the observers and of one with them; the first two warm up."""
        epochs = [after - before for before, after in pairwise(self.starts)]
        return median(epochs[2::2]), median(epochs[3::2])


def epoch_seconds(
    data: InteractionTriplets, observers: Sequence[Callback], epochs: int, clock: Clock
) -> tuple[float, float]:
    """Train a VBPR, validated after every epoch; see :meth:`EveryOtherEpoch.seconds`."""
    seed_everything(0, verbose=False)
    turns = EveryOtherEpoch(observers, clock)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=[turns, *observers],
            logger=CSVLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        ).fit(VBPR(), datamodule=data)
    return turns.seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="a dataset folder")
    parser.add_argument("features", type=Path, help="folder with the features of its items")
    parser.add_argument("attack", type=Path, help="folder of an attack on its items")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of each run, at least 5; default: 60")
    add_clock_arguments(parser)
    add_record_argument(parser)
    arguments = parser.parse_args()
    clock = make_clock(parser, arguments, torch.device("cpu"))
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    data = InteractionTriplets(arguments.dataset, arguments.features, validation=True)
    attack = arguments.attack
    sets: dict[str, list[Callback]] = {
        "`CategoryHitRatio`": [CategoryHitRatio()],
        "`RankingMetrics`": [RankingMetrics()],
        "`AttackedItems`": [AttackedItems(attack)],
        "`CategoryBars`": [CategoryBars(attack)],
        "all of them": [CategoryHitRatio(), RankingMetrics(), AttackedItems(attack), CategoryBars(attack)],
        "all, with `mean_rank: true`": [CategoryHitRatio(), RankingMetrics(), AttackedItems(attack, mean_rank=True)],
    }
    seconds = {name: epoch_seconds(data, observers, arguments.epochs, clock) for name, observers in sets.items()}
    packages = ("torch", "pytorch-lightning")
    print(describe_run(clock, packages))
    print(
        f"{data.catalogue.name}: {len(data.split.users)} triplets, {data.num_users} users, {data.num_items} items; "
        f"medians over {arguments.epochs} epochs, every other one of them observed\n"
    )
    print(
        Record(arguments.json, clock, packages).table(
            "observers",
            ("observed by", "ms an epoch without", "with", "more"),
            [
                (name, f"{1000 * without:.0f}", f"{1000 * observed:.0f}", f"{observed / without - 1:+.1%}")
                for name, (without, observed) in seconds.items()
            ],
        )
    )


if __name__ == "__main__":
    main()
