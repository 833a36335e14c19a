import functools
from pathlib import Path

import torch
import yaml

import catwalk.study
from catwalk.cli.main import main
from catwalk.study.specifications import classifier_of, recommender_of

STUDY = """
name: optimizers
dataset: nowhere
source: Sandal
target: Sneaker
extractors:
  T:
    model:
      class_path: lightning_modules.ProductClassifier
      init_args:
        optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.02, momentum: 0.9}}
attacks:
  - {class_path: catwalk.attacks.PGD, init_args: {epsilon: 4}}
recommenders:
  VBPR:
    model:
      class_path: lightning_modules.VBPR
      init_args:
        optimizer: {class_path: torch.optim.Adagrad, init_args: {lr: 0.05, initial_accumulator_value: 0.1}}
"""


def test_settings_reach_the_study_as_they_were_written_and_optimizers_are_made_from_them(tmp_path: Path, monkeypatch):
    received = {}

    @functools.wraps(catwalk.study.run_study)
    def run_study(**arguments):
        received.update(arguments)

    monkeypatch.setattr(catwalk.study, "run_study", run_study)
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    main(["study", "--config", str(path)])

    written = yaml.safe_load(STUDY)
    assert received["extractors"]["T"].model == written["extractors"]["T"]["model"]
    assert received["attacks"] == written["attacks"]
    weights = [torch.nn.Parameter(torch.zeros(1))]
    sgd = classifier_of(received["extractors"]["T"].model, "T").instantiate().make_optimizer(weights)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["lr"], sgd.defaults["momentum"]) == (0.02, 0.9)
    recommender = recommender_of(received["recommenders"]["VBPR"].model, "VBPR", top_k=7).instantiate()
    assert recommender.top_k == (7,)
    adagrad = recommender.make_optimizer(weights)
    assert isinstance(adagrad, torch.optim.Adagrad)
    assert (adagrad.defaults["lr"], adagrad.defaults["initial_accumulator_value"]) == (0.05, 0.1)
