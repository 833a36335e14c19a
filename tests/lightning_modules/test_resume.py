"""A run that was killed and goes on ends with the weights of one that was not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train_and_die
from pytorch_lightning import Callback, seed_everything

from datamodules import InteractionTriplets
from lightning_modules import VBPR

HERE = Path(__file__).parent
TRAININGS = {
    "ProductClassifier": {},
    "AdversarialClassifier": {"iterations": 2},
    "FastAdversarialClassifier": {"check_every_n_steps": 5},  # when a checkpoint is saved
    "FreeAdversarialClassifier": {"replays": 2},
    "TradesClassifier": {"iterations": 2},
}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 on this system")
@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_killed_in_mid_epoch(shop, tmp_path, name):
    """Dropout, random starts, flips, shifts and momentum are all at work, and the epochs have 11 batches."""
    settings = TRAININGS[name]
    whole = train_and_die.train(name, settings, shop, tmp_path / "whole")
    packages = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    process = subprocess.run(
        [sys.executable, HERE / "train_and_die.py", name, json.dumps(settings), shop, tmp_path / "killed", "17"],
        env={**os.environ, "PYTHONPATH": packages},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    checkpoint = torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 15 * settings.get("replays", 1)
    resumed = train_and_die.train(name, settings, shop, tmp_path / "killed")
    for (key, value), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
    if name == "FastAdversarialClassifier":
        assert whole._best_accuracy == resumed._best_accuracy > 0
        assert all(torch.equal(value, resumed._passed[key]) for key, value in whole._passed.items())
    if name == "FreeAdversarialClassifier":
        assert torch.equal(whole._perturbation, resumed._perturbation)


@pytest.mark.parametrize("step", [1, 4, 5, 9])
def test_recommenders_go_on_in_mid_epoch_too(shop, trained, make_trainer, tmp_path, step):
    trained.table.write(tmp_path, trained.catalogue)

    class Save(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == step:
                trainer.save_checkpoint(tmp_path / "saved.ckpt")

    def train(callbacks=(), checkpoint=None):
        seed_everything(0, verbose=False)
        model, trainer = VBPR(factors=4, visual_factors=4), make_trainer(max_epochs=3, callbacks=callbacks)
        data = InteractionTriplets(shop, tmp_path, batch_size=128)
        trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
        assert trainer.global_step == 3 * 5
        return model

    whole = train([Save()])
    resumed = train(checkpoint=tmp_path / "saved.ckpt")
    for (key, value), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
