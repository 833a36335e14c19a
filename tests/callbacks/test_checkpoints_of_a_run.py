"""ResumableCheckpoint: what it writes, when, and what a kill in the middle of writing leaves."""

import errno
import os
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks import ResumableCheckpoint
from catwalk.errors import CatwalkError
from datamodules import ProductImages
from lightning_modules import FreeAdversarialClassifier, ProductClassifier


def fit(shop, make_trainer, callbacks, model=None, **settings):
    seed_everything(0, verbose=False)
    model = model or ProductClassifier("catwalk.networks.compact_cnn", {"width": 8})
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
    model = FreeAdversarialClassifier(backbone="catwalk.networks.compact_cnn", backbone_args={"width": 8}, replays=2)
    fit(shop, make_trainer, [ResumableCheckpoint(str(tmp_path), "whole", every_n_batches=5)], model)
    assert steps(tmp_path / "last.ckpt") == 10 * 2


def test_lightning_finds_the_last_one_and_no_unfinished_one(shop, make_trainer, tmp_path, monkeypatch):
    callback = ResumableCheckpoint(str(tmp_path), "whole", every_n_batches=5)
    trainer, _ = fit(shop, make_trainer, [callback])
    fsync = os.fsync

    def break_off(handle):
        os.truncate(f"/proc/self/fd/{handle}", 1000)
        fsync(handle)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", break_off)
        with pytest.raises(KeyboardInterrupt):
            callback._save_last(trainer)
        with pytest.raises(KeyboardInterrupt):
            callback._save_checkpoint(trainer, str(tmp_path / "whole.ckpt"))
    assert [steps(tmp_path / name) for name in ("last.ckpt", "whole.ckpt")] == [20, 22]
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "whole.ckpt"}
    again = make_trainer(
        max_epochs=2, enable_checkpointing=True, callbacks=[ResumableCheckpoint(str(tmp_path), "whole", 5)]
    )
    model = ProductClassifier("catwalk.networks.compact_cnn", {"width": 8})
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
    model = ProductClassifier("catwalk.networks.compact_cnn", {"width": 8})
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


@pytest.mark.parametrize("kind", [ResumableCheckpoint, ModelCheckpoint])
def test_a_disk_without_room_keeps_the_earlier_checkpoint_and_is_named(shop, make_trainer, tmp_path, monkeypatch, kind):
    """Lightning's own callback writes through the Trainer, too, which any callback of ours has set up."""
    path = tmp_path / "own" / "whole.ckpt"
    others = [ResumableCheckpoint(str(tmp_path), "other", 0)] if kind is ModelCheckpoint else []

    def callbacks():
        own = (
            kind(str(path.parent), "whole", enable_version_counter=False) if others else kind(str(path.parent), "whole")
        )
        return [*others, own]

    fit(shop, make_trainer, callbacks(), max_epochs=1)
    earlier, write = path.read_bytes(), os.fsync

    def refuse(handle):
        if f"{path.parent}/." in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left on device") as caught:
        fit(shop, make_trainer, callbacks(), max_epochs=2)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == earlier
    assert list(path.parent.iterdir()) == [path]


def test_the_latest_checkpoint_of_a_training(shop, make_trainer, tmp_path):
    callback = ResumableCheckpoint(str(tmp_path), "whole", every_n_batches=20)
    latest = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            latest.append(callback.latest)

    (tmp_path / "last.ckpt").write_text("of an earlier training")
    fit(shop, make_trainer, [callback, Look()])
    assert latest == [None] * 11 + [str(tmp_path / "whole.ckpt")] * 9 + ["last"] * 2
    assert callback.latest == str(tmp_path / "whole.ckpt")


DAMAGED = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "empty": lambda path: path.write_bytes(b""),
    "no checkpoint": lambda path: path.write_text("notes"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a list": lambda path: torch.save([1, 2], path),
    "another dictionary": lambda path: torch.save({"weights": {}}, path),
    "weights": lambda path: torch.save(torch.load(path, weights_only=True)["state_dict"], path),
    "of other types": lambda path: torch.save(torch.load(path, weights_only=True) | {"epoch": "3"}, path),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "code": lambda path: torch.save(torch.load(path, weights_only=True) | {"code": Path}, path),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("given", ["last", "path"])
def test_a_damaged_checkpoint_is_named(finished_run, shop, make_trainer, tmp_path, damage, given):
    if (damage, given) == ("a link to nothing", "last"):
        pytest.skip("Lightning does not find it")
    path = tmp_path / "last.ckpt"
    path.write_bytes(finished_run)
    DAMAGED[damage](path)
    trainer = make_trainer(enable_checkpointing=True, callbacks=[ResumableCheckpoint(str(tmp_path), "whole")])
    data = ProductImages(shop, batch_size=32)
    with pytest.raises(CatwalkError, match=r"last\.ckpt .*ckpt_path|last\.ckpt does not exist"):
        trainer.fit(small(), data, ckpt_path="last" if given == "last" else path, weights_only=True)


def small():
    return ProductClassifier("catwalk.networks.compact_cnn", {"width": 8})


@pytest.fixture(scope="module")
def finished_run(shop, make_trainer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit(shop, make_trainer, [ResumableCheckpoint(str(folder), "whole", 0)], max_epochs=1)
    return (folder / "whole.ckpt").read_bytes()


@pytest.mark.parametrize("lacking", ["optimizer_states", "lr_schedulers", "loops"])
def test_weights_alone_are_not_to_go_on_from(finished_run, shop, make_trainer, tmp_path, lacking):
    path = tmp_path / "weights.ckpt"
    path.write_bytes(finished_run)
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint[lacking]
    torch.save(checkpoint, path)
    with pytest.raises(CatwalkError, match=rf"no training can go on .* lacks {lacking}"):
        make_trainer().fit(small(), ProductImages(shop, batch_size=32), ckpt_path=path, weights_only=True)
    make_trainer().test(small(), ProductImages(shop, batch_size=32), ckpt_path=path, weights_only=True, verbose=False)
