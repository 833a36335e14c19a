"""Train and measure recommenders, and measure a classifier, in one of the processes of a job.

test_recommenders_in_processes.py runs it. Arguments: dataset folder, features folder, folder of the shifts that images
can reach, checkpoint of a classifier, folder of the recommenders' checkpoints, folder to write. A single process writes
the checkpoints after it has trained; every process writes ``NAME-RANK.pt`` with the weights of its own training, and
``RANK.json`` with what it measures of the checkpoints.
"""

import json
from pathlib import Path
from typing import Any

import forked_processes
import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything

from callbacks import AdversarialAccuracy, CategoryHitRatio, RankingMetrics, WriteFeatures, WriteRecommendations
from catwalk.attacks import PGD
from catwalk.recommenders.lazy_adam import LazyAdam
from datamodules import InteractionTriplets, ProductImages
from lightning_modules import AMR, APR, BPRMF, VBPR, ImageRobustVBPR, ProductClassifier

PROCESSES = forked_processes.number()
GLOBAL_BATCH = 64
VISUAL = {"visual_factors": 4, "projection_regularization": 0.0}


def recommenders(shifts: Path) -> dict[str, LightningModule]:
    shared: dict[str, Any] = {
        "factors": 4,
        "regularization": 0.001,
        "top_k": (5, 20),
        "optimizer": lambda parameters: LazyAdam(parameters, lr=0.02),
    }
    return {
        "bpr_mf": BPRMF(**shared),
        "apr": APR(**shared),
        "vbpr": VBPR(**shared, **VISUAL),
        "amr": AMR(**shared, **VISUAL),
        "image_robust_vbpr": ImageRobustVBPR(**shared, **VISUAL, shifts=shifts),
    }


def main(dataset: str, features: str, shifts: str, classifier: str, checkpoints: str, output: str) -> None:
    folder, values = Path(output), {}

    def trainer(*callbacks: Any, epochs: int = 2) -> Trainer:
        return Trainer(**forked_processes.settings(), max_epochs=epochs, callbacks=list(callbacks))

    def data() -> InteractionTriplets:
        return InteractionTriplets(Path(dataset), Path(features), batch_size=GLOBAL_BATCH // PROCESSES)

    for name, model in recommenders(Path(shifts)).items():
        seed_everything(0, verbose=False)
        training = trainer()
        training.fit(model, data())
        torch.save(model.state_dict(), folder / f"{name}-{forked_processes.rank()}.pt")
        path = Path(checkpoints) / f"{name}.ckpt"
        if PROCESSES == 1:
            training.save_checkpoint(path)
        test = trainer(CategoryHitRatio([3, 8]), RankingMetrics([3, 8]))
        values[name] = test.test(model, data(), ckpt_path=path, verbose=False)[0]
    predict = trainer(WriteRecommendations(folder / "recommendations.csv"))
    predict.predict(model, data(), ckpt_path=path, return_predictions=False)

    cnn = ProductClassifier("catwalk.networks.compact_cnn", {"width": 8})
    images = ProductImages(Path(dataset), batch_size=7)
    accuracy = AdversarialAccuracy(PGD(epsilon=8.0, iterations=2, targeted=False), 21)
    both = trainer(accuracy)
    values["cnn"] = both.test(cnn, images, ckpt_path=classifier, verbose=False)[0]
    values["cnn"] |= both.validate(cnn, images, ckpt_path=classifier, verbose=False)[0]
    trainer(WriteFeatures(folder)).predict(cnn, images, ckpt_path=classifier, return_predictions=False)
    (folder / f"{forked_processes.rank()}.json").write_text(json.dumps(values))
