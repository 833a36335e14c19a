"""The accuracy that AutoAttack leaves, and the trainings that raise it, by the shipped configurations."""

import csv
from pathlib import Path

import pytest
import torch

from catwalk.networks.classifier import load_classifier

CNN = ["--config", "configs/cnn/traditional.yaml", "--config", "configs/data/synthetic.yaml", "--trainer.logger=false"]
SMALL = ["--model.backbone_args={width: 8}", "--data.batch_size=32"]
DATA = ["--config", "configs/data/synthetic.yaml", "--trainer.logger=false"]
QUICK = """\
trainer:
  callbacks+:
    - class_path: callbacks.RobustAccuracy
      init_args:
        output: runs/quick
        max_images: 20
        attack:
          class_path: catwalk.attacks.AutoAttack
          init_args: {epsilon: 4, iterations: 2, num_targets: 2, queries: 5}
"""


def test_the_test_logs_what_is_left(work: Path, run) -> None:
    Path("quick.yaml").write_text(QUICK)
    command = ["test", *CNN, *SMALL, "--config", "quick.yaml", "--ckpt_path", "runs/traditional/classifier.ckpt"]
    outcome = run(*command)
    assert outcome.code == 0, outcome.err
    assert "test/robust_accuracy_square" in outcome.out.replace("\n", "")
    with open("runs/quick/robust_accuracy.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["component"] for row in rows] == ["clean", "APGD-CE", "APGD-T", "FAB-T", "Square"]
    assert len(Path("runs/quick/verdicts-0.jsonl").read_text().splitlines()) == 20
    misspelt = QUICK.replace("queries: 5", "components: [pgd]")
    Path("quick.yaml").write_text(misspelt)
    refused = run(*command)
    assert refused.code == 2
    assert "components" in refused.err
    assert "apgd-t" in refused.err


@pytest.mark.slow
def test_the_shipped_configuration_is_accepted(work: Path, run) -> None:
    outcome = run("test", *CNN, *SMALL, "--config", "configs/trainer/robust_accuracy.yaml", "--print_config")
    assert outcome.code == 0, outcome.err
    assert "callbacks.RobustAccuracy" in outcome.out


@pytest.mark.slow
def test_fine_tuning_begins_with_the_weights_of_t(work: Path, run) -> None:
    config = ["--config", "configs/cnn/adversarial_fine_tuned.yaml", *DATA, *SMALL]
    unchanged = run("fit", *config, "--model.optimizer.init_args.lr=0", "--model.optimizer.init_args.weight_decay=0")
    assert (unchanged.code, unchanged.err) == (0, "")
    before, after = (
        load_classifier(f"runs/{name}/classifier.ckpt").network for name in ("traditional", "adversarial_fine_tuned")
    )
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    outcome = run("fit", *config)
    assert (outcome.code, outcome.err) == (0, "")
    outcome = run("fit", "--config", "configs/cnn/trades.yaml", *DATA, *SMALL, "--trainer.max_epochs=1")
    assert (outcome.code, outcome.err) == (0, "")
    assert (
        load_classifier("runs/trades/classifier.ckpt").category_names
        == load_classifier("runs/traditional/classifier.ckpt").category_names
    )
