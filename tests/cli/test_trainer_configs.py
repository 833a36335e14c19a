"""Where a command runs: the shipped configurations of the Trainer, behind those of networks and recommenders."""

import pytest
import yaml


@pytest.mark.parametrize(
    ("before", "names"),
    [("cnn/adversarial", {"cpu": "cpu", "slurm": "auto"}), ("recommender/vbpr", {"gpu": "gpu", "ddp": "auto"})],
)
def test_they_go_behind_any_configuration(run, before, names):
    def read(*more):
        configs = [f"configs/{before}.yaml", "configs/data/synthetic.yaml", *more]
        outcome = run("fit", *(f"--config={config}" for config in configs), "--print_config")
        assert outcome.code == 0, outcome.err
        return yaml.safe_load(outcome.out)

    plain = read()
    for name, accelerator in names.items():
        found = read(f"configs/trainer/{name}.yaml")
        changed = {key for key in plain["trainer"] if plain["trainer"][key] != found["trainer"][key]}
        assert changed <= {"accelerator", "devices", "strategy", "plugins"}
        assert {**found, "trainer": None} == {**plain, "trainer": None}
        assert found["trainer"]["accelerator"] == accelerator
        assert ("strategy" in changed) == (name in ("ddp", "slurm"))


def test_slurm_without_srun_is_refused(run, tmp_path):
    line = ["fit", "--config", "configs/recommender/vbpr.yaml", f"--data.dataset={tmp_path}", "--trainer.logger=false"]
    outcome = run(*line, "--config", "configs/trainer/slurm.yaml")
    assert outcome.code == 2
    assert "is for tasks that srun starts" in outcome.err
