"""ResumableCheckpoint: what it writes, when, and what a kill in the middle of writing leaves."""

import pytest
import torch
from pytorch_lightning import Callback, seed_everything

from callbacks import ResumableCheckpoint
from catwalk.errors import CatwalkError
from datamodules import ProductImages
from lightning_modules import FreeAdversarialClassifier, ProductClassifier


def fit(shop, make_trainer, callbacks, model=None, **settings):
    seed_everything(0, verbose=False)
    model = model or ProductClassifier("catwalk.backbones.compact_cnn", {"width": 8})
    trainer = make_trainer(**{"max_epochs": 2, "enable_checkpointing": True} | settings, callbacks=callbacks)
    trainer.fit(model, ProductImages(shop, batch_size=32))
    return trainer, model


def steps(path):
    return torch.load(path, weights_only=True)["global_step"]


@pytest.mark.parametrize(("every", "last"), [(4, 20), (11, 22), (100, None), (0, None)])
def test_whole_epochs_and_in_between(shop, make_trainer, tmp_path, every, last):
    _, model = fit(shop, make_trainer, [ResumableCheckpoint(str(tmp_path), "whole", every_n_batches=every)])
    assert {path.name for path in tmp_path.iterdir()} == {"whole.ckpt"} | ({"last.ckpt"} if last else set())
    assert steps(tmp_path / "whole.ckpt") == 22
    saved = torch.load(tmp_path / "whole.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    if last:
        assert steps(tmp_path / "last.ckpt") == last


def test_batches_count_and_not_their_replays(shop, make_trainer, tmp_path):
    model = FreeAdversarialClassifier(backbone="catwalk.backbones.compact_cnn", backbone_args={"width": 8}, replays=2)
    fit(shop, make_trainer, [ResumableCheckpoint(str(tmp_path), "whole", every_n_batches=5)], model)
    assert steps(tmp_path / "last.ckpt") == 10 * 2


def test_lightning_finds_the_last_one_and_no_unfinished_one(shop, make_trainer, tmp_path, monkeypatch):
    callback = ResumableCheckpoint(str(tmp_path), "whole", every_n_batches=5)
    trainer, _ = fit(shop, make_trainer, [callback])
    save = trainer.save_checkpoint

    def break_off(path, *arguments):
        save(path, *arguments)
        path.write_bytes(path.read_bytes()[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "save_checkpoint", break_off)
    with pytest.raises(KeyboardInterrupt):
        callback._save_last(trainer)
    assert steps(tmp_path / "last.ckpt") == 20
    again = make_trainer(
        max_epochs=2, enable_checkpointing=True, callbacks=[ResumableCheckpoint(str(tmp_path), "whole", 5)]
    )
    model = ProductClassifier("catwalk.backbones.compact_cnn", {"width": 8})
    again.fit(model, ProductImages(shop, batch_size=32), ckpt_path="last", weights_only=True)
    assert again.global_step == 22


def test_a_run_killed_in_a_validation_goes_on_with_that(shop, make_trainer, tmp_path):
    """Although the last batch before it is one of those after which to save."""
    validated = []

    class Validated(Callback):
        def on_validation_start(self, trainer, pl_module):
            if not trainer.sanity_checking:
                validated.append(trainer.current_epoch)
                if validated == [0, 1]:
                    raise RuntimeError("killed")

    def callbacks():
        return [ResumableCheckpoint(str(tmp_path), "whole", every_n_batches=11), Validated()]

    with pytest.raises(RuntimeError, match="killed"):
        fit(shop, make_trainer, callbacks(), max_epochs=3)
    trainer = make_trainer(max_epochs=3, enable_checkpointing=True, callbacks=callbacks())
    model = ProductClassifier("catwalk.backbones.compact_cnn", {"width": 8})
    trainer.fit(model, ProductImages(shop, batch_size=32), ckpt_path="last", weights_only=True)
    assert trainer.global_step == 33
    assert validated == [0, 1, 1, 2]


def test_the_best_epoch_by_a_figure(shop, make_trainer, tmp_path):
    losses = []

    class Record(Callback):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                losses.append(float(trainer.callback_metrics["val/loss"]))

    callback = ResumableCheckpoint(str(tmp_path), "{epoch}", 0, monitor="val/loss", mode="max")
    fit(shop, make_trainer, [callback, Record()], max_epochs=3)
    assert [path.name for path in tmp_path.iterdir()] == [f"epoch={losses.index(max(losses))}.ckpt"]


@pytest.mark.parametrize("monitor", [None, "val/loss"])
def test_a_second_training_begins_with_nothing_saved(shop, make_trainer, tmp_path, monitor):
    """It takes the same steps to the same loss, which is no better than that of the first."""
    callback = ResumableCheckpoint(str(tmp_path), "whole", 0, monitor=monitor, mode="min")
    for _ in range(2):
        fit(shop, make_trainer, [callback], max_epochs=1)
        (path,) = tmp_path.iterdir()
        assert steps(path) == 11
        path.unlink()


def test_bad_settings():
    with pytest.raises(CatwalkError, match="every_n_batches: must be at least 0"):
        ResumableCheckpoint("runs", "x", every_n_batches=-1)


def test_two_runs_that_save_into_one_folder_leave_each_others_parts_alone(shop, make_trainer, tmp_path):
    """Another run is about to rename what it has written while this one saves."""
    others = tmp_path / "partial.ckpt"
    others.write_text("of another run")
    fit(shop, make_trainer, [ResumableCheckpoint(str(tmp_path), "model", every_n_batches=4)], max_epochs=1)
    assert others.read_text() == "of another run"
    assert {path.name for path in tmp_path.iterdir()} == {"model.ckpt", "last.ckpt", others.name}
