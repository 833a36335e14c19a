"""DDP on GPUs: NCCL, one process on each, and their common end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]
PACKAGES = [TESTS.parent, TESTS, TESTS / "callbacks", TESTS / "lightning_modules"]


def fit(shop, folder, processes, trouble=""):
    """Train by torchrun on GPUs, and return exit code and output."""
    names = {"PYTHONPATH": os.pathsep.join(map(str, PACKAGES)), "TROUBLE": trouble}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = [TESTS / "callbacks" / "end_in_processes.py", "Classifier", shop, folder, "--trainer.accelerator=gpu"]
    line = [*torchrun, *map(str, script)]
    done = subprocess.run(line, env={**os.environ, **names}, capture_output=True, text=True, timeout=180, check=False)
    return done.returncode, done.stdout + done.stderr


def needs(gpus):
    return pytest.mark.skipif(torch.cuda.device_count() < gpus, reason=f"needs {gpus} GPUs")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=needs(2))])
def test_training(shop, tmp_path, processes):
    code, output = fit(shop, tmp_path, processes)
    assert code == 0, output
    assert (tmp_path / "whole.ckpt").exists()


@needs(2)
@pytest.mark.parametrize("trouble", ["step", "busy", "stuck", "killed"])
def test_what_ends_one_ends_all(shop, tmp_path, trouble):
    code, output = fit(shop, tmp_path, 2, trouble)
    assert code != 0
    (line,) = [line for line in output.splitlines() if line.startswith("catwalk: error:")]
    assert ("process 1 of 0..1 was killed" if trouble == "killed" else "the batch is damaged") in line
    if trouble == "killed":
        assert f"exitcode  : {-signal.SIGKILL}" in output
