"""A study on a W&B dashboard: one run for each cell and one with the tables, all of one group."""

import csv
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from callbacks.wandb_loggers import files_with_run
from catwalk import __version__
from catwalk.errors import CatwalkError
from catwalk.files.csv_text import from_cell
from catwalk.study.cells import SETTINGS, Cell
from catwalk.study.stages.classifier import ClassifierStage
from catwalk.study.stages.features import FeaturesStage
from catwalk.study.stages.perceptual import PerceptualStage
from catwalk.study.stages.stage import Stage
from catwalk.terminal.progress import Progress

if TYPE_CHECKING:
    import wandb  # otherwise imported by those functions that are called when it is wanted

WandbMode = Literal["offline", "online"]

PROJECT = "catwalk"
"""W&B's project, unless ``WANDB_PROJECT`` names another."""

SHOWN_ITEMS = 8
"""Items in a gallery."""

COMPLETE = "complete"
"""A file in a run's folder that says that the run has been written to its end."""


@dataclass(frozen=True)
class CellRun:
    """A cell and what it is made of.

    Attributes:
        study: Name of the study.
        cell: What it is and what was measured.
        top_k: K of the study.
        stages: Its stages.
        has_protocol: Whether the study has several protocols, so that the name says which.
    """

    study: str
    cell: Cell
    top_k: int
    stages: list[Stage]
    has_protocol: bool = False

    @property
    def name(self) -> str:
        """What people call it."""
        scenario = "evasion" if self.cell.scenario == "evasion" else None
        protocol = self.cell.protocol if self.has_protocol else None
        names = [protocol, self.cell.extractor, self.cell.attack, scenario, self.cell.recommender]
        seed = None if self.cell.seed is None else f"seed {self.cell.seed}"
        return " · ".join(filter(None, [*names, seed]))

    @property
    def config(self) -> dict[str, Any]:
        """Its settings, to filter and group by, and all that its stages depend on."""
        stages = {stage.kind: {"key": stage.stored.key, **stage.settings} for stage in self.stages}
        named = {column: getattr(self.cell, column) for column in SETTINGS}
        return {"study": self.study, **named, "stages": stages, "catwalk": __version__}

    @property
    def summary(self) -> dict[str, Any]:
        """What was measured, to sort by."""
        row = self.cell.row(self.top_k)
        return {name: value for name, value in row.items() if name not in SETTINGS and value is not None}

    @cached_property
    def id(self) -> str:
        """Made from all that decides about the metrics, so that a cell which is the same is the same run."""
        return _run_id(
            self.study, [getattr(self.cell, column) for column in SETTINGS], [stage.key for stage in self.stages]
        )


def require_login() -> None:
    """Ask for W&B's account before anything long begins.

    Raises:
        CatwalkError: If there is none.
    """
    import wandb

    try:
        wandb.login()
    except wandb.Error as error:
        raise CatwalkError(f"wandb: online needs an account; {error} (offline needs none)") from error


def write_runs(
    cells: Sequence[CellRun],
    folder: Path,
    tables: Sequence[str],
    mode: WandbMode,
    artifacts: bool,
    console: Console,
) -> None:
    """Write those runs of a study that are not there yet, under ``wandb`` beside the study's folder.

    Args:
        cells: All cells, at least one.
        folder: The study's folder, complete.
        tables: Names of those of its CSV files that are to be tables on the dashboard.
        mode: ``offline`` writes files only, for ``wandb sync``; ``online`` sends them.
        artifacts: Whether to add the study's files, its classifiers and their features as artifacts.
        console: Where to say what was done.

    Raises:
        CatwalkError: If W&B refuses.
    """
    if os.environ.get("WANDB_MODE") == "disabled":
        return
    os.environ["WANDB_MODE"] = mode  # W&B's own telemetry heeds nothing else, and would look for its server
    import wandb

    group = cells[0].study
    study_id = _run_id(group, [cell.id for cell in cells], artifacts, "galleries")
    output = folder.parent.resolve()  # W&B's service would take a relative path to begin where it was started
    written = {path.parent.name.rsplit("-", 1)[-1] for path in output.glob(f"wandb/{_kind(mode)}-*/{COMPLETE}")}
    waiting = [cell for cell in cells if cell.id not in written]
    is_new = study_id not in written
    start = _Starter(output, mode, group)
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            for cell in bar.track(waiting, description="Writing W&B's runs"):
                run = start(cell.id, cell.name, "cell", cell.config)
                run.summary.update(cell.summary)
                _finish(run)
            if is_new:
                manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
                run = start(study_id, group, "study", {"study": group, "manifest": manifest})
                with files_with_run(run):
                    run.log({name: _table(folder / f"{name}.csv") for name in tables})
                    _log_galleries(run, cells)
                    if artifacts:
                        _add_artifacts(run, cells, folder)
                _finish(run)
    except wandb.Error as error:
        raise CatwalkError(f"wandb: {error} (the study itself is complete in {folder})") from error
    added, all_runs = len(waiting) + is_new, len(cells) + 1
    sent = f"`wandb sync {output / 'wandb'}/offline-run-*` sends them" if mode == "offline" else "sent"
    console.print(
        f"W&B: group {group}, {added} runs written, {all_runs - added} were there; {sent}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@dataclass(frozen=True)
class _Starter:
    """Starts the runs of a group."""

    output: Path
    mode: WandbMode
    group: str

    def __call__(self, run_id: str, name: str, job_type: str, config: dict[str, Any]) -> "wandb.Run":
        import wandb

        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=self.output,
            id=run_id,
            resume="allow",
            name=name,
            group=self.group,
            job_type=job_type,
            config=config,
            mode=self.mode,
            reinit="create_new",
            # There is nothing to watch: the run takes a moment, and what it tells of happened before.
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, x_disable_stats=True, x_save_requirements=False
            ),
        )


def _finish(run: "wandb.Run") -> None:
    """End a run, and say so in its folder."""
    run.finish()
    Path(run.settings.sync_dir, COMPLETE).touch()


def _add_artifacts(run: "wandb.Run", cells: Sequence[CellRun], folder: Path) -> None:
    """Add the study's files, the classifiers and their features; not copied, for they do not change."""
    import wandb

    study = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"study-{run.group}", flags=re.ASCII), "study")
    study.add_dir(str(folder))
    run.log_artifact(study)
    stages = {stage.key: stage for cell in cells for stage in cell.stages}
    for key, stage in stages.items():
        if isinstance(stage, ClassifierStage | FeaturesStage):
            artifact = wandb.Artifact(f"{stage.kind}-{key}", stage.kind, stage.description, stage.settings)
            artifact.add_dir(str(stage.folder.resolve()), policy="immutable")
            run.log_artifact(artifact)


def _log_galleries(run: "wandb.Run", cells: Sequence[CellRun]) -> None:
    """Log images before and after each attack on each network as ``gallery/NETWORK/ATTACK``.

    Where an attack knows the recommender, there are several of the same name, and the first is shown.
    """
    import wandb

    from catwalk.plots.gallery import draw_gallery
    from catwalk.plots.gallery_items import gallery_items
    from catwalk.plots.style import save

    looks = {stage.attack.key: stage for cell in cells for stage in cell.stages if isinstance(stage, PerceptualStage)}
    by_name: dict[str, PerceptualStage] = {}
    for stage in looks.values():
        names = (stage.attack.features.classifier.name, stage.attack.name)
        by_name.setdefault("/".join(["gallery", *(re.sub(r"[^\w .()=&·×ε-]", "-", name) for name in names)]), stage)
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, stage) in enumerate(by_name.items()):
            attack, path = stage.attack, Path(folder, f"{number}.png")
            items = gallery_items(attack.folder, attack.features.shop.catalogue, SHOWN_ITEMS, measured=stage.folder)
            title = f"{attack.description}: {attack.outcome}"
            save(draw_gallery(items, title), path)
            run.log({name: wandb.Image(str(path), caption=title)})


def _table(path: Path) -> "wandb.Table":
    """Return a CSV file as a table, its numbers as numbers."""
    import wandb

    with path.open(newline="", encoding="utf-8") as file:
        columns, *rows = ([from_cell(text) for text in row] for row in csv.reader(file))
    values = [_numbers(column) for column in zip(*rows, strict=True)]
    named: list[str | int] = [*columns]
    return wandb.Table(columns=named, data=[list(row) for row in zip(*values, strict=True)])


def _numbers(column: Sequence[str]) -> list[Any]:
    """Return a column as numbers where all of it is, None where it is empty."""
    for kind in (int, float):
        try:
            return [kind(value) if value else None for value in column]
        except ValueError:
            continue
    return list(column)


def _kind(mode: WandbMode) -> str:
    """Return how the folders of W&B's runs begin."""
    return "offline-run" if mode == "offline" else "run"


def _run_id(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
