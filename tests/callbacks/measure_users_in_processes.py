"""Test a recommender on the CPU in several processes; run by test_write_user_metrics.py.

Arguments: dataset folder, features folder, recommender, blocks of users, output folder.
"""

import json
from pathlib import Path

import forked_processes
from pytorch_lightning import Trainer

import datamodules.interaction_triplets
from callbacks import AttackedItems, CategoryHitRatio, RankingMetrics, WriteAttackedItems, WriteUserMetrics
from catwalk.shop.splits import RatioSplit
from datamodules import InteractionTriplets
from lightning_modules import VBPR

FOLLOWED = [f"item-{number:02d}" for number in range(70, 3, -6)]


def main(dataset: str, features: str, recommender: str, blocks: str, output: str) -> None:
    datamodules.interaction_triplets.MIN_BLOCKS = int(blocks)
    folder = Path(output)
    trainer = Trainer(
        **forked_processes.settings(),
        callbacks=[
            WriteUserMetrics(folder / "users.csv", [3, 8], source="Sandal", target="Bag", items=FOLLOWED),
            WriteAttackedItems(folder / "items.parquet", None, [3, 8], FOLLOWED),
            AttackedItems(None, [3, 8], mean_rank=True, items=FOLLOWED[:5]),
            WriteUserMetrics(folder / "users.parquet", [3, 8], categories=["Bag"], categories_by="dataset"),
            RankingMetrics([3, 8]),
            CategoryHitRatio([3, 8]),
        ],
    )
    data = InteractionTriplets(Path(dataset), Path(features), validation=True, split=RatioSplit(0.4))
    (values,) = trainer.test(VBPR(factors=4, visual_factors=4, top_k=[5]), data, ckpt_path=recommender, verbose=False)
    if trainer.is_global_zero:
        (folder / "metrics.json").write_text(json.dumps(values))
