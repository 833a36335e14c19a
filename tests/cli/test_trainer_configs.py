"""Where a command runs: the shipped configurations of the Trainer, behind those of networks and recommenders."""

import pytest
import yaml

BEFORE = ["configs/cnn/adversarial.yaml", "configs/recommender/vbpr.yaml"]


@pytest.mark.parametrize("name", ["cpu", "gpu", "ddp", "slurm"])
def test_they_go_behind_any_configuration(run, name):
    for before in BEFORE:
        data = "configs/data/synthetic.yaml"
        outcome = run("fit", *("--config", before, "--config", data), "--print_config")
        assert outcome.code == 0, outcome.err
        plain = yaml.safe_load(outcome.out)
        with_it = ("--config", before, "--config", data, "--config", f"configs/trainer/{name}.yaml")
        outcome = run("fit", *with_it, "--print_config")
        assert outcome.code == 0, outcome.err
        found = yaml.safe_load(outcome.out)
        placed = ("accelerator", "devices", "strategy", "plugins")
        assert {key for key in plain["trainer"] if plain["trainer"][key] != found["trainer"][key]} <= set(placed)
        assert {**found, "trainer": None} == {**plain, "trainer": None}
    assert found["trainer"]["accelerator"] == {"cpu": "cpu", "gpu": "gpu"}.get(name, "auto")


def test_slurm_without_srun_is_refused(run, tmp_path):
    line = [
        "fit",
        "--config",
        "configs/recommender/vbpr.yaml",
        "--data.dataset",
        str(tmp_path),
        "--trainer.logger=false",
    ]
    outcome = run(*line, "--config", "configs/trainer/slurm.yaml")
    assert outcome.code == 2
    assert "is for tasks that srun starts" in outcome.err
