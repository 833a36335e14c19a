import os
import sys
from datetime import timedelta
from pathlib import Path

import brute_force
import pytest
import torch
import torch.distributed
import torch.multiprocessing

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


def measure(rank: int, folder: str) -> None:
    """Give every third user to process 1 and the others to process 0, and save what each process makes of it."""
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
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


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(measure, args=(str(tmp_path),), nprocs=2)
    data = brute_force.make_data()
    recommended, targets, scores = data.recommended.numpy(), data.targets.numpy(), data.scores.numpy()
    first = (torch.arange(len(targets)) % 3 != 2).numpy()
    hits = [brute_force.category_hits(recommended, data.categories.numpy(), k) for k in brute_force.TOP_KS]
    success = brute_force.attack_success_rates(
        data.predicted_before.numpy(), data.predicted_after.numpy(), data.classes.numpy()
    )
    category_dcg = NormalizedCategoryDCG(brute_force.TOP_KS, data.categories, brute_force.NUM_CATEGORIES, data.seen)
    category_dcg.update(data.recommended, torch.arange(len(targets)))
    exposure = Exposure(brute_force.TOP_KS, data.seen)
    exposure.update(data.recommended)
    of_several = {"recall": Recall(brute_force.TOP_K), "normalized_dcg": NormalizedDCG(brute_force.TOP_K)}
    for metric in of_several.values():
        metric.update(data.recommended, data.several)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        # counts, hence equal to the last digit
        assert found["hit_rate"].item() == brute_force.hit_rate(recommended, targets, brute_force.TOP_K)
        assert found["category_hit_ratio"].tolist() == [[count / len(targets) for count in row] for row in hits]
        assert {name: rate.item() for name, rate in found["attack_success_rate"].items()} == success
        assert found["recall"].item() == found["hit_rate"].item()
        # metrics of counts, hence those of one process to the last digit
        torch.testing.assert_close(found["normalized_category_dcg"], category_dcg.compute(), rtol=0, atol=0)
        torch.testing.assert_close(found["exposure"], exposure.compute(), rtol=0, atol=0)
        for name, metric in of_several.items():
            torch.testing.assert_close(found[f"{name} of several"], metric.compute(), rtol=0, atol=0)
        # sums of float64
        expected = {
            "mean_reciprocal_rank": brute_force.mean_reciprocal_rank(recommended, targets, brute_force.TOP_K),
            "precision": brute_force.precision(recommended, targets, brute_force.TOP_K),
            "normalized_dcg": brute_force.normalized_dcg(recommended, targets, brute_force.TOP_K),
            "auc": brute_force.auc(scores, targets),
            "auc_of_process_0": brute_force.auc(scores[first], targets[first]),
            "feature_loss": brute_force.feature_loss(data.features_before.numpy(), data.features_after.numpy()),
        }
        assert {name: found[name].item() for name in expected} == pytest.approx(expected, rel=1e-13)
