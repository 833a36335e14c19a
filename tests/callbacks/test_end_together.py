"""What ends one process of a run ends all, at once and with one line; and the run goes on where it was."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("end_in_processes.py")
NETWORKS = str(Path(__file__).parents[1] / "lightning_modules")


@pytest.fixture
def fit(forked, shop, tmp_path):
    """Return a function that trains, and returns exit codes and outputs; one that does not end has None as a code."""

    def run(trouble="", troubled=1, processes=2, folder="checkpoints", model="Classifier", arguments=(), **names):
        names |= {"TROUBLE": trouble, "TROUBLED": str(troubled), "PYTHONPATH": NETWORKS}
        where = tmp_path / folder
        return forked.run(SCRIPT, tmp_path, model, shop, where, *arguments, processes=processes, timeout=60, **names)

    return run


def errors_in(outputs):
    return [line for output in outputs for line in output.splitlines() if line.startswith("catwalk: ")]


@pytest.mark.parametrize(
    ("trouble", "troubled", "code", "says"),
    [
        ("step", 1, 2, "catwalk: error: process 1 of 0..1: the batch is damaged"),
        ("busy", 0, 2, "catwalk: error: the batch is damaged"),
        pytest.param("setup", 1, 2, "process 1 of 0..1: the disk of this machine is another", marks=pytest.mark.slow),
        pytest.param("busy", 1, 2, "process 1 of 0..1: the batch is damaged", marks=pytest.mark.slow),
        pytest.param("stuck", 1, 2, "process 1 of 0..1: the batch is damaged", marks=pytest.mark.slow),
        pytest.param("bug", 1, 1, "process 1 of 0..1: ValueError: a bug of theirs", marks=pytest.mark.slow),
        pytest.param("step", 0, 2, "catwalk: error: the batch is damaged", marks=pytest.mark.slow),
    ],
)
def test_an_error_of_one_ends_all_with_one_line(fit, trouble, troubled, code, says):
    codes, outputs = fit(trouble, troubled)
    assert codes == [code, code], outputs
    (line,) = errors_in(outputs)
    assert says in line
    tracebacks = ["Traceback" in output for output in outputs]
    assert tracebacks == [False, trouble == "bug"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "says"),
    [("step", "process 1 of 0..1: the batch is damaged"), ("killed", "process 1 of 0..1 was killed")],
)
def test_processes_that_lightning_starts_end_together(shop, tmp_path, trouble, says):
    packages = [SCRIPT.parents[2], SCRIPT.parents[1], SCRIPT.parent, NETWORKS]
    names = {"PYTHONPATH": os.pathsep.join(map(str, packages)), "TROUBLE": trouble}
    options = ["--trainer.devices=2", "--data.batch_size=16"]
    line = [sys.executable, SCRIPT, "Classifier", shop, tmp_path, *options]
    done = subprocess.run(
        [*map(str, line)], env={**os.environ, **names}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 2, done.stderr
    (error,) = errors_in([done.stderr])
    assert says in error
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("troubled", [0, 3])
def test_four_processes_end_together(fit, troubled):
    codes, outputs = fit("step", troubled, processes=4)
    assert codes == [2] * 4, outputs
    assert len(errors_in(outputs)) == 1
    assert not any("Traceback" in output for output in outputs)


@pytest.mark.slow
def test_one_that_is_stopped_stops_all(fit):
    codes, outputs = fit("stopped")
    assert codes == [143, 143], outputs
    (line,) = errors_in(outputs)
    assert line.startswith("catwalk: stopped; the same command goes on")


@pytest.mark.parametrize("troubled", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_one_that_is_killed_ends_all(fit, troubled):
    codes, outputs = fit("killed", troubled)
    assert codes[troubled] == -signal.SIGKILL, outputs
    assert codes[1 - troubled] == 2, outputs
    (line,) = errors_in(outputs)
    assert f"process {troubled} of 0..1 was killed" in line
    assert "Traceback" not in outputs[1 - troubled]
    if troubled == 1:
        assert line.endswith("the same command goes on from its latest checkpoint with --ckpt_path last")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("Classifier", {"processes": 2}),
        ("Classifier", {"processes": 4}),
        ("Classifier", {"processes": 2, "SRUN": "1"}),
        ("Recommender", {"processes": 2}),
        ("Recommender", {"processes": 4}),
    ],
)
def test_what_goes_on_ends_as_what_was_not_disturbed(fit, features, tmp_path, model, settings):
    """A job of SLURM is given the same command again, which is to go on from the last checkpoint where there is one."""
    again = ["--ckpt_path=last"]
    data = [f"--data.features={features}"] if model == "Recommender" else []
    first = data + (again if "SRUN" in settings else [])
    codes, outputs = fit(folder="whole", model=model, arguments=first, **settings)
    assert set(codes) == {0}, outputs
    codes, outputs = fit("killed", folder="killed", model=model, arguments=first, **settings)
    assert codes[1] == -signal.SIGKILL, outputs
    codes, outputs = fit(folder="killed", model=model, arguments=data + again, **settings)
    assert set(codes) == {0}, outputs
    whole, killed = (torch.load(tmp_path / folder / "whole.ckpt", weights_only=True) for folder in ("whole", "killed"))
    assert whole["global_step"] == killed["global_step"]
    if model == "Classifier":
        assert torch.equal(whole["perturbation"], killed["perturbation"])
    for name, weight in whole["state_dict"].items():
        assert torch.equal(weight, killed["state_dict"][name]), name
