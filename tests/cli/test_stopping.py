"""SIGTERM and Ctrl-C: exit code, one line that says how to go on, and nothing half-done."""

import os
import pkgutil
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from catwalk.cli import commands
from catwalk.cli import main as cli
from catwalk.cli.main import main
from catwalk.terminal import stopping

DATA = ["--config", "configs/data/synthetic.yaml", "--trainer.logger=false"]
CNN = ["--config", "configs/cnn/traditional.yaml", *DATA, "--model.backbone_args={width: 8}"]
CLASSIFIER, RECOMMENDER = "runs/traditional/classifier.ckpt", "runs/vbpr/recommender.ckpt"
VBPR = ["--config", "configs/recommender/vbpr.yaml", *DATA]
FEATURES, LISTS = ["--config", "configs/cnn/features.yaml"], ["--config", "configs/recommender/recommendations.yaml"]
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
AGAIN = "catwalk: stopped; run the same command again"


def stop_at(monkeypatch: pytest.MonkeyPatch, place: str, number: int = signal.SIGTERM, call: int = 1) -> None:
    """Let a signal come at a call of a function, such as ``package.module:Class.method``."""
    owner, _, name = place.rpartition("." if "." in place.partition(":")[2] else ":")
    holder = pkgutil.resolve_name(owner)
    function: Callable[..., object] = getattr(holder, name)
    calls = []

    def stopped(*arguments: object, **settings: object) -> object:
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return function(*arguments, **settings)

    monkeypatch.setattr(holder, name, stopped)


def last_line(outcome) -> str:
    assert "Traceback" not in outcome.err
    assert "Received SIGTERM" not in outcome.err
    return outcome.err.splitlines()[-1]


@pytest.fixture
def training(work: Path) -> Callable[[int], list[str]]:
    """Return a function that returns the arguments of a training into ``runs/new``."""

    def arguments(every: int) -> list[str]:
        settings = {"dirpath": "runs/new", "filename": "recommender", "every_n_batches": every}
        callbacks = [{"class_path": "callbacks.ResumableCheckpoint", "init_args": settings}]
        Path("new.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks, "max_epochs": 3}}))
        return ["fit", *VBPR, "--data.batch_size=64", "--config", "new.yaml"]

    return arguments


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize(
    ("call", "every", "go_on"),
    [
        (2, 0, "run the same command again"),
        (27, 0, "the same command goes on from its latest checkpoint with --ckpt_path runs/new/recommender.ckpt"),
        (27, 4, "the same command goes on from its latest checkpoint with --ckpt_path last"),
    ],
)
def test_a_training(training, run, monkeypatch, number, call, every, go_on) -> None:
    earlier = Path(RECOMMENDER).read_bytes()
    with monkeypatch.context() as patch:
        stop_at(patch, "lightning_modules.vbpr:VBPR.training_step", number, call)
        outcome = run(*training(every))
    assert outcome.code == CODES[number]
    assert last_line(outcome) == f"catwalk: stopped; {go_on}"
    assert Path(RECOMMENDER).read_bytes() == earlier
    left = {path.name for path in Path("runs/new").glob("*")}
    assert left == ({"recommender.ckpt"} if call > 2 else set()) | ({"last.ckpt"} if every else set())


def test_a_training_goes_on_as_the_line_says(training, run, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, "lightning_modules.vbpr:VBPR.training_step", call=27)
        assert run(*training(4)).code == 143
    weights = []
    for arguments in (["--ckpt_path", "last"], []):
        outcome = run(*training(4), *arguments)
        assert outcome.code == 0, outcome.err
        weights.append(torch.load("runs/new/recommender.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


COMMANDS = {
    "before anything": (["fit", *VBPR], "catwalk.cli.main:_dispatch"),
    "validate": (
        ["validate", *CNN, f"--ckpt_path={CLASSIFIER}"],
        "lightning_modules.cnn:ProductClassifier.validation_step",
    ),
    "test": (["test", *VBPR, f"--ckpt_path={RECOMMENDER}"], "lightning_modules.recommender:Recommender.test_step"),
    "features": (["predict", *CNN, *FEATURES], "lightning_modules.cnn:ProductClassifier.predict_step"),
    "lists": (
        ["predict", *VBPR, *LISTS, f"--ckpt_path={RECOMMENDER}", "--trainer.callbacks.output=new/lists.csv"],
        "callbacks.table_files:_cell",
    ),
    "an attack": (
        ["fit", *VBPR, "--config", "configs/attack/pgd8.yaml", "--poison.output=new/attack"],
        "catwalk.poisoning.poison:Poisoning.complete",
    ),
    "while a checkpoint is written": (
        ["fit", *CNN, "--trainer.max_epochs=1"],
        "catwalk.files.atomic:flush",
    ),
}


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file() and ".cache" not in path.parts}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_of_one_step_leaves_everything_as_it_was(work, run, monkeypatch, name) -> None:
    before = files()
    arguments, place = COMMANDS[name]
    stop_at(monkeypatch, place)
    outcome = run(*arguments)
    assert outcome.code == 143, outcome.err
    assert last_line(outcome) == AGAIN
    assert files() == before


def test_an_import(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    stop_at(monkeypatch, "catwalk.importers.dataset_writer:DatasetWriter._write_table")
    outcome = run("data", "synthetic", "shop", "--items=12", "--users=20", "--image_size=16", "--train_images=10")
    assert outcome.code == 143
    assert last_line(outcome) == "catwalk: stopped; nothing is left half-done: run the same command again"
    assert not list(tmp_path.iterdir())


def test_a_search_goes_on(work, run, monkeypatch) -> None:
    search = {
        "model": {"class_path": "lightning_modules.BPRMF", "init_args": {"factors": 2}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        "search": {"model.regularization": {"low": 0.001, "high": 10, "log": True}},
    }
    Path("search.yaml").write_text(yaml.safe_dump(search))
    arguments = ["tune", "--config=search.yaml", "--name=small", "--dataset=data/synthetic", "--trials=2"]
    with monkeypatch.context() as patch:
        stop_at(patch, "lightning_modules.bpr_mf:BPRMF.on_train_epoch_end", call=2)
        outcome = run(*arguments)
    assert outcome.code == 143
    assert last_line(outcome) == "catwalk: stopped; the same command goes on with the trial that it was at"
    outcome = run(*arguments)
    assert outcome.code == 0, outcome.err
    assert "1 of them done before" in outcome.out


def test_a_study(work, run, monkeypatch) -> None:
    model = {"class_path": "lightning_modules.BPRMF", "init_args": {"factors": 2}}
    network = {"class_path": "lightning_modules.ProductClassifier"}
    network["init_args"] = {"backbone": "catwalk.networks.compact_cnn", "backbone_args": {"width": 8}}
    study = {
        **{"name": "small", "dataset": "data/synthetic", "source": "Sandal", "target": "Sneaker", "seeds": [0]},
        "extractors": {"T": {"model": network, "trainer": {"max_epochs": 1, "accelerator": "cpu"}}},
        "attacks": [{"class_path": "catwalk.attacks.FGSM", "init_args": {"epsilon": 8}}],
        "recommenders": {"BPR-MF": {"model": model, "trainer": {"max_epochs": 1, "accelerator": "cpu"}}},
    }
    Path("study.yaml").write_text(yaml.safe_dump(study))
    with monkeypatch.context() as patch:
        stop_at(patch, "lightning_modules.cnn:ProductClassifier.training_step", call=2)
        outcome = run("study", "--config=study.yaml", "--workers=1")
    assert outcome.code == 143, outcome.err
    assert last_line(outcome) == "catwalk: stopped; the same command goes on with what is left to do"
    assert not list(Path("runs").rglob(".partial/*"))
    assert not list(Path("runs").rglob("table*"))


@pytest.mark.parametrize("swallow", ["everything is caught", "turned into another error", "in a finalizer"])
def test_a_signal_that_somebody_swallows_still_ends_with_143(capfd, monkeypatch, swallow) -> None:
    class Finalizer:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)

    def command(_: object) -> None:
        if swallow == "in a finalizer":
            Finalizer()
            return
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except BaseException as error:
            if swallow == "turned into another error":
                raise RuntimeError("a collective has failed") from error

    monkeypatch.setattr(commands, "_run_study", command)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    with pytest.raises(SystemExit) as caught:
        main(["study"])
    assert caught.value.code == 143
    assert capfd.readouterr().err == "catwalk: stopped; the same command goes on with what is left to do\n"


def test_a_scheduler_that_sends_it_twice(capfd, monkeypatch) -> None:
    cleaned = []

    def command(_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append("up")

    monkeypatch.setattr(commands, "_run_study", command)
    with pytest.raises(SystemExit) as caught:
        main(["study"])
    assert (caught.value.code, cleaned) == (143, ["up"])


@pytest.mark.parametrize("earlier", [signal.SIG_DFL, signal.SIG_IGN, lambda *_: None])
def test_whoever_calls_main_has_his_own_handler_back(capfd, earlier) -> None:
    own = signal.signal(signal.SIGTERM, earlier)
    try:
        main(["--version"])
        assert signal.getsignal(signal.SIGTERM) is earlier
        with stopping.sigterm_raises() as came:
            ignored = earlier is signal.SIG_IGN
            assert (signal.getsignal(signal.SIGTERM) is signal.SIG_IGN) == ignored
            assert not came()
    finally:
        signal.signal(signal.SIGTERM, own)


def test_only_the_first_process_of_a_run_speaks(capfd, monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(commands, "_run_study", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as caught:
        main(["study"])
    assert caught.value.code == 143
    assert capfd.readouterr().err == ""


def test_processes_that_do_not_listen_are_ended(monkeypatch) -> None:
    monkeypatch.setattr(stopping, "GRACE", 0.1)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    processes = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        for script in (deaf, "print(flush=True); import time; time.sleep(60)")
    ]
    given = list(processes)
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    stopping.end_processes(given)
    assert given == []
    assert [process.returncode for process in processes] == [-signal.SIGKILL, -signal.SIGTERM]
    for process in processes:
        process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True])
def test_a_training_in_two_processes(work, group) -> None:
    """SIGTERM to the first process, as from ``kill``, or to all, as from a scheduler."""
    command = [sys.executable, "-m", "catwalk.cli.main", "fit", *VBPR, "--trainer.max_epochs=100000"]
    command += ["--trainer.devices=2", "--trainer.accelerator=cpu", "--trainer.strategy=ddp"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    before, latest = Path(RECOMMENDER).stat().st_mtime, time.monotonic() + 120
    while Path(RECOMMENDER).stat().st_mtime == before and time.monotonic() < latest:
        time.sleep(0.2)
    (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors.decode()
    assert errors.decode().count("catwalk: stopped; the same command goes on") == 1
    assert b"Traceback" not in errors
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_an_error_that_is_raised_from_itself_ends() -> None:
    error = ValueError("broken")
    error.__cause__ = error
    assert stopping.stopped_by(error) is None
    error.__context__ = KeyboardInterrupt()
    assert stopping.stopped_by(error) == signal.SIGINT


def test_every_command_says_how_to_go_on() -> None:
    listed = {line.split()[0] for line in cli.OVERVIEW.splitlines() if re.match(r"  [a-z]+ {3,}", line)}
    assert {"fit", "attack", "data", "study", "tune"} <= listed
    assert listed == set(cli.GO_ON)
