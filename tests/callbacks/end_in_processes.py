"""`catwalk fit` in one of the processes of a job, of which one gets into trouble; test_end_together.py runs it.

Arguments: what to train, dataset folder, folder for checkpoints, and further ones of ``catwalk fit``. The environment
variable ``TROUBLE`` says what happens in process ``TROUBLED``: an error in ``setup`` or in a ``step``, a ``bug``, a
signal that has it ``killed`` or ``stopped``; or that the others are ``busy`` or ``stuck`` meanwhile.
"""

import os
import signal
import sys
import time
from typing import Any

import forked_processes

import catwalk.terminal.peers
from catwalk.cli.main import main as catwalk_main
from catwalk.errors import CatwalkError
from lightning_modules import VBPR, FreeAdversarialClassifier

if "SRUN" in os.environ:  # as srun would tell
    names = {"PROCID": "LOCAL_RANK", "LOCALID": "LOCAL_RANK", "NTASKS": "WORLD_SIZE", "NTASKS_PER_NODE": "WORLD_SIZE"}
    told = {"NNODES": "1", "NODEID": "0", "JOB_ID": "1", **{name: os.environ[other] for name, other in names.items()}}
    os.environ |= {f"SLURM_{name}": value for name, value in told.items()}

TROUBLE = os.environ.get("TROUBLE", "")
IS_TROUBLED = forked_processes.rank() == int(os.environ.get("TROUBLED", 1))
BATCH = 7


class Trouble:
    """What gets into trouble in one of the processes."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if IS_TROUBLED and TROUBLE == "setup":
            raise CatwalkError("the disk of this machine is another one")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == BATCH and TROUBLE not in ("", "setup"):
            self._get_into_trouble()
        return super().training_step(batch, batch_idx)

    def _get_into_trouble(self) -> None:
        if not IS_TROUBLED:
            if TROUBLE == "busy":
                while True:
                    time.sleep(0.01)
            if TROUBLE == "stuck":
                time.sleep(1000)
            return
        if TROUBLE in ("killed", "stopped"):
            os.kill(os.getpid(), signal.SIGKILL if TROUBLE == "killed" else signal.SIGTERM)
            time.sleep(1000)
        if TROUBLE == "bug":
            raise ValueError("a bug of theirs")
        raise CatwalkError("the batch is damaged")


class Classifier(Trouble, FreeAdversarialClassifier):
    """A classifier."""


class Recommender(Trouble, VBPR):
    """A recommender."""


MODELS = {
    "Classifier": {"backbone": "plain_networks.with_dropout", "replays": "2"},
    "Recommender": {"factors": "4", "visual_factors": "4"},
}


def main(model: str, dataset: str, folder: str, *arguments: str) -> None:
    catwalk.terminal.peers.GRACE = 1.0
    options = {
        "model": f"end_in_processes.{model}",
        **{f"model.{name}": value for name, value in MODELS[model].items()},
        "data": "ProductImages" if model == "Classifier" else "InteractionTriplets",
        "data.dataset": dataset,
        "data.batch_size": str(32 // int(os.environ.get("WORLD_SIZE", "1"))),
        "config": "configs/trainer/slurm.yaml" if "SRUN" in os.environ else "configs/trainer/ddp.yaml",
        "trainer.accelerator": "cpu",
        "trainer.devices": os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")),
        "trainer.num_nodes": os.environ.get("GROUP_WORLD_SIZE", "1"),
        "trainer.max_epochs": "4",
        "trainer.logger": "false",
        "trainer.enable_progress_bar": "false",
        "trainer.callbacks": "callbacks.ResumableCheckpoint",
        "trainer.callbacks.dirpath": folder,
        "trainer.callbacks.filename": "whole",
        "trainer.callbacks.every_n_batches": "5",
    }
    catwalk_main(["fit", *(f"--{name}={value}" for name, value in options.items()), *arguments])


if __name__ == "__main__":
    if sys.argv[1] == "fit":  # as Lightning starts a process: with the arguments of the command
        sys.exit(catwalk_main(sys.argv[1:]))
    main(*sys.argv[1:])
