"""Observe an attack in a test on the CPU in one process or several; test_attacked_items.py runs it.

Arguments: dataset folder, features folder, recommender, the attack's folder, file with the weights of LPIPS, number of
processes, file for the figures.
"""

import json
import os
import sys
from pathlib import Path

import torch
from pytorch_lightning import Trainer

from callbacks import AttackedItems, AttackGallery, CategoryBars
from datamodules import InteractionTriplets
from lightning_modules import VBPR


def main(dataset: str, features: str, recommender: str, attack: str, trunk: str, devices: str, output: str) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    folder = Path(attack)
    trainer = Trainer(
        accelerator="cpu",
        devices=int(devices),
        strategy="ddp_fork" if int(devices) > 1 else "auto",
        callbacks=[
            AttackedItems(folder, [3, 8], mean_rank=True),
            CategoryBars(folder, 8),
            AttackGallery(folder, 3, "squeeze", Path(trunk)),
        ],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = InteractionTriplets(Path(dataset), Path(features), validation=True)
    (figures,) = trainer.test(VBPR(factors=4, visual_factors=4, top_k=[5]), data, ckpt_path=recommender, verbose=False)
    if trainer.is_global_zero:
        Path(output).write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
