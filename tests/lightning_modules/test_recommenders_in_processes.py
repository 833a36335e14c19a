"""Recommenders that several processes train are those of one, and what they measure is what one measures."""

import json
from pathlib import Path

import pytest
import torch

from catwalk.poisoning.reachable_shifts import find_shifts
from catwalk.recommenders.reachable_shifts import ShiftSettings

SCRIPT = Path(__file__).with_name("recommend_in_processes.py")
NAMES = ["bpr_mf", "apr", "vbpr", "amr", "image_robust_vbpr"]
FILES = ["recommendations.csv", "features.safetensors", "predictions.csv"]


@pytest.fixture(scope="module")
def run(forked, shop, trained, tmp_path_factory):
    """Return a function that trains and measures in some processes, and returns the folder of what they wrote."""
    folder = tmp_path_factory.mktemp("recommenders")
    trained.table.write(folder, trained.catalogue)
    find_shifts(trained.classifier, trained.catalogue, trained.table, ShiftSettings(8.0, 2, 1)).write(folder)

    def in_processes(processes):
        output = tmp_path_factory.mktemp("measured")
        arguments = shop, folder, folder, trained.checkpoint, folder, output
        forked.check(SCRIPT, output, *arguments, processes=processes)
        return output

    return in_processes


@pytest.fixture(scope="module")
def alone(run):
    return run(1)


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_do_what_one_does(alone, run, processes):
    shared = run(processes)
    for name in NAMES:
        one, *others = (torch.load(path) for path in (alone / f"{name}-0.pt", *sorted(shared.glob(f"{name}-*.pt"))))
        assert len(others) == processes
        for key, weight in one.items():
            # Up to what the order of sums rounds.
            torch.testing.assert_close(others[0][key], weight, rtol=1e-3, atol=1e-5)
            assert all(torch.equal(other[key], others[0][key]) for other in others)
        assert max(weight.abs().max() for weight in one.values()) > 0.03, "nothing has been learnt"

    expected = json.loads((alone / "0.json").read_text())
    for rank in range(processes):
        found = json.loads((shared / f"{rank}.json").read_text())
        for name, values in expected.items():
            counted = {key for key in values if not key.endswith(("/loss", "/auc", "ndcg@5", "ndcg@20"))}
            assert {key: found[name][key] for key in counted} == {key: values[key] for key in counted}
            assert found[name] == pytest.approx(values, rel=1e-5)
    assert {"test/accuracy", "test/pgd_accuracy", "val/pgd_accuracy"} < set(expected["cnn"])
    assert {"test/hr@5", "test/chr@8/Bag", "test/mrr@3"} < set(expected["amr"])
    for name in FILES:
        assert (shared / name).read_bytes() == (alone / name).read_bytes(), name
