"""What the user states counts, whatever a checkpoint remembers."""

from pathlib import Path

import pytest
from pytorch_lightning.cli import LightningCLI

from catwalk.lightning_cli import CatwalkCLI
from lightning_modules import VBPR

TEST = ["test", "--config", "configs/recommender/vbpr.yaml", "--config", "configs/data/synthetic.yaml"]
TEST += ["--trainer.logger=false", "--ckpt_path=runs/vbpr/recommender.ckpt"]


@pytest.fixture
def tested_models(monkeypatch: pytest.MonkeyPatch) -> list[VBPR]:
    """Return a list to which every model is added that is tested."""
    models: list[VBPR] = []
    monkeypatch.setattr(VBPR, "on_test_start", lambda model: models.append(model))
    return models


def test_explicit_settings_win_over_the_checkpoint(work, run, tested_models: list[VBPR]) -> None:
    outcome = run(*TEST, "--model.regularization=0.5", "--model.top_k=[3]")
    assert outcome.code == 0, outcome.err
    (model,) = tested_models
    assert model.hparams["regularization"] == 0.5
    assert "test/hr@3" in outcome.out
    assert "test/hr@20" not in outcome.out


def test_lightning_would_let_the_checkpoint_win(
    work, run, tested_models: list[VBPR], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, Lightning has changed, and the method that the command line overrides may have gone."""
    monkeypatch.setattr(CatwalkCLI, "_parse_ckpt_path", LightningCLI._parse_ckpt_path)
    outcome = run(*TEST, "--model.regularization=0.5")
    won = bool(tested_models) and tested_models[0].hparams["regularization"] == 0.5
    assert outcome.code != 0 or not won


def test_nothing_in_a_checkpoint_is_executed(work, run) -> None:
    import torch

    checkpoint = torch.load("runs/vbpr/recommender.ckpt", weights_only=True)
    checkpoint["surprise"] = _Touch()
    torch.save(checkpoint, "surprise.ckpt")
    outcome = run(*TEST, "--ckpt_path=surprise.ckpt")
    assert outcome.code == 2
    assert "surprise.ckpt cannot be read" in outcome.err
    assert not Path("touched").exists()


class _Touch:
    """An object that makes a file when it is unpickled."""

    def __reduce__(self) -> tuple:
        return Path("touched").touch, ()
