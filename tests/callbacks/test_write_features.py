"""WriteFeatures: what is in its files, and what it adds to a W&B run."""

import base64
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import offline_runs
import pytest
import wandb
from pytorch_lightning import Callback
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from callbacks import WriteFeatures
from catwalk.errors import CatwalkError
from datamodules import ProductImages
from lightning_modules import ProductClassifier

SMALL = {"backbone": "catwalk.networks.compact_cnn", "backbone_args": {"width": 8}}


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let W&B write into the test's folder alone, and end its service."""
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("CONSOLE", "off"), ("DATA_DIR", str(tmp_path))):
        monkeypatch.setenv(f"WANDB_{name}", value)
    yield
    wandb.teardown()


def test_the_files_are_those_of_the_network(shop, features, trained, make_trainer, tmp_path: Path) -> None:
    trainer = make_trainer(callbacks=[WriteFeatures(tmp_path)])
    trainer.predict(
        ProductClassifier(**SMALL),
        ProductImages(shop, batch_size=16),
        ckpt_path=trained.checkpoint,
        weights_only=True,
        return_predictions=False,
    )
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in features.iterdir()}
    for path in features.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_features_of_images_that_change_meanwhile_are_not_written(shop, trained, make_trainer, tmp_path: Path) -> None:
    shutil.copytree(shop, tmp_path / "shop")

    class Replace(Callback):
        def on_predict_batch_end(self, trainer, *_: object) -> None:
            catalogue = trainer.datamodule.catalogue
            shutil.copyfile(tmp_path / "shop" / catalogue.images[1], tmp_path / "shop" / catalogue.images[0])

    trainer = make_trainer(callbacks=[WriteFeatures(tmp_path / "features"), Replace()])
    model = ProductClassifier.load_from_checkpoint(trained.checkpoint)
    with pytest.raises(CatwalkError, match="was written, added or removed while this ran, so the features would not"):
        trainer.predict(model, ProductImages(tmp_path / "shop"), return_predictions=False)
    assert not (tmp_path / "features" / "features.safetensors").exists()


@pytest.mark.parametrize("from_others", [False, True], ids=["of a checkpoint", "with weights of others"])
@pytest.mark.usefixtures("offline")
def test_an_artifact_holds_the_files_that_were_written(
    shop, trained, make_trainer, tmp_path: Path, from_others: bool
) -> None:
    """Those of this run, whatever else is in the folder and whatever becomes of them until they are sent."""
    output, catalogue = tmp_path / "features", trained.catalogue
    output.mkdir()
    (output / ("notes.txt" if from_others else "classifier.ckpt")).write_text("of another run")
    model = ProductClassifier(**SMALL, weights=str(trained.checkpoint) if from_others else None)
    trainer = make_trainer(
        callbacks=[WriteFeatures(output, artifact=True)],
        logger=[CSVLogger(tmp_path), WandbLogger(save_dir=tmp_path, offline=True)],
    )
    checkpoint = None if from_others else trained.checkpoint
    data = ProductImages(shop, batch_size=16)
    trainer.predict(model, data, ckpt_path=checkpoint, weights_only=True, return_predictions=False)
    wandb.finish()
    names = {"features.safetensors", "predictions.csv"} | ({"classifier.ckpt"} if from_others else set())
    written = {name: (output / name).read_bytes() for name in names}
    shutil.rmtree(output)
    (run,) = offline_runs.read_runs(tmp_path)
    (artifact,) = run.artifacts
    assert (artifact.type, artifact.name) == ("features", f"features-{run.about.run_id}")
    assert artifact.description == f"Features of {catalogue.name}"
    about = {"items": 90, "catalogue": catalogue.fingerprint, "network": trained.table.network}
    assert json.loads(artifact.metadata) == about
    entries = {entry.path: entry for entry in artifact.manifest.contents}
    assert entries.keys() == names
    for name, content in written.items():
        assert base64.b64decode(entries[name].digest) == hashlib.md5(content).digest()
        assert Path(entries[name].local_path).read_bytes() == content


def test_an_artifact_needs_wandb_before_anything_is_predicted(shop, trained, make_trainer, tmp_path: Path) -> None:
    trainer = make_trainer(callbacks=[WriteFeatures(tmp_path, artifact=True)], logger=CSVLogger(tmp_path / "log"))
    with pytest.raises(CatwalkError, match=r"WriteFeatures\.artifact: .*configs/logger/wandb_offline\.yaml"):
        trainer.predict(ProductClassifier(**SMALL), ProductImages(shop), ckpt_path=trained.checkpoint)
    assert trainer.predict_loop.batch_progress.total.ready == 0
    assert not (tmp_path / "features.safetensors").exists()


def test_where_wandb_is_disabled_there_is_no_artifact(shop, trained, make_trainer, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    trainer = make_trainer(callbacks=[WriteFeatures(tmp_path / "features", artifact=True)])
    model = ProductClassifier.load_from_checkpoint(trained.checkpoint, weights_only=True)
    trainer.predict(model, ProductImages(shop), return_predictions=False)
    assert (tmp_path / "features" / "features.safetensors").is_file()
