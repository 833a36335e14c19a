"""Train an AMR on the CPU in several processes; run by test_recommender.py in a fresh process.

Arguments: dataset folder, features folder, strategy, number of processes, triplets of a step in all processes, file for
the weights.
"""

import os
import sys
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

from catwalk.recommenders.lazy_adam import LazyAdam
from datamodules import InteractionTriplets
from lightning_modules import AMR


class Save(Callback):
    """Saves from the processes that train: the one that starts them has no parameters."""

    def __init__(self, output: str) -> None:
        self.output = output

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.output)


def main(dataset: str, features: str, strategy: str, devices: str, batch: str, output: str) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    seed_everything(0, verbose=False)
    trainer = Trainer(
        accelerator="cpu",
        devices=int(devices),
        strategy=strategy,
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Save(output)],
    )
    model = AMR(
        factors=4,
        visual_factors=4,
        regularization=0.001,
        projection_regularization=0.0,
        optimizer=lambda parameters: LazyAdam(parameters, lr=0.02),
    )
    trainer.fit(model, InteractionTriplets(Path(dataset), Path(features), batch_size=int(batch) // int(devices)))


if __name__ == "__main__":
    main(*sys.argv[1:])
