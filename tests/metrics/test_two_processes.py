from pathlib import Path

import brute_force
import pytest
import torch

from catwalk.metrics import Exposure, NormalizedCategoryDCG, NormalizedDCG, Recall


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_measure_what_one_does(forked, tmp_path: Path) -> None:
    forked.check(Path(__file__).with_name("measure_shares.py"), tmp_path, tmp_path)
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
