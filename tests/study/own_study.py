"""A study of a user's own classes in a folder of its own, run by the command line, and what it has left."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[2]

OWN = '''
"""Classes of a user, in the working folder, that say who uses them, and may wait."""

import os
import time
from pathlib import Path

import torch

from catwalk.attacks import FGSM, PGD
from lightning_modules import VBPR, ProductClassifier

torch.set_num_threads(2)  # whatever a user does


def say(what):
    with open("made.txt", "a") as file:
        file.write(f"{what} {os.getpid()} {torch.get_num_threads()}\\n")
    while Path(f"wait for {what}").exists():
        time.sleep(0.05)


class OwnFGSM(FGSM):
    def perturb(self, *arguments, **settings):
        say("attack")
        return super().perturb(*arguments, **settings)


class OwnPGD(PGD):
    def perturb(self, *arguments, **settings):
        say("attack by PGD")
        if Path("fail").exists():
            raise ValueError("broken") if Path("fail").read_text() == "bug" else Unpicklable("user", "this is wrong")
        return super().perturb(*arguments, **settings)


class OwnClassifier(ProductClassifier):
    def on_fit_start(self):
        super().on_fit_start()
        say("classifier")


class OwnVBPR(VBPR):
    def on_fit_start(self):
        super().on_fit_start()
        say("recommender")


from catwalk.errors import CatwalkError


class Unpicklable(CatwalkError):
    def __init__(self, who, what):
        super().__init__(f"{who}: {what}")
'''


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "catwalk", "study", "--config", "study.yaml", *options]


def start(folder: Path, *options: str) -> "subprocess.Popen[str]":
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
    streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(*options), cwd=folder, env=environment, start_new_session=True, **streams)


def write_study(settings: dict[str, Any], folder: Path) -> None:
    """Write a study of the user's own classes into a working folder."""
    (folder / "own.py").write_text(OWN)
    settings["extractors"]["T"]["model"]["class_path"] = "own.OwnClassifier"
    settings["extractors"]["T"]["trainer"]["max_epochs"] = 2
    settings["attacks"][0]["class_path"], settings["attacks"][1]["class_path"] = "own.OwnFGSM", "own.OwnPGD"
    settings["recommenders"]["VBPR"]["model"]["class_path"] = "own.OwnVBPR"
    (folder / "study.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


def made(folder: Path) -> list[list[str]]:
    """Return what was made: by whom, and on how many threads."""
    path = folder / "made.txt"
    return [line.rsplit(" ", 2) for line in path.read_text().splitlines()] if path.exists() else []


def until(condition: Callable[[], Any], seconds: float = 300.0) -> None:
    latest = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.05)


def stop_between_attacks(folder: Path, name: str, *options: str) -> set[int]:
    """Stop a study by a signal while both attacks wait; return the processes that it ran, which have ended with it."""
    number = signal.Signals[name]
    for what in ("attack", "attack by PGD"):
        (folder / f"wait for {what}").touch()
    study = start(folder, *options)
    until(lambda: {"attack", "attack by PGD"} <= {what for what, *_ in made(folder)})
    if number == signal.SIGINT:
        os.killpg(study.pid, number)  # as a terminal does
    else:
        study.send_signal(number)
    _, err = study.communicate(timeout=60)
    processes = {int(process) for _, process, _ in made(folder)}
    until(lambda: not any(map(is_running, processes)), 60)
    if number == signal.SIGKILL:
        assert study.returncode == -number
    else:
        assert study.returncode == 128 + number, err
        assert err.splitlines()[-1] == "catwalk: stopped; the same command goes on with what is left to do"
        assert "Traceback" not in err
        assert [path for left in (".partial", ".locks") for path in (folder / "runs/cache" / left).glob("*")] == []
    for path in folder.glob("wait for *"):
        path.unlink()
    return processes


def cells(output: Path) -> list[dict[str, str]]:
    """Return the cells of a study, less the same."""
    (path,) = output.glob("*/cells.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: text for name, text in row.items() if not name.endswith(("seconds", "memory_mib"))}
            for row in csv.DictReader(file)
        ]


def results(output: Path) -> Iterator[tuple[str, Any]]:
    """Yield what a study has left, less how long it took and how much memory."""
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output).as_posix()
        if path.is_dir() or "/.verified/" in name:
            continue
        if path.name == "stage.json":
            record = json.loads(path.read_text())
            yield name, {key: value for key, value in record.items() if key not in MEASURED}
        elif path.name == "findings.json":
            yield name, json.loads(path.read_text())["findings"]
        elif path.name != "cells.csv" and not name.endswith("report/index.html"):
            yield name, hashlib.sha256(path.read_bytes()).hexdigest()


MEASURED = ("seconds", "memory_mib", "gpu_memory_mib", "sha256")


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
