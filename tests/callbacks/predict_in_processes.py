"""Run callbacks on the CPU in several processes; run by test_files_of_several_processes.py in a fresh process.

Arguments: dataset folder, features folder, classifier, recommender, number of processes, output folder.
"""

import json
import os
import sys
from pathlib import Path

import torch
from pytorch_lightning import Trainer

from callbacks import CategoryHitRatio, InjectPoisonedImages, WriteFeatures, WriteRecommendations
from catwalk.attacks import PGD
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import VBPR, ProductClassifier


def main(dataset: str, features: str, classifier: str, recommender: str, devices: str, output: str) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"

    def trainer(*callbacks: object) -> Trainer:
        return Trainer(
            accelerator="cpu",
            devices=int(devices),
            strategy="ddp_fork" if int(devices) > 1 else "auto",
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    folder = Path(output)
    images = ProductImages(Path(dataset), batch_size=16)
    cnn = ProductClassifier("catwalk.backbones.compact_cnn", {"width": 8})
    trainer(WriteFeatures(folder / "features")).predict(cnn, images, ckpt_path=classifier, return_predictions=False)

    def triplets() -> InteractionTriplets:
        return InteractionTriplets(Path(dataset), Path(features))

    lists = WriteRecommendations(folder / "recommendations.csv", top_k=3)
    trainer(lists).predict(
        VBPR(factors=4, visual_factors=4, top_k=[5]), triplets(), ckpt_path=recommender, return_predictions=False
    )
    attack = InjectPoisonedImages(Path(classifier), PGD(epsilon=32.0), "Sandal", folder / "attack", "Sneaker")
    counting = trainer(attack, CategoryHitRatio([3, 8]))
    (figures,) = counting.test(
        VBPR(factors=4, visual_factors=4, top_k=[5]), triplets(), ckpt_path=recommender, verbose=False
    )
    (folder / "figures.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
