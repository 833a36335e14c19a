"""Write the features of a catalogue on the CPU; run by test_images_of_many_sizes.py in a fresh process.

Arguments: dataset folder, classifier, number of processes, images per batch, output folder.
"""

import os
import sys
from pathlib import Path

import torch
from pytorch_lightning import Trainer

from callbacks import WriteFeatures
from datamodules import ProductImages
from lightning_modules import ProductClassifier


def main(dataset: str, classifier: str, devices: str, batch_size: str, output: str) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    trainer = Trainer(
        accelerator="cpu",
        devices=int(devices),
        strategy="ddp_fork" if int(devices) > 1 else "auto",
        callbacks=[WriteFeatures(Path(output))],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = ProductImages(Path(dataset), batch_size=int(batch_size))
    cnn = ProductClassifier("catwalk.networks.compact_cnn", {"width": 8})
    trainer.predict(cnn, data, ckpt_path=classifier, return_predictions=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
