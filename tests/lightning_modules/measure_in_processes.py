"""Test a recommender and a classifier on the CPU in several processes; run by test_recommender.py in a fresh process.

Arguments: dataset folder, features folder, the two checkpoints, number of processes, JSON file to write.
"""

import json
import os
import sys
from pathlib import Path

import torch
from pytorch_lightning import Trainer

from callbacks import AdversarialAccuracy
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import VBPR, ProductClassifier


def main(dataset: str, features: str, recommender: str, classifier: str, devices: str, output: str) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    values = {}
    for name, model, data, checkpoint in (
        (
            "recommender",
            VBPR(factors=4, visual_factors=4, top_k=(5, 20)),
            InteractionTriplets(Path(dataset), Path(features)),
            recommender,
        ),
        (
            "classifier",
            ProductClassifier("catwalk.networks.compact_cnn", {"width": 8}),
            ProductImages(Path(dataset), batch_size=7),
            classifier,
        ),
    ):
        trainer = Trainer(
            accelerator="cpu",
            devices=int(devices),
            strategy="ddp_fork",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[AdversarialAccuracy(max_validation_images=21)] if name == "classifier" else [],
        )
        values[name] = trainer.test(model, data, ckpt_path=checkpoint, verbose=False)[0]
        if name == "classifier":
            values[name] |= trainer.validate(model, data, ckpt_path=checkpoint, verbose=False)[0]
    Path(output).write_text(json.dumps(values))


if __name__ == "__main__":
    main(*sys.argv[1:])
