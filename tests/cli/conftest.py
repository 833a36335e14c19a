"""A folder as a new user has it after the first commands, and a way to run commands in it."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from catwalk.cli.main import main

CNN = ["--config", "configs/cnn/traditional.yaml", "--config", "configs/data/synthetic.yaml", "--trainer.logger=false"]
SMALL = ["--model.backbone_args={width: 8}", "--data.batch_size=32"]


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture(scope="session")
def finished_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a CNN and its features have been made by the commands of the shipped configurations."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["catwalk"])
        sizes = ["--items=90", "--users=200", "--image_size=16", "--train_images=40", "--test_images=10"]
        main(["data", "synthetic", "data/synthetic", *sizes])
        main(["fit", *CNN, *SMALL, "--trainer.max_epochs=8"])
        main(["predict", *CNN, *SMALL, "--config", "configs/cnn/features.yaml"])
        recommender = ["--config", "configs/recommender/vbpr.yaml", "--config", "configs/data/synthetic.yaml"]
        main(["fit", *recommender, "--trainer.logger=false", "--trainer.max_epochs=2"])
    return folder


@pytest.fixture
def work(finished_work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder, which is the current one."""
    folder = tmp_path / "work"
    shutil.copytree(finished_work, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def own_wandb_service() -> Iterator[None]:
    """End W&B's service with every test: it takes relative paths to begin in the folder in which it was started."""
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs one command."""

    def run_command(*arguments: str) -> Outcome:
        capfd.readouterr()
        code = 0
        try:
            main(list(arguments))
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run_command


@pytest.fixture
def read_when_written() -> Callable[[Path, bytes], bytes]:
    """Return a function that reads the file of a W&B run, on which W&B writes for a moment after the run has ended."""

    def read(folder: Path, awaited: bytes) -> bytes:
        content = b""
        for _ in range(300):
            content = b"".join(path.read_bytes() for path in folder.glob("run-*.wandb"))
            if awaited in content:
                break
            time.sleep(0.1)
        return content

    return read
