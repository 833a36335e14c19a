"""A run that was broken off and goes on logs, draws and writes what one that was not does."""

import csv
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import attacks
import observers
import offline_runs
import pytest
import torch
import wandb
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from callbacks import InjectPoisonedImages, WandbAxes
from callbacks.wandb_axes import HIGHEST
from catwalk.attacks import PGD
from datamodules import InteractionTriplets, ProductImages

pytestmark = pytest.mark.filterwarnings("ignore:images whose shorter side")

EPOCHS, BROKEN_OFF = 4, 2

CHECKPOINTS = {"whole": BROKEN_OFF, "last": BROKEN_OFF - 1}
"""The first epoch that is validated after each of them: one is written after an epoch, and one within."""


class BreakOff(Callback):
    """Ends the training after its first epochs."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch == BROKEN_OFF - 1


@pytest.fixture(scope="module", autouse=True)
def own_wandb_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let W&B write here alone, and end its service."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("MODE", "offline"), ("SILENT", "true"), ("CONSOLE", "off")):
            patch.setenv(f"WANDB_{name}", value)
        patch.setenv("WANDB_DATA_DIR", str(tmp_path_factory.mktemp("wandb")))
        yield
        wandb.teardown()


def fit(
    make_trainer: Callable[..., Trainer],
    epochs: int,
    model: LightningModule,
    data: LightningDataModule,
    callbacks: list,
    folder: Path,
    checkpoint: Path | None = None,
) -> tuple[dict[int, dict[str, str]], offline_runs.OfflineRun]:
    """Train from the beginning or from a checkpoint; return the metrics of each epoch, and W&B's run."""
    loggers = [CSVLogger(folder, "log", ""), WandbLogger(save_dir=folder, offline=True)]
    trainer = make_trainer(max_epochs=epochs, callbacks=callbacks, logger=loggers, enable_checkpointing=True)
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    wandb.finish()
    with (folder / "log" / "metrics.csv").open() as file:
        rows = [{name: value for name, value in row.items() if name.startswith("val/")} for row in csv.DictReader(file)]
    measured = [row for row in rows if any(row.values())]
    first = trainer.current_epoch - len(measured)
    (run,) = offline_runs.read_runs(folder)
    return dict(enumerate(measured, first)), run


def set_aside(folder: Path, elsewhere: Path) -> dict[str, Path]:
    """Copy the checkpoints to where no other run writes."""
    return {name: Path(shutil.copy(folder / f"{name}.ckpt", elsewhere)) for name in CHECKPOINTS}


def highest(run: offline_runs.OfflineRun) -> dict[str, float]:
    return {name: value for name, value in run.summary.items() if name.startswith("max/")}


def test_of_a_recommender_whose_images_are_poisoned_before_that(
    shop, features, trained, trunk, make_trainer, tmp_path: Path
) -> None:
    """The lists before the attack are known from the first part of the run."""

    def start(part: str, folder: Path, *others: Callback, checkpoint: Path | None = None) -> tuple:
        seed_everything(0, verbose=False)
        inject = InjectPoisonedImages(
            trained.checkpoint, PGD(epsilon=32.0), attacks.SOURCE, folder, attacks.TARGET, from_epoch=1
        )
        watching = [make(folder, trunk) for make in observers.OF_RECOMMENDERS.values()]
        data = InteractionTriplets(shop, features, batch_size=64, validation=True)
        model = observers.VBPR(factors=4, visual_factors=4, top_k=[5])
        callbacks = [*watching, inject, *others]
        return fit(make_trainer, EPOCHS, model, data, callbacks, tmp_path / part, checkpoint)

    expected, whole = start("complete", tmp_path / "attack")
    assert set(expected) == set(range(EPOCHS))
    assert {"val/attacked/mean_rank", "val/chr@8/Sandal", "val/gini@3", "val/hr@5"} <= set(expected[0])
    assert len(highest(whole)) == 4
    folder = tmp_path / "another attack"
    start("first", folder, BreakOff())
    for name, checkpoint in set_aside(folder, tmp_path).items():
        for path in folder.glob("*.png"):
            path.unlink()
        found, resumed = start(name, folder, checkpoint=checkpoint)
        assert found == {epoch: row for epoch, row in expected.items() if epoch >= CHECKPOINTS[name]}
        assert highest(resumed) == highest(whole)
        for picture in ("gallery.png", "category_bars.png", "confusion.png"):
            assert (folder / picture).read_bytes() == (tmp_path / "attack" / picture).read_bytes(), picture


def test_a_validation_of_its_checkpoint_has_its_own_highest_figures(
    shop, features, recommender, model, make_trainer, tmp_path: Path
) -> None:
    checkpoint = torch.load(recommender, weights_only=True)
    torch.save({**checkpoint, HIGHEST: {"val/hr@5": 2.0}}, tmp_path / "higher.ckpt")
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    data = InteractionTriplets(shop, features, validation=True)
    trainer = make_trainer(callbacks=[WandbAxes()], logger=logger)
    (values,) = trainer.validate(model, data, ckpt_path=tmp_path / "higher.ckpt", weights_only=True, verbose=False)
    wandb.finish()
    (run,) = offline_runs.read_runs(tmp_path)
    assert run.summary["max/val/hr@5"] == run.summary["val/hr@5"] == values["val/hr@5"] > 0


def test_of_a_classifier(shop, make_trainer, tmp_path: Path) -> None:
    def start(part: str, *others: Callback, checkpoint: Path | None = None) -> tuple:
        seed_everything(0, verbose=False)
        watching = [make(tmp_path / part) for make in observers.OF_CLASSIFIERS.values()]
        model, data = observers.drawing_classifier(), ProductImages(shop, batch_size=32)
        epochs = EPOCHS * model.hparams["replays"]
        return fit(make_trainer, epochs, model, data, [*watching, *others], tmp_path / part, checkpoint)

    expected, whole = start("complete")
    assert {"val/pgd_accuracy", "val/accuracy"} <= set(expected[0])
    start("first", BreakOff())
    for name, checkpoint in set_aside(tmp_path / "first", tmp_path).items():
        found, resumed = start(name, checkpoint=checkpoint)
        assert found == {epoch: row for epoch, row in expected.items() if epoch >= CHECKPOINTS[name]}
        assert highest(resumed) == highest(whole)
