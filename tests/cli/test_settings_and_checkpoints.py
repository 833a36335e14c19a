"""What the user states counts, whatever a checkpoint remembers."""

from pathlib import Path

import pytest
import torch
from pytorch_lightning import seed_everything
from pytorch_lightning.cli import LightningCLI

from catwalk.cli.lightning import CatwalkCLI
from catwalk.errors import CatwalkError
from datamodules import InteractionTriplets
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


def test_floors_are_tested_without_a_checkpoint(work, run) -> None:
    for name in ("popularity", "random"):
        arguments = ["--config", f"configs/recommender/{name}.yaml", "--config", "configs/data/synthetic.yaml"]
        outcome = run("test", *arguments, "--trainer.logger=false")
        assert outcome.code == 0, outcome.err
        assert "test/hr@20" in outcome.out


@pytest.mark.parametrize("names", [("vbpr_as_published", "amr_as_published"), ("amr",), ("bpr_mf", "apr")])
def test_the_shipped_recommenders_train(work, run, names: tuple[str, ...]) -> None:
    for name in names:  # AMR as published begins with VBPR, APR with BPR-MF
        arguments = ["--config", f"configs/recommender/{name}.yaml", "--config", "configs/data/synthetic.yaml"]
        outcome = run("fit", *arguments, "--trainer.logger=false", "--trainer.max_epochs=1")
        assert outcome.code == 0, outcome.err
        assert Path(f"runs/{name}/recommender.ckpt").is_file()


def test_checkpoints_go_where_they_are_wanted_whatever_the_order_of_the_callbacks(work, run) -> None:
    configs = ["recommender/vbpr", "data/synthetic", "trainer/early_stopping"]
    arguments = [argument for name in configs for argument in ("--config", f"configs/{name}.yaml")]
    earlier = Path("runs/vbpr/recommender.ckpt").read_bytes()
    outcome = run("fit", *arguments, "--trainer.logger=false", "--trainer.max_epochs=2", "--checkpoint_dir=runs/mine")
    assert outcome.code == 0, outcome.err
    assert Path("runs/vbpr/recommender.ckpt").read_bytes() == earlier
    assert {path.name for path in Path("runs/mine").glob("*.ckpt")} == {"recommender.ckpt", "best.ckpt"}
    lines = outcome.out.splitlines()
    assert "The checkpoint is runs/mine/recommender.ckpt" in lines
    assert "The checkpoint of the best epoch by val/ndcg@20 is runs/mine/best.ckpt" in lines


def test_checkpoints_of_a_cnn_go_where_they_are_wanted(work, run) -> None:
    arguments = ["--config", "configs/cnn/traditional.yaml", "--config", "configs/data/synthetic.yaml"]
    settings = ["--model.backbone_args={width: 8}", "--trainer.max_epochs=1", "--trainer.logger=false"]
    outcome = run("fit", *arguments, *settings, "--checkpoint_dir", "runs/mine")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-1] == "The checkpoint is runs/mine/classifier.ckpt"
    outcome = run("test", *arguments, *settings, "--ckpt_path", "runs/mine/classifier.ckpt")
    assert outcome.code == 0, outcome.err


def test_a_training_without_a_checkpoint_says_so(work, run) -> None:
    arguments = ["--config", "configs/recommender/vbpr.yaml", "--config", "configs/data/synthetic.yaml"]
    settings = ["--trainer.logger=false", "--trainer.callbacks=null", "--trainer.enable_checkpointing=false"]
    outcome = run("fit", *arguments, *settings, "--trainer.max_epochs=1")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-1] == "No checkpoint was written"


def test_a_checkpoint_that_does_not_say_its_class_is_believed(work, run) -> None:
    checkpoint = torch.load("runs/vbpr/recommender.ckpt", weights_only=True)
    assert checkpoint.pop("class") == "VBPR"
    torch.save(checkpoint, "runs/vbpr/recommender.ckpt")
    outcome = run(*TEST)
    assert outcome.code == 0, outcome.err


def test_training_begins_with_the_parameters_of_another(work, run) -> None:
    arguments = ["--config", "configs/recommender/amr.yaml", "--config", "configs/data/synthetic.yaml"]
    start = "runs/vbpr/recommender.ckpt"
    rates = "--model.learning_rates={P: 0.0, Q: 0.0, E: 0.0}"
    outcome = run(
        "fit", *arguments, f"--model.warm_start={start}", rates, "--trainer.logger=false", "--trainer.max_epochs=1"
    )
    assert outcome.code == 0, outcome.err
    before, after = (torch.load(path, weights_only=True)["state_dict"] for path in (start, "runs/amr/recommender.ckpt"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_training_stops_when_the_validation_items_no_longer_rise(work, run) -> None:
    configs = ["recommender/vbpr", "data/synthetic", "trainer/early_stopping"]
    arguments = [argument for name in configs for argument in ("--config", f"configs/{name}.yaml")]
    outcome = run("fit", *arguments, "--trainer.logger=false", "--model.optimizer=SGD", "--model.optimizer.lr=0.0")
    assert outcome.code == 0, outcome.err
    best = torch.load("runs/best/best.ckpt", weights_only=True)
    last = torch.load("runs/vbpr/recommender.ckpt", weights_only=True)
    # Nothing is learnt: the first validation, after two epochs, is the best, and five more go by.
    assert (best["epoch"], last["epoch"]) == (1, 11)


@pytest.mark.parametrize(
    ("options", "seed"),
    [([], 0), (["--seed_everything=2"], 2), (["--seed_everything=2", "--data.seed=5"], 5), (["--data.seed=5"], 5)],
)
def test_the_data_have_the_runs_seed_unless_they_have_their_own(
    work, run, monkeypatch: pytest.MonkeyPatch, options: list[str], seed: int
) -> None:
    def tell(data: InteractionTriplets, stage: str) -> None:
        raise CatwalkError(f"the seed is {data.seed}")

    monkeypatch.setattr(InteractionTriplets, "setup", tell)
    assert run("fit", *TEST[1:6], *options).err == f"catwalk: error: the seed is {seed}\n"


def test_images_that_were_trained_on_are_not_tested_on(work, run) -> None:
    """The seed decides what is held out where the dataset does not say it."""
    Path("data/synthetic/labelled_images.csv").unlink()
    cnn = ["--config", "configs/cnn/traditional.yaml", "--config", "configs/data/synthetic.yaml"]
    cnn += ["--trainer.logger=false", "--model.backbone_args={width: 8}", "--data.test_share=0.3"]
    assert run("fit", *cnn, "--seed_everything=2", "--trainer.max_epochs=1").code == 0
    checkpoint = "--ckpt_path=runs/traditional/classifier.ckpt"
    assert run("test", *cnn, "--seed_everything=2", checkpoint).code == 0
    outcome = run("test", *cnn, checkpoint)
    assert outcome.code == 2
    assert outcome.err.startswith(
        "catwalk: error: ckpt_path: runs/traditional/classifier.ckpt: the checkpoint was trained with other images "
        "held out for the test: give --seed_everything"
    )


def test_a_runs_seed_is_that_of_a_study(work, run, make_trainer) -> None:
    """A study seeds all generators, and gives the data the same seed."""
    assert run("fit", *TEST[1:6], "--seed_everything=2", "--trainer.max_epochs=1").code == 0
    found = torch.load("runs/vbpr/recommender.ckpt", weights_only=True)["state_dict"]
    seed_everything(2, verbose=False)
    model = VBPR()
    data = InteractionTriplets(Path("data/synthetic"), Path("runs/traditional/features"), seed=2)
    make_trainer(max_epochs=1).fit(model, data)
    expected = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
