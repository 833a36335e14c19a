"""Results of a search: its trials as a table, and the best of them as a configuration."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from catwalk.errors import CatwalkError
from catwalk.files.atomic import write_text
from catwalk.files.csv_text import to_cell
from catwalk.tuning.training import FAILURE, SearchedTraining

TRIALS_FILE, BEST_FILE = "trials.csv", "best.yaml"
SHOWN_TRIALS = 5


@dataclass(frozen=True)
class Results:
    """The trials of a search that have ended.

    Attributes:
        study: They.
        training: What they trained.
        paths: What was searched.
        monitor: By which metric they are compared.
        name: Name of the search.
        folder: Its folder.
    """

    study: optuna.Study
    training: SearchedTraining
    paths: list[str]
    monitor: str
    name: str
    folder: Path

    def ranked(self) -> list[FrozenTrial]:
        """Return the completed trials, the best first and the earlier of equals."""
        sign = -1 if self.study.direction == StudyDirection.MAXIMIZE else 1
        completed = self.study.get_trials(states=(TrialState.COMPLETE,))
        return sorted(completed, key=lambda trial: sign * trial.value)  # type: ignore[operator]

    def best_epoch(self, trial: FrozenTrial) -> tuple[int | None, float | None]:
        """Return the first epoch, from 1, with a trial's best metric, and the metric; Nones where there is none."""
        values = trial.intermediate_values
        if not values:
            return None, None
        best = max if self.study.direction == StudyDirection.MAXIMIZE else min
        epoch = best(sorted(values), key=values.__getitem__)
        return epoch, values[epoch]

    def _last_failure(self) -> str:
        """Return why the last trial failed that did, as the end of a sentence."""
        failures = [trial.user_attrs[FAILURE] for trial in self.study.get_trials() if FAILURE in trial.user_attrs]
        return f" (the last failure: {failures[-1]})" if failures else ""

    def write(self) -> None:
        """Write ``trials.csv``, and ``best.yaml`` where a trial has been completed."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["number", self.monitor, *self.paths, "best_epoch", "epochs", "seconds", "state"])
        for trial in self.study.get_trials():
            epoch, value = self.best_epoch(trial)
            parameters = [trial.params[path] for path in self.paths]
            end = [epoch, trial.last_step, trial.user_attrs["seconds"], trial.state.name.lower()]
            writer.writerow([trial.number, value, *map(to_cell, parameters), *end])
        write_text(self.folder / TRIALS_FILE, text.getvalue())
        for best in self.ranked()[:1]:
            epoch, value = self.best_epoch(best)
            content = {
                "seed_everything": self.training.seed,
                **self.training.configuration(best.params),
                "trainer": {**self.training.trainer, "max_epochs": epoch},
            }
            title = f"# Search {self.name}: trial {best.number}, {self.monitor} {value:.4f} in epoch {epoch}."
            write_text(self.folder / BEST_FILE, f"{title}\n{yaml.safe_dump(content, sort_keys=False)}")

    def news(self, number: int) -> tuple[str, str, float]:
        """Return a trial, how it ended beside the best so far, and its seconds."""
        trial = self.study.get_trials()[number]
        epoch, value = self.best_epoch(trial)
        failure = trial.user_attrs.get(FAILURE)
        outcome = ("no metric" if failure is None else "failed") if value is None else f"{value:.4f} in epoch {epoch}"
        if failure is not None:
            outcome += f" ({failure})"
        if trial.state == TrialState.PRUNED:
            outcome += f", pruned after {trial.last_step}"
        ranked = self.ranked()
        if ranked:
            outcome += f", best {ranked[0].value:.4f} (trial {ranked[0].number})"
        return f"trial {number}: {_listed(trial.params)}", outcome, trial.user_attrs["seconds"]

    def show(self, console: Console) -> None:
        """Print the best trials, and where everything is.

        Raises:
            CatwalkError: If no trial has been completed.
        """
        ranked = self.ranked()
        if not ranked:
            raise CatwalkError(
                f"{self.name}: no trial has been completed with a finite {self.monitor}; give it more time, or narrow "
                f"the ranges of the search{self._last_failure()}"
            )
        table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
        for heading in ["Trial", *map(_short, self.paths), self.monitor, "Epoch", "Seconds"]:
            table.add_column(escape(heading), justify="right", overflow="fold")
        for trial in ranked[:SHOWN_TRIALS]:
            epoch, value = self.best_epoch(trial)
            parameters = [_text(trial.params[path]) for path in self.paths]
            end = [f"{value:.4f}", str(epoch), f"{trial.user_attrs['seconds']:.1f}"]
            table.add_row(str(trial.number), *map(escape, parameters), *end)
        console.print(f"\nBest of {len(self.study.get_trials())} trials", style="bold", highlight=False)
        console.print(table)
        console.print(
            f"All trials are in {self.folder / TRIALS_FILE}. With the best settings, on all but the test items:\n"
            f"catwalk fit --config {self.folder / BEST_FILE}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _short(path: str) -> str:
    """Return a path without the section that it begins with."""
    return path.partition(".")[2]


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _listed(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{_short(path)} {_text(value)}" for path, value in parameters.items())
