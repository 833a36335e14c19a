"""What it costs to hand the stages of a study to others: the time beyond the ideal, of processes here and of Ray.

    python benchmarks/cluster.py data/synthetic                # the study of configs/study/synthetic.yaml
    python benchmarks/cluster.py DATASET --config STUDY.yaml --workers 8 --address auto

The ideal is the seconds that the stages took themselves, shared out evenly among the workers, or those of the longest
chain of stages that need each other, if that is more. Beyond it lie the start of processes, handing stages and results
on, workers that have nothing to do meanwhile, and what the machine does besides. Stages that do nothing tell the start
from what each further stage costs. Every run is a process of its own, with an empty store.

The contract and the results are in ``benchmarks/README.md``.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from record import Record, add_record_argument
from rich.console import Console
from timing import Clock, describe_run

from catwalk import study
from catwalk.cli.main import main as run_catwalk
from catwalk.results.store import StageCache
from catwalk.study.executor import backend_of, run_waiting
from catwalk.study.progress import StudyProgress
from catwalk.study.stages.stage import Stage
from catwalk.study.workers import Backend

PACKAGES = ("torch", "pytorch-lightning", "ray")


class _MeasuredError(Exception):
    """The stages have run; what comes after them is no matter of theirs."""


class EmptyStage(Stage):
    """A stage that does nothing."""

    kind = "empty"
    dataset = "none"
    modules = ()
    outcome = "nothing"

    def __init__(self, cache: StageCache, number: int) -> None:
        super().__init__(cache)
        self.description = f"Stage {number}"
        self.settings = {"number": number}

    def make(self, folder: Path, progress: StudyProgress) -> dict[str, Any]:
        """Do nothing."""
        return {}


def ideal(stages: Sequence[Stage], workers: int) -> tuple[float, float]:
    """Return the seconds of all stages, and those that they would take at best on a number of workers."""
    chains: dict[tuple[str, str], float] = {}
    for stage in stages:  # inputs first
        before = max((chains.get((needed.kind, needed.key), 0.0) for needed in stage.inputs), default=0.0)
        chains[stage.kind, stage.key] = before + stage.record["seconds"]
    total = sum(stage.record["seconds"] for stage in stages)
    return total, max(total / workers, *chains.values())


def measure_study(config: Path, dataset: Path, output: Path, options: list[str], workers: int) -> dict[str, float]:
    """Run a study, and return the seconds of its stages and how long they took together."""
    found: dict[str, float] = {}

    def timed(stages: Sequence[Stage], cache: StageCache, console: Console, backend: Backend) -> None:
        start = time.perf_counter()
        run_waiting(stages, cache, console, backend)
        took = time.perf_counter() - start
        total, least = ideal(stages, workers)
        found.update(stages=len(stages), total=total, ideal=least, took=took)
        raise _MeasuredError

    study.run_waiting = timed
    arguments = ["--dataset", str(dataset), "--output", str(output), "--workers", str(workers)]
    with contextlib.suppress(_MeasuredError):
        run_catwalk(["study", "--config", str(config), *arguments, *options])
    return found


def measure_empty(output: Path, executor: Any, address: str | None, workers: int, count: int) -> dict[str, float]:
    """Run stages that do nothing, and return the seconds until the first had ended, and of each further one."""
    cache = StageCache(output)
    ended: list[float] = []

    def begin(backend: Backend) -> None:
        executor_of = backend.executor

        def watched(*arguments: Any) -> Any:
            made = executor_of(*arguments)
            submit = made.submit

            def noted(stage: Stage) -> Any:
                outcome = submit(stage)
                outcome.add_done_callback(lambda _: ended.append(time.perf_counter()))
                return outcome

            made.submit = noted
            return made

        backend.executor = watched  # type: ignore[method-assign]

    stages = [EmptyStage(cache, number) for number in range(count)]
    start = time.perf_counter()
    with backend_of(executor, address, workers, print) as backend:
        begin(backend)
        run_waiting(stages, cache, Console(quiet=True), backend)
    # Of the second half: by then all workers have begun.
    half = len(ended) // 2
    return {"first": ended[0] - start, "each": (ended[-1] - ended[half]) / (len(ended) - 1 - half)}


def in_its_own_process(function: str, **arguments: Any) -> dict[str, float]:
    """Return what a function of this file returns in a process of its own."""
    text = f"import json, sys; import cluster; print(json.dumps(cluster.{function}(**cluster.read(sys.argv[1]))))"
    command = [sys.executable, "-c", text, json.dumps(arguments, default=str)]
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        raise SystemExit(done.stderr or done.stdout)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def read(text: str) -> dict[str, Any]:
    """Return the arguments that :func:`in_its_own_process` handed on."""
    arguments = json.loads(text)
    return {
        name: Path(value) if name in ("config", "dataset", "output") else value for name, value in arguments.items()
    }


def best(runs: Sequence[dict[str, float]], by: Callable[[dict[str, float]], float]) -> dict[str, float]:
    """Return the run that was disturbed least."""
    return min(runs, key=by)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", type=Path, help="the dataset folder")
    parser.add_argument("--config", type=Path, default=Path("configs/study/synthetic.yaml"), help="the study")
    parser.add_argument("--workers", type=int, default=2, help="stages side by side")
    parser.add_argument("--address", default="local", help="of the Ray cluster")
    parser.add_argument("--empty", type=int, default=100, help="number of stages that do nothing")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, of which the best counts")
    add_record_argument(parser)
    options = parser.parse_args()
    clock = Clock(torch.device("cpu"))
    record = Record(options.json, clock, PACKAGES)
    print(describe_run(clock, PACKAGES), end="\n\n")
    ray = ["--executor", "ray", "--address", options.address]
    executors = {"local": [], "ray": ray}
    studies: dict[str, list[dict[str, float]]] = {name: [] for name in executors}
    empty: dict[str, list[dict[str, float]]] = {name: [] for name in executors}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "study.yaml"
        settings = yaml.safe_load(options.config.read_text("utf-8"))
        config.write_text(yaml.safe_dump({**settings, "lpips": {"on_missing": "skip"}}, sort_keys=False))
        for number in range(options.rounds):
            for name, given in executors.items():
                run = partial(in_its_own_process, workers=options.workers)
                output = Path(folder) / f"{name}{number}"
                dataset = options.dataset.resolve()
                studies[name].append(run("measure_study", config=config, dataset=dataset, output=output, options=given))
                address = options.address if given else None
                place = Path(folder) / f"empty {name}{number}"
                empty[name].append(
                    run("measure_empty", output=place, executor=name, address=address, count=options.empty)
                )
    rows = []
    for name, runs in studies.items():
        run = best(runs, lambda run: run["took"] - run["ideal"])
        beyond = run["took"] - run["ideal"]
        figures = (run["total"], run["ideal"], run["took"], beyond)
        rows.append([name, str(options.workers), str(run["stages"]), *(f"{figure:.1f}" for figure in figures)])
        rows[-1].append(f"{run['took'] / run['ideal']:.2f}")
    header = ["executor", "workers", "stages", "all stages, s", "ideal, s", "took, s", "beyond the ideal, s", "ratio"]
    print(record.table("study", header, rows), end="\n\n")
    rows = []
    for name, runs in empty.items():
        first = best(runs, lambda run: run["first"])["first"]
        each = best(runs, lambda run: run["each"])["each"]
        rows.append([name, str(options.workers), str(options.empty), f"{first:.1f}", f"{each * 1000:.0f}"])
    header = ["executor", "workers", "empty stages", "until the first had ended, s", "each further one, ms"]
    print(record.table("empty", header, rows))


if __name__ == "__main__":
    main()
