"""Kill a study at random moments, and see that it ends in the same bytes as one that was left alone.

    python tests/study/kill_study.py FOLDER [--config FILE] [--dataset DATASET] [--kills 50] [--workers 2] [--seed 0]

The study runs once undisturbed into ``FOLDER/whole``. Another run of it, into ``FOLDER/killed``, is killed by SIGKILL,
all its processes at once, at moments drawn evenly over the time from its first line to its end, and started again by
the same command, until it ends. Then the two are compared: every file of the study's folder, but for the columns of
``cells.csv`` that say how long something took and how much memory, and for ``manifest.json``, ``findings.json`` and the
report, which say so as well; and every file of every result in the cache, but for the same entries of ``stage.json``.
Nothing half-done and no lock may be left. If kills are left, ``FOLDER/killed`` is removed and all begins again.

Without ``--config`` the study is one of seconds: a CNN, two attacks, VBPR and AMR from it, two seeds, on 240 items that
are generated. Prints a line for each kill; exits with 1 at the first difference.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[2]

MEASURED = ("seconds", "memory_mib")
"""Ends of the names of columns that differ between two runs."""

OF_A_RUN = ("seconds", "memory_mib", "gpu_memory_mib", "sha256")
"""Entries of ``stage.json`` that do."""

NOT_COMPARED = ("findings.json", "manifest.json", "report/index.html")


def small_study() -> dict[str, Any]:
    """Return the settings of a study of seconds."""
    small = {"factors": 4, "visual_factors": 4}
    network = {"backbone": "catwalk.networks.compact_cnn", "backbone_args": {"width": 8}}
    return {
        "source": "Sandal",
        "target": "Sneaker",
        "seeds": [0, 1],
        "lpips": {"net": "alex", "on_missing": "skip"},
        "extractors": {
            "T": {
                "model": {"class_path": "lightning_modules.ProductClassifier", "init_args": network},
                "data": {"batch_size": 32},
                "trainer": {"max_epochs": 3},
            }
        },
        "attacks": [
            {"class_path": "catwalk.attacks.FGSM", "init_args": {"epsilon": 32}},
            {"class_path": "catwalk.attacks.PGD", "init_args": {"epsilon": 32}},
        ],
        "recommenders": {
            "VBPR": {
                "model": {"class_path": "lightning_modules.VBPR", "init_args": small},
                "trainer": {"max_epochs": 3},
            },
            "AMR": {
                "model": {"class_path": "lightning_modules.AMR", "init_args": small},
                "trainer": {"max_epochs": 2},
                "warm_start": "VBPR",
            },
        },
    }


class Runs:
    """Runs of one study.

    Args:
        folder: Where they work.
        settings: The study's.
        workers: Number of stages side by side.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], workers: int) -> None:
        self.folder = folder
        config = folder / "study.yaml"
        config.write_text(yaml.safe_dump({**settings, "name": "study"}, sort_keys=False))
        self._command = [sys.executable, "-m", "catwalk", "study", "--config", str(config), "--workers", str(workers)]

    def start(self, name: str) -> "subprocess.Popen[str]":
        """Start one, and return when it has written its first line."""
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
        log = (self.folder / f"{name}.log").open("w")
        process = subprocess.Popen(
            [*self._command, "--output", str(self.folder / name)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            start_new_session=True,
        )
        log.close()
        while process.poll() is None and "Study study" not in (self.folder / f"{name}.log").read_text():
            time.sleep(0.05)
        return process

    def end(self, process: "subprocess.Popen[str]", name: str) -> None:
        """Wait for one to end by itself."""
        if process.wait() != 0:
            raise SystemExit(f"{name} ended with {process.returncode}: {(self.folder / f'{name}.log').read_text()}")

    def whole(self) -> float:
        """Run one undisturbed; return the seconds from its first line to its end."""
        process = self.start("whole")
        began = time.monotonic()
        self.end(process, "whole")
        return time.monotonic() - began

    def killed(self, after: float) -> bool:
        """Start one and kill it after some seconds; return whether it was killed before it ended."""
        process = self.start("killed")
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        self.end(process, "killed")
        return False

    def differences(self) -> list[str]:
        """Return in what the killed one and the whole one differ, and what the killed one has left half-done."""
        whole, killed = (dict(_contents(self.folder / name)) for name in ("whole", "killed"))
        found = [f"{name} is in one alone" for name in whole.keys() ^ killed.keys()]
        found += [f"{name} differs" for name in whole.keys() & killed.keys() if whole[name] != killed[name]]
        left = [path for place in (".partial", ".locks", "damaged") for path in self._cache.glob(f"{place}/*")]
        return sorted(found) + [f"{path} was left" for path in left]

    @property
    def _cache(self) -> Path:
        return self.folder / "killed" / "cache"


def _contents(output: Path) -> Iterator[tuple[str, Any]]:
    """Yield by name what is to be the same in two runs."""
    for path in sorted((output / "study").rglob("*")):
        name = path.relative_to(output).as_posix()
        if path.is_dir() or name.removeprefix("study/") in NOT_COMPARED:
            continue
        if path.name == "cells.csv":
            with path.open(newline="") as file:
                rows = csv.DictReader(file)
                yield name, [{key: row[key] for key in row if not key.endswith(MEASURED)} for row in rows]
        else:
            yield name, hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted((output / "cache").rglob("*")):
        name = path.relative_to(output).as_posix()
        if path.is_dir() or name.split("/")[1].startswith(".") or name.split("/")[1] == "damaged":
            continue
        if path.name == "stage.json":
            record = json.loads(path.read_text())
            yield name, {key: value for key, value in record.items() if key not in OF_A_RUN}
        else:
            yield name, hashlib.sha256(path.read_bytes()).hexdigest()


def kill_study(folder: Path, settings: dict[str, Any], kills: int, workers: int, seed: int) -> int:
    """Kill a study at random moments; return how often it came to its end.

    Raises:
        SystemExit: If it ended otherwise than the one that was left alone.
    """
    runs, moments = Runs(folder, settings, workers), random.Random(seed)
    seconds = runs.whole()
    print(f"undisturbed: {seconds:.1f} s from the first line to the end", flush=True)
    number = ends = 0
    while number < kills:
        after = moments.uniform(0, seconds)
        if runs.killed(after):
            number += 1
            results = len(list((folder / "killed" / "cache").glob("[!.]*/*/stage.json")))
            print(f"kill {number} of {kills}: after {after:.1f} s, {results} results are there", flush=True)
            continue
        ends += 1
        _require_same(runs)
        shutil.rmtree(folder / "killed")
    if (folder / "killed").exists():
        runs.end(runs.start("killed"), "killed")
        ends += 1
        _require_same(runs)
    print(f"killed {kills} times, ended {ends} times, always in the same bytes", flush=True)
    return ends


def _require_same(runs: Runs) -> None:
    found = runs.differences()
    if found:
        raise SystemExit("\n".join(["it ended otherwise than the one that was left alone:", *found]))
    print("it has ended in the same bytes", flush=True)


def main() -> None:
    """Run it as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="A new folder.")
    parser.add_argument("--config", type=Path, help="A study's configuration; by default one of seconds.")
    parser.add_argument("--dataset", type=Path, help="Its dataset; by default the configuration's, or a generated one.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="Of the moments.")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True)
    settings = small_study() if options.config is None else yaml.safe_load(options.config.read_text())
    dataset = options.dataset or settings.get("dataset")
    if dataset is None:
        dataset = folder / "shop"
        command = [sys.executable, "-m", "catwalk", "data", "synthetic", str(dataset)]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": str(PROJECT)}, stdout=subprocess.DEVNULL, check=True)
    kill_study(
        folder, {**settings, "dataset": str(Path(dataset).resolve())}, options.kills, options.workers, options.seed
    )


if __name__ == "__main__":
    main()
