"""Adversarial training in two processes that exchange gradients over gloo."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def results(shop, tmp_path_factory):
    """Train, also on an odd number of images, of which one process has one more; return what was written."""
    folder = tmp_path_factory.mktemp("processes")
    odd = folder / "odd"
    shutil.copytree(shop, odd)
    labels = odd / "labelled_images.csv"
    lines = labels.read_text().splitlines()
    lines.remove(next(line for line in lines if line.endswith(",train")))
    labels.write_text("\n".join(lines) + "\n")
    packages = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    process = subprocess.run(
        [sys.executable, HERE / "train_in_processes.py", shop, odd, folder],
        env={**os.environ, "PYTHONPATH": packages},
        capture_output=True,
        text=True,
        timeout=400,  # a training that hangs fails
        check=False,
    )
    assert process.returncode == 0, process.stderr[-5000:]
    return {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.pt")} | {
        path.name: torch.load(path, weights_only=True) for path in folder.glob("*.ckpt")
    }


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["at", "free"])
def test_two_processes_train_what_one_does(results, name):
    """Without BatchNorm and random starts, which are each process's own, the algorithms are the same."""
    one, two = results[f"{name}-1-0"], results[f"{name}-2-0"]
    assert one["steps"] == two["steps"] == 11 * (2 if name == "free" else 1)
    for key, value in one["network"].items():
        torch.testing.assert_close(
            two["network"][key], value, rtol=1e-4, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}"
        )


def test_the_rows_of_the_perturbation_are_shared_out_as_the_images_are(results):
    one = results["free-1-0"]["perturbation"]
    for rank in (0, 1):
        theirs = results[f"free-2-{rank}"]["perturbation"]
        assert (theirs == one[rank::2]).float().mean() > 0.99  # but for signs of gradients that are all but 0


@pytest.mark.parametrize("name", ["at-2", "free-2", "at-complete-2", "fast-complete-2", "free-complete-2"])
def test_both_processes_end_with_the_same_bits(results, name):
    assert_equal(results[f"{name}-0"]["network"], results[f"{name}-1"]["network"])


def test_each_process_has_its_own_perturbation(results):
    mine, other = (results[f"free-complete-2-{rank}"]["perturbation"] for rank in (0, 1))
    assert mine.shape == other.shape == (16, 3, 16, 16)
    assert not torch.equal(mine, other)
    assert results["free-complete-2.ckpt"]["perturbation"].shape == (2, 16, 3, 16, 16)


@pytest.mark.parametrize("name", ["at", "fast", "free"])
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_go_on_in_mid_epoch(results, name, rank):
    whole, resumed = results[f"{name}-complete-2-{rank}"], results[f"{name}-complete-resumed-2-{rank}"]
    assert whole["steps"] == resumed["steps"]
    assert_equal(whole["network"], resumed["network"])
    if name == "free":
        assert torch.equal(whole["perturbation"], resumed["perturbation"])
