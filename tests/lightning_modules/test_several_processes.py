"""Training of networks in several processes that exchange gradients over gloo."""

import shutil
from pathlib import Path

import pytest
import torch
import train_in_processes

from catwalk.attacks import FGSM
from catwalk.poisoning.poison import poison

SCRIPT = Path(train_in_processes.__file__)

ALL = [*train_in_processes.COMPLETE, "denoiser", "detector of features", "detector of images"]


@pytest.fixture(scope="module")
def attacked(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacked")
    goal = {"source": "Sandal", "target": "Sneaker"}
    poison(trained.classifier, FGSM(epsilon=48), trained.catalogue, trained.table, folder, **goal)
    return folder


@pytest.fixture(scope="module")
def train(forked, shop, trained, attacked, tmp_path_factory):
    """Return a function that trains and returns what each process ends with, by name, number and rank."""
    odd = tmp_path_factory.mktemp("odd") / "shop"  # of whose images one process has one more
    shutil.copytree(shop, odd)
    labels = odd / "labelled_images.csv"
    lines = labels.read_text().splitlines()
    lines.remove(next(line for line in lines if line.endswith(",train")))
    labels.write_text("\n".join(lines) + "\n")

    def run(which, processes):
        folder = tmp_path_factory.mktemp(which)
        dataset = shop if which == "comparable" else odd
        forked.check(SCRIPT, folder, which, dataset, trained.checkpoint, attacked, folder, processes=processes)
        return {path.name: torch.load(path, weights_only=True) for path in folder.glob("*[.][cp]*t")}

    return run


@pytest.fixture(scope="module")
def complete(train):
    return train("complete", 2)


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("name", ALL)
def test_both_processes_end_with_the_same_bits(complete, name):
    """Weights, and the statistics of BatchNorm, which each has gathered from its own images."""
    first, second = (complete[f"{name}-2-{rank}.pt"]["weights"] for rank in (0, 1))
    assert_equal(first, second)
    counts = [value for key, value in first.items() if key.endswith("num_batches_tracked")]
    assert counts
    assert all(count > 0 for count in counts)


def test_each_process_has_its_own_perturbation(complete):
    mine, other = (complete[f"free-2-{rank}.pt"]["perturbation"] for rank in (0, 1))
    assert mine.shape == other.shape == (16, 3, 16, 16)
    assert not torch.equal(mine, other)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_train_what_one_does(train, processes):
    """Without BatchNorm and random starts, which are each process's own, the algorithms are the same."""
    alone, shared = train("comparable", 1), train("comparable", processes)
    for name in train_in_processes.COMPARABLE:
        one, first = alone[f"{name}-1-0.pt"], shared[f"{name}-{processes}-0.pt"]
        assert one["steps"] == first["steps"] == 11 * (2 if name == "free" else 1)
        for key, value in one["weights"].items():
            torch.testing.assert_close(first["weights"][key], value, rtol=1e-4, atol=1e-6)
        for rank in range(1, processes):
            assert_equal(first["weights"], shared[f"{name}-{processes}-{rank}.pt"]["weights"])
    for rank in range(processes):  # which have the rows of the perturbation as they have the images
        theirs = shared[f"free-{processes}-{rank}.pt"]["perturbation"]
        # but for signs of gradients that are all but 0
        assert (theirs == alone["free-1-0.pt"]["perturbation"][rank::processes]).float().mean() > 0.99


@pytest.mark.slow
def test_two_processes_go_on_in_mid_epoch(train):
    results = train("resumed", 2)
    assert results["free.ckpt"]["perturbation"].shape == (2, 16, 3, 16, 16)
    for name in ("at", "fast", "free", "trades"):
        for rank in (0, 1):
            whole, resumed = (results[f"{each}-2-{rank}.pt"] for each in (name, f"{name}-resumed"))
            assert whole["steps"] == resumed["steps"]
            assert_equal(whole["weights"], resumed["weights"])
            if name == "free":
                assert torch.equal(whole["perturbation"], resumed["perturbation"])
