"""Write the features of a catalogue on the CPU; run by test_images_of_many_sizes.py.

Arguments: dataset folder, classifier, images per batch, output folder.
"""

from pathlib import Path

import forked_processes
from pytorch_lightning import Trainer

from callbacks import WriteFeatures
from datamodules import ProductImages
from lightning_modules import ProductClassifier


def main(dataset: str, classifier: str, batch_size: str, output: str) -> None:
    trainer = Trainer(**forked_processes.settings(), callbacks=[WriteFeatures(Path(output))])
    data = ProductImages(Path(dataset), batch_size=int(batch_size))
    cnn = ProductClassifier("catwalk.networks.compact_cnn", {"width": 8})
    trainer.predict(cnn, data, ckpt_path=classifier, return_predictions=False)
