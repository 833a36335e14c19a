"""Measure in one of two processes, each with its share of the users; test_two_processes.py runs it.

Argument: folder, into which each process saves what it makes of it.
"""

from datetime import timedelta

import brute_force
import forked_processes
import torch
import torch.distributed

from catwalk.metrics import (
    AUC,
    AttackSuccessRate,
    CategoryHitRatio,
    Exposure,
    FeatureLoss,
    HitRate,
    MeanReciprocalRank,
    NormalizedCategoryDCG,
    NormalizedDCG,
    Precision,
    Recall,
)


def main(folder: str) -> None:
    """Give every third user to process 1 and the others to process 0, and save what each process makes of it."""
    rank = forked_processes.rank()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    data = brute_force.make_data()
    rows = (torch.arange(len(data.targets)) % 3 == 2).eq(rank).nonzero().squeeze(1)
    metrics = torch.nn.ModuleDict(
        {
            "hit_rate": HitRate(brute_force.TOP_K),
            "normalized_dcg": NormalizedDCG(brute_force.TOP_K),
            "mean_reciprocal_rank": MeanReciprocalRank(brute_force.TOP_K),
            "precision": Precision(brute_force.TOP_K),
            "recall": Recall(brute_force.TOP_K),
            "auc": AUC(),
            "auc_of_process_0": AUC(),
            "recall of several": Recall(brute_force.TOP_K),
            "normalized_dcg of several": NormalizedDCG(brute_force.TOP_K),
            "category_hit_ratio": CategoryHitRatio(brute_force.TOP_KS, data.categories, brute_force.NUM_CATEGORIES),
            "normalized_category_dcg": NormalizedCategoryDCG(
                brute_force.TOP_KS, data.categories, brute_force.NUM_CATEGORIES, data.seen
            ),
            "exposure": Exposure(brute_force.TOP_KS, data.seen),
            "attack_success_rate": AttackSuccessRate(),
            "feature_loss": FeatureLoss(),
        }
    ).to(torch.bfloat16)  # as Lightning does with a model that trains in bfloat16
    for part in rows.split(16):
        for name in ("hit_rate", "normalized_dcg", "mean_reciprocal_rank", "precision", "recall"):
            metrics[name].update(data.recommended[part], data.targets[part])
        for name in ("recall of several", "normalized_dcg of several"):
            metrics[name].update(data.recommended[part], data.several[part])
        metrics["auc"].update(data.scores[part], data.targets[part])
        metrics["category_hit_ratio"].update(data.recommended[part])
        metrics["normalized_category_dcg"].update(data.recommended[part], part)
        metrics["exposure"].update(data.recommended[part])
        metrics["attack_success_rate"].update(
            data.predicted_before[part], data.predicted_after[part], data.classes[part]
        )
        metrics["feature_loss"].update(data.features_before[part], data.features_after[part])
        if rank == 0:
            metrics["auc_of_process_0"].update(data.scores[part], data.targets[part])
    torch.save({name: metric.compute() for name, metric in metrics.items()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
